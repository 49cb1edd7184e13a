"""Times every operator beside its reference in eager mode and under torch.compile, in turns, at the denoiser's size.

    python benchmarks/operators.py --batch 1 8 32 --dtype float32 bfloat16 --csv operators.csv

Each case is verified first, against the reference in its dtype and in float64; a wrong answer gets no time. The
ratios are medians over rounds in which all contenders ran one after the other: above 1, the compiled kernel is faster.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import FACTS, ROOT, facts
from torch import Tensor

sys.path.insert(0, str(ROOT / "python_tests"))

import test_ops_group_norm_silu  # noqa: E402
import test_ops_modulated_norm  # noqa: E402
import test_ops_multihead_attention  # noqa: E402
import test_ops_rope_embed  # noqa: E402
import test_ops_sampler_step  # noqa: E402
import test_ops_tanh_gelu  # noqa: E402
from operator_checks import as_tuple, check_twice, compiled_operator, converted, rounded  # noqa: E402

from ecgtwin_fast import extension  # noqa: E402
from ecgtwin_fast.ops import OPERATORS  # noqa: E402
from ecgtwin_fast.ops.operator import Operator  # noqa: E402

LENGTH, WIDTH, CHANNELS, HEADS, GROUPS = 128, 256, 4, 8, 32
INPUTS: dict[str, Callable[[int], list]] = {
    "modulated_layer_norm": lambda batch: test_ops_modulated_norm.inputs(
        OPERATORS["modulated_layer_norm"], batch, LENGTH, WIDTH
    ),
    "gated_residual": lambda batch: test_ops_modulated_norm.inputs(OPERATORS["gated_residual"], batch, LENGTH, WIDTH),
    "multihead_attention": lambda batch: test_ops_multihead_attention.inputs(
        batch, LENGTH, LENGTH, HEADS, WIDTH // HEADS
    ),
    "tanh_gelu": lambda batch: test_ops_tanh_gelu.inputs(batch, LENGTH, 4 * WIDTH),
    "group_norm_silu": lambda batch: test_ops_group_norm_silu.inputs(batch, WIDTH, 4 * LENGTH, GROUPS),
    "rope_embed": lambda batch: test_ops_rope_embed.inputs(batch, CHANNELS, LENGTH, WIDTH),
    "sampler_step": lambda batch: test_ops_sampler_step.inputs("ddpm", (batch, CHANNELS, LENGTH)),
}
COLUMNS = ("operator", "mode", "dtype", "batch", "contender", "p20_us", "p50_us", "p80_us", "ratio_p50")


def on(device: str, values: list) -> list:
    return [value.to(device) if isinstance(value, Tensor) else value for value in values]


def verify(operator: Operator, inputs: list, dtype: torch.dtype, device: str) -> None:
    """Raises AssertionError where the kernel's answer is wrong."""
    given, tolerance = on(device, converted(inputs, dtype)), operator.tolerances[dtype]
    answers = (compiled_operator(operator)(*given), operator.reference(*given))
    exact = as_tuple(operator.reference(*on(device, rounded(inputs, dtype))))
    for actual, own, true in zip(*map(as_tuple, answers), exact, strict=True):
        torch.testing.assert_close(actual, own, rtol=tolerance.rtol, atol=tolerance.atol)
        check_twice(actual, own, true, operator.name)


def contenders(operator: Operator, given: list, train: bool, with_compile: bool) -> dict[str, Callable[[], object]]:
    functions = {"kernel": compiled_operator(operator), "eager": operator.reference}
    if with_compile:
        functions["compile"] = torch.compile(operator.reference, dynamic=False)
    if not train:
        return {name: lambda f=f: f(*given) for name, f in functions.items()}
    leaves = [value.requires_grad_() for value in given if isinstance(value, Tensor)]

    def step(function: Callable) -> None:
        outputs = as_tuple(function(*given))
        torch.autograd.grad(outputs, leaves, outputs)

    return {name: lambda f=f: step(f) for name, f in functions.items()}


def seconds_per_call(function: Callable[[], object], calls: int, device: str) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        function()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / calls


def measure(functions: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds per call of each contender in each round; a round takes each in turn, too briefly to be
    interrupted often on a busy machine (about 3 ms)."""
    calls = {}
    for name, function in functions.items():
        seconds_per_call(function, 3, device)
        calls[name] = max(1, int(0.003 / seconds_per_call(function, 3, device)))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds_per_call(function, calls[name], device))
    return times


def rows_of(times: dict[str, list[float]]) -> list[dict[str, object]]:
    rows = []
    for name, seconds in times.items():
        tenths = statistics.quantiles(seconds, n=10)
        ratio = statistics.median(t / kernel for t, kernel in zip(seconds, times["kernel"], strict=True))
        values = (tenths[1], statistics.median(seconds), tenths[7])
        p20, p50, p80 = (f"{1e6 * value:.1f}" for value in values)
        rows.append({"contender": name, "p20_us": p20, "p50_us": p50, "p80_us": p80, "ratio_p50": f"{ratio:.2f}"})
    return rows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operator", nargs="+", choices=sorted(INPUTS), default=list(INPUTS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--mode", nargs="+", choices=["infer", "train"], default=["infer", "train"])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true", help="also time torch.compile of the reference")
    parser.add_argument("--csv", type=Path, help="write p20, p50 and p80 with device, versions and commit")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.device not in extension.DEVICES:
        raise SystemExit(extension.REASON or extension.CUDA_REASON)
    known, table = facts(options.device), []
    print(", ".join(f"{name} {value}" for name, value in known.items()))
    for name in options.operator:
        for mode in options.mode if OPERATORS[name].differentiable else ["infer"]:
            for dtype_name in options.dtype:
                for batch in options.batch:
                    dtype, inputs = getattr(torch, dtype_name), INPUTS[name](batch)
                    verify(OPERATORS[name], inputs, dtype, options.device)
                    given = on(options.device, converted(inputs, dtype))
                    functions = contenders(OPERATORS[name], given, mode == "train", options.compile)
                    case = {"operator": name, "mode": mode, "dtype": dtype_name, "batch": batch}
                    for row in rows_of(measure(functions, options.rounds, options.device)):
                        table.append(case | row | known)
                        line = " ".join(f"{table[-1][column]!s:>10}" for column in COLUMNS[1:])
                        print(f"{name:<22}{line}", flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS + FACTS)
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
