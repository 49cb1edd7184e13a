"""Arguments that several commands take, and what shows their progress."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SAMPLERS = ("sde-dpmpp", "dpmpp", "ddim", "ddpm")
"""The default first."""


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """A whole number from low to high; the error of another one names the limits."""
    limits = f"at least {low}" if high is None else f"{low}..{high}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, expected {limits}") from None
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{value} is out of range, expected {limits}")
        return value

    return parse


def condition_options(parser: argparse.ArgumentParser) -> None:
    """--heart-rate, --age and --sex of a twin."""
    own = "(default: the reference's)"
    parser.add_argument("--heart-rate", type=float, metavar="BPM", help=f"20..300 {own}")
    parser.add_argument("--age", type=float, metavar="YEARS", help=f"0..120 {own}")
    parser.add_argument("--sex", choices=("F", "M"), help=own)


def sampling_options(parser: argparse.ArgumentParser, count: int) -> None:
    """Where twins go, how many, `count` by default, and how they are sampled."""
    default = "(default %(default)s)"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the twins")
    parser.add_argument("--count", type=integer(1), default=count, metavar="N", help=f"number of twins {default}")
    parser.add_argument("--model", default="bundled", help=f"bundled, a model directory or a hub id {default}")
    parser.add_argument("--sampler", choices=SAMPLERS, default=SAMPLERS[0], help=default)
    parser.add_argument("--steps", type=integer(1, 1000), default=25, metavar="N", help=f"1..1000 {default}")
    parser.add_argument(
        "--seed", type=integer(0, 2**64 - 1), default=0, metavar="N", help=f"same seed, same twins {default}"
    )
    parser.add_argument(
        "--first-index", type=integer(0, 2**62), default=0, metavar="N",
        help=f"number of the first twin: 8 goes on after a run of 8 {default}",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=integer(1), default=32, metavar="N", help=f"twins at a time {default}")
    parser.add_argument("--backend", default="auto", help=f"auto takes the fastest that can run {default}")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32",
        help=f"of the networks' arithmetic; bfloat16 is about twice as fast where the CPU has it {default}",
    )  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")


@contextmanager
def sampling(given: argparse.Namespace) -> Iterator[dict]:
    """The keyword arguments of `ECGTwin.sample` and `edit` that were given, and progress in a bar."""
    import torch
    from tqdm import tqdm

    with tqdm(desc="sampling", unit="step") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        names = ("count", "sampler", "steps", "seed", "first_index", "batch_size", "backend")
        yield {name: getattr(given, name) for name in names} | {
            "dtype": getattr(torch, given.dtype),
            "progress": progress,
        }
