"""Times whole reverse diffusions and decodings beside PyTorch's own: eager, under autocast, and compiled.

    python benchmarks/denoiser.py --batch 1 8 32 --steps 20 --csv denoiser.csv
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from machine import FACTS, GPUPeak, Peak, facts
from results_csv import append_csv, parse_with_csv
from tasks import SINGLE, Contestant, Decoding, Denoising, Task, WrongAnswer, verify_all
from torch import Tensor, nn
from tqdm import tqdm

from ecgtwin_fast.engine.cpu_support import precision_reasons
from ecgtwin_fast.errors import ConditionError, ECGTwinError
from ecgtwin_fast.models.ecgtwin import DiT
from ecgtwin_fast.pretrained import find_model, read_model

SHORTEST_SECONDS = 0.1
OURS = {
    "cpu": [("cpu", torch.float32), ("cpu", torch.bfloat16)],
    "cuda": [
        ("triton", torch.float32), ("triton", torch.bfloat16), ("cuda", torch.bfloat16),
        ("graph", torch.float32), ("graph", torch.bfloat16),
    ],
}  # fmt: skip
"""The backends that are timed, by device."""
MODES = {"compile": None, "autotune": "max-autotune"}
"""Of torch.compile."""
COLUMNS = (
    *("what", "contestant", "weights", "batch", "steps", "tokens", "rounds", "p20_ms", "p50_ms", "p80_ms"),
    *("records_per_s", "records_per_s_25", "records_per_s_1000", "gflop_per_s"),
    *("peak", "peak_gflop_per_s", "percent_of_peak", "ratio_eager", "ratio_best_peer"),
)


def seconds_per_call(call: Callable[[], Tensor]) -> float:
    calls, began = 0, time.perf_counter()
    while True:
        if call().is_cuda:
            torch.cuda.synchronize()
        calls += 1
        elapsed = time.perf_counter() - began
        if elapsed >= SHORTEST_SECONDS:
            return elapsed / calls


class Times(NamedTuple):
    """Seconds of a unit of work of each contestant in each round, and the median of the peaks, in GFLOP/s."""

    seconds: dict[Contestant, np.ndarray]
    peak: float | None


def measure(task: Task, networks: dict[Contestant, nn.Module], rounds: int, peak: Peak | GPUPeak, bar: tqdm) -> Times:
    """Each contestant in turn, and the peak, in every round."""
    seconds: dict[Contestant, list[float]] = {contestant: [] for contestant in networks}
    peaks = []
    for _ in range(rounds):
        for contestant, network in networks.items():
            bar.set_description(f"{task.what}, batch {task.batch}, timing {contestant.name}")
            taken = seconds_per_call(lambda c=contestant, n=network: task.run(n, c.backend, c.dtype))
            seconds[contestant].append(taken / task.units)
            bar.update()
        peaks.append(peak.measure())
    median = None if peak.kind is None else float(np.median(peaks))
    return Times({contestant: np.array(values) for contestant, values in seconds.items()}, median)


def rows_of(task: Task, times: Times, peak_kind: str | None) -> list[dict[str, object]]:
    """The figures of each contestant. Ratios are medians over rounds of another's time by its own."""
    best = min((c for c in times.seconds if c.kind != "ours"), key=lambda c: np.median(times.seconds[c]))
    rows = []
    for contestant, seconds in times.seconds.items():
        p20, p50, p80 = np.quantile(1e3 * seconds, [0.2, 0.5, 0.8])
        rate = 1e-6 * task.flop * task.batch / p50
        row = {"what": task.what, "contestant": contestant.name, "batch": task.batch}
        row |= {"p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "gflop_per_s": rate}
        row |= {"peak": peak_kind, "peak_gflop_per_s": times.peak}
        row["percent_of_peak"] = 100 * rate / times.peak if peak_kind == "bfloat16" else None
        row["ratio_eager"] = np.median(times.seconds[SINGLE] / seconds)
        row["ratio_best_peer"] = np.median(times.seconds[best] / seconds)
        rows.append(row)
    return rows


def add_throughput(denoiser: dict[str, object], decoder: dict[str, object]) -> None:
    """Records a second, decoded by the contestant's own decoder."""
    batch = denoiser["batch"]
    decoder["records_per_s"] = 1e3 * batch / decoder["p50_ms"]
    for steps in (25, 1000):
        denoiser[f"records_per_s_{steps}"] = 1e3 * batch / (steps * denoiser["p50_ms"] + decoder["p50_ms"])


def table(rows: list[dict[str, object]]) -> str:
    """One task's rows as text, at most 120 columns wide."""
    first = rows[0]
    title = f"{first['what']}, batch {first['batch']}"
    if "steps" in first:
        title += f", {first['steps']} steps, {first['tokens']} statements each"
    if first["peak"]:
        title += f"; peak {first['peak_gflop_per_s']:.0f} GFLOP/s in {first['peak']}"
    heads = {"p50_ms": "ms a step" if "steps" in first else "ms", "p20_ms": "p20", "p80_ms": "p80"}
    heads |= {"gflop_per_s": "GFLOP/s", "percent_of_peak": "% of peak"}
    heads |= {"ratio_eager": "x eager", "ratio_best_peer": "x best peer"}
    rates = {"records_per_s": "rec/s", "records_per_s_25": "rec/s at 25", "records_per_s_1000": "at 1000"}
    heads |= {column: head for column, head in rates.items() if column in first}
    lines = [title, " " * 17 + "".join(f"  {head:>8}" for head in heads.values())]
    for row in rows:
        cells = (f"  {_shown(row[column]):>{max(8, len(head))}}" for column, head in heads.items())
        lines.append(f"{row['contestant']:<17}" + "".join(cells))
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.{2 if value < 100 else 1 if value < 1000 else 0}f}"


HELP = """\
Times whole reverse diffusions (generate_latents with sampler ddim) and decodings of latents into ECGs, in turns:

  eager    the networks in plain PyTorch, as published; bfloat16 means under autocast
  compile  the same through torch.compile, for each batch size by itself
  autotune on a GPU, the same with mode "max-autotune", which uses CUDA graphs
  ours     this package's backend "cpu"; on a GPU "triton", "cuda" and "graph", shown by their names, all three with
           the decoder of "graph"

First each contestant's answer is checked, on the weights and the batch that are timed. float32: relative L2 error
against eager at most 1e-5 for the predicted noise at three timesteps and for the signals, and for ours at most 1e-4
after 25 steps. bfloat16: error against float64 at most twice that of autocast. A wrong answer ends the run, status 1.
"""
EPILOG = """\
how to read the table
  ms a step     median over rounds of a whole call by its steps, so with all that a call costs; p20 and p80 beside it
  GFLOP/s       products of the published operations: 1.76 GFLOP a record and step at the published size, 8.7 GFLOP a
                decoded record, counted as direct convolutions. An algorithm that needs fewer counts no less.
  % of peak     of bfloat16 products, measured between the rounds: on a CPU with all operands in registers on all
                threads by peak.cpp, empty without AVX512_BF16 or without a C++ compiler (CXX, default c++); on a GPU of
                square matrices, 8192 wide, by torch.matmul
  x eager       median over rounds of eager float32's time by this contestant's: above 1 is faster
  x best peer   the same against the fastest that is not ours
  rec/s         records a second: 25 or 1000 steps at that ms a step, and decoding by the contestant's own decoder

On a CPU all use torch.get_num_threads() threads; OMP_NUM_THREADS sets it. The first run also waits for torch.compile,
some minutes; later ones find its cache. On a busy machine trust ratios more than times, and take more rounds.

examples
  python benchmarks/denoiser.py                                      published size, drawn weights, no download
  python benchmarks/denoiser.py --weights bundled --no-compile       the bundled model, without torch.compile
  python benchmarks/denoiser.py --batch 32 --rounds 21 --csv a.csv   one batch size, steadier, rows appended to a.csv
"""


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=HELP, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=list(OURS), default="cpu")
    many = {"type": positive, "metavar": "N"}
    parser.add_argument("--batch", nargs="+", default=[1, 8, 32], help="records at a time (default 1 8 32)", **many)
    parser.add_argument("--steps", default=20, help="steps of a timed call, 1..1000 (default 20)", **many)
    parser.add_argument("--tokens", default=8, help="statements of each record's own report (default 8)", **many)
    parser.add_argument("--rounds", default=7, help="in which each contestant runs once (default 7)", **many)
    parser.add_argument(
        "--weights", default="random", metavar="MODEL",
        help="random (published size), bundled, a model directory or a hub id (default random)",
    )  # fmt: skip
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    given = parse_with_csv(parser, COLUMNS + FACTS)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device")
    return given


def networks_of(weights: str) -> tuple[DiT, nn.Module]:
    """Denoiser and decoder, their weights trainable, as they are after loading: for others autocast forgets what it has
    cast, and takes twice as long at larger batches."""
    if weights == "random":
        from golden_networks import load

        return load("dit").requires_grad_(), load("dec").requires_grad_()
    _, networks, _ = read_model(find_model(weights))
    return networks["denoiser"].requires_grad_(), networks["decoder"].requires_grad_()


def contestants(device: str, with_compile: bool) -> list[Contestant]:
    """Max-autotune in bfloat16 alone: the fastest that PyTorch has, and minutes to find."""
    dtypes = (torch.float32, torch.bfloat16)
    chosen = [Contestant(kind, d) for kind in ("eager", "compile")[: 1 + with_compile] for d in dtypes]
    if with_compile and device == "cuda":
        chosen.append(Contestant("autotune", torch.bfloat16))
    chosen += [Contestant("ours", dtype, backend) for backend, dtype in OURS[device]]
    reasons = precision_reasons(torch.bfloat16) if device == "cpu" else []
    if reasons:
        print(f"ours bfloat16 is left out: {'; '.join(reasons)}")
        chosen.pop()
    return chosen


def figures(
    task: Task, entered: list[Contestant], rounds: int, peak: Peak | GPUPeak, bar: tqdm
) -> list[dict[str, object]]:
    """Verified and measured: a row for each contestant."""
    compiled = {kind: torch.compile(task.network, dynamic=False, mode=mode) for kind, mode in MODES.items()}
    networks = {contestant: compiled.get(contestant.kind, task.network) for contestant in entered}
    verify_all(task, networks, bar)
    rows = rows_of(task, measure(task, networks, rounds, peak, bar), peak.kind)
    torch.compiler.reset()
    return rows


def contest(given: argparse.Namespace, folder: Path) -> None:
    denoiser, decoder = (network.to(given.device) for network in networks_of(given.weights))
    # Convolutions of the float32 contestants in float32, as on a CPU; products of matrices are by default.
    torch.backends.cudnn.allow_tf32 = False
    most = denoiser.c_pos_embed.pos_encoding.shape[1]
    if given.tokens > most:
        raise ConditionError(f"--tokens is {given.tokens}, but this model takes {most} statements at most")
    entered, known = contestants(given.device, not given.no_compile), facts(given.device)
    peak = GPUPeak() if given.device == "cuda" else Peak(folder, torch.get_num_threads())
    print(", ".join(f"{name} {value}" for name, value in known.items()))
    if peak.reason:
        print(f"the percentage of the bfloat16 peak is left out: {peak.reason}")
    with tqdm(total=2 * len(given.batch) * len(entered) * (1 + given.rounds), disable=None) as bar:
        for batch in given.batch:
            denoising = Denoising(denoiser, batch, given.steps, given.tokens)
            decoding = Decoding(decoder, batch, denoiser.channels, denoiser.length)
            steps, decodings = (figures(task, entered, given.rounds, peak, bar) for task in (denoising, decoding))
            for step, decoded in zip(steps, decodings, strict=True):
                step |= {"steps": given.steps, "tokens": given.tokens}
                add_throughput(step, decoded)
            tqdm.write(f"\n{table(steps)}\n{table(decodings)}")
            if given.csv:
                common = {"weights": given.weights, "rounds": given.rounds} | known
                append_csv(given.csv, COLUMNS + FACTS, [row | common for row in steps + decodings])


def main() -> int:
    given = parse()
    try:
        with tempfile.TemporaryDirectory() as folder:
            contest(given, Path(folder))
    except (ECGTwinError, WrongAnswer) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
