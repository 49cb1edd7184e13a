"""Times one call of a module beside the same call after `accelerate`: denoiser, U-Net, extractor and decoder.

    python benchmarks/drop_in.py --batch 1 32 --csv drop_in.csv
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from denoiser import positive, seconds_per_call
from machine import FACTS, facts
from results_csv import append_csv, parse_with_csv
from tasks import ERROR_LIMIT, WrongAnswer, check
from torch import Tensor, nn
from tqdm import tqdm

from ecgtwin_fast import accelerate
from ecgtwin_fast.engine.cpu_support import precision_reasons

HELP = """\
Times one call of a module of the published size beside the same call after ecgtwin_fast.accelerate, in turns: a step of
the denoiser (8 statements a record), a step of DiffuSETS's U-Net, base vectors, decoding. bfloat16 of the original is
autocast. Conditions are the same objects in every call, as in a sampling loop.

First every answer is checked: float32 within 1e-5 of the original (relative L2 error), bfloat16 within twice autocast's
error against float64. A wrong answer ends the run, status 1. ratio: median over rounds of the time of the original in
float32 by this one's.
"""
COLUMNS = ("what", "contestant", "batch", "rounds", "error", "p20_ms", "p50_ms", "p80_ms", "ratio")
STATEMENTS = 8
TITLES = {"dit": "denoiser", "unet": "U-Net", "ibe": "extractor", "dec": "decoder"}
DTYPES = (torch.float32, torch.bfloat16)


class Contestant(NamedTuple):
    name: str
    dtype: torch.dtype
    call: Callable[[], Tensor]


def arguments(name: str, batch: int) -> tuple:
    """Of one call; each record has a report, a patient and a base vector of its own."""
    from golden_data import inp

    x, t = inp("accelerate x", (batch, 4, 128)), torch.full((batch,), 500)
    text, patient = inp("accelerate text", (batch, STATEMENTS, 768), normalised=True), inp("accelerate p", (batch, 3))
    if name == "dec":
        return (x,)
    if name == "ibe":
        return x.transpose(1, 2).contiguous(), text, None, patient
    if name == "dit":
        return x, t, text, None, patient, inp("accelerate base", (batch, 256))
    numbers = {"gender": 1.0, "age": 61.0, "heart rate": 80.0}
    condition = {key: torch.full((batch, 1, 1), value) for key, value in numbers.items()}
    return x, t, inp("accelerate prompt", (batch, 1, 1536), normalised=True), condition


def doubled(value):
    if isinstance(value, dict):
        return {key: doubled(entry) for key, entry in value.items()}
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def function(module: nn.Module, name: str) -> Callable:
    return module.extract_features if name == "ibe" else module


def contestants(name: str, module: nn.Module, given: tuple) -> list[Contestant]:
    def cast() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return function(module, name)(*given)

    made = [Contestant("original float32", DTYPES[0], lambda: function(module, name)(*given))]
    made.append(Contestant("original bfloat16", DTYPES[1], cast))
    for dtype in DTYPES:
        if not precision_reasons(dtype):
            fast = accelerate(copy.deepcopy(module), backend="cpu", dtype=dtype)
            label = f"accelerated {str(dtype).removeprefix('torch.')}"
            made.append(Contestant(label, dtype, lambda fast=fast: function(fast, name)(*given)))
    return made


def errors(name: str, module: nn.Module, given: tuple, entered: list[Contestant]) -> dict[str, float]:
    """Of each contestant, against the original in its precision or in float64; WrongAnswer beyond the limit."""
    from golden_data import relative_error

    exact = function(copy.deepcopy(module).double(), name)(*map(doubled, given))
    single, half = (contestant.call() for contestant in entered[:2])
    limit = {torch.float32: ERROR_LIMIT, torch.bfloat16: 2 * relative_error(half.float(), exact)}
    found = {}
    for contestant in entered:
        standard = single if contestant.dtype == torch.float32 else exact
        found[contestant.name] = relative_error(contestant.call().float(), standard)
        check(f"{TITLES[name]}, {contestant.name}", found[contestant.name], limit[contestant.dtype])
    return found


@torch.no_grad()
def measured(name: str, module: nn.Module, batch: int, rounds: int, bar: tqdm) -> list[dict[str, object]]:
    given = arguments(name, batch)
    entered = contestants(name, module, given)
    error = errors(name, module, given, entered)
    seconds = {contestant.name: [] for contestant in entered}
    for _ in range(rounds):
        for contestant in entered:
            bar.set_description(f"{TITLES[name]}, batch {batch}, {contestant.name}")
            seconds[contestant.name].append(seconds_per_call(contestant.call))
        bar.update()
    rows = []
    for label, times in seconds.items():
        p20, p50, p80 = np.quantile(1e3 * np.array(times), [0.2, 0.5, 0.8])
        ratio = float(np.median(np.array(seconds["original float32"]) / times))
        row = {"what": TITLES[name], "contestant": label, "batch": batch, "rounds": rounds, "error": error[label]}
        rows.append(row | {"p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "ratio": ratio})
    return rows


def shown(row: dict[str, object]) -> str:
    return (
        f"{row['what']:<10} batch {row['batch']:>3}  {row['contestant']:<21} {row['p50_ms']:8.2f} ms  "
        f"(p20 {row['p20_ms']:.2f}, p80 {row['p80_ms']:.2f})  x {row['ratio']:.2f}  error {row['error']:.1e}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    many = {"type": positive, "metavar": "N"}
    parser.add_argument("--batch", nargs="+", default=[1, 32], help="records at a time (default 1 32)", **many)
    parser.add_argument("--rounds", default=9, help="in which each contestant runs once (default 9)", **many)
    parser.add_argument("--what", nargs="+", choices=list(TITLES), default=list(TITLES), help="networks (default all)")
    given = parse_with_csv(parser, COLUMNS + FACTS)
    from golden_networks import load

    known = facts("cpu")
    print(", ".join(f"{name} {value}" for name, value in known.items()))
    with tqdm(total=len(given.batch) * len(given.what) * given.rounds, disable=None) as bar:
        for name in given.what:
            # Trainable, as after loading: for others autocast forgets what it has cast, and takes twice as long.
            module = load(name).requires_grad_()
            for batch in given.batch:
                try:
                    rows = measured(name, module, batch, given.rounds, bar)
                except WrongAnswer as error:
                    print(f"error: {error}", file=sys.stderr)
                    return 1
                tqdm.write("\n".join(map(shown, rows)))
                if given.csv:
                    append_csv(given.csv, COLUMNS + FACTS, [row | known for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
