"""How long one person waits for one twin, or one edit: p50 and p95 of whole calls, beside the reference.

    python benchmarks/latency.py --csv latency.csv

A twin is base vector, 25 steps and decoding, from a prepared record; an edit is its source too. Every backend's twin is
first compared with the reference's.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from machine import FACTS, facts
from results_csv import append_csv, parse_with_csv
from tqdm import tqdm

from ecgtwin_fast import ECGTwin, models
from ecgtwin_fast.cli import DEMO_PATIENT
from ecgtwin_fast.data.preprocess import prepare
from ecgtwin_fast.data.record import read_record
from ecgtwin_fast.engine.cpu_support import precision_reasons
from ecgtwin_fast.generate import Condition
from ecgtwin_fast.pretrained import NETWORKS, ModelConfig

COLUMNS = ("model", "what", "backend", "dtype", "rounds", "p50_ms", "p95_ms", "ratio_reference")
REPORT, SWAP = "sinus rhythm|left bundle branch block", "sinus rhythm|right bundle branch block"
DTYPES = (torch.float32, torch.bfloat16)
SINGLE_LIMIT = 1e-3
"""Largest relative difference of a twin's signals from the reference's in float32; in bfloat16 it is twice that of the
reference under autocast."""


def load(name: str) -> ECGTwin:
    """The bundled model, or one of published size with drawn weights."""
    if name == "bundled":
        return ECGTwin.from_pretrained("bundled", "cpu")
    torch.manual_seed(0)
    networks = {role: models.create(network).requires_grad_(False) for role, network in NETWORKS.items()}
    return ECGTwin(ModelConfig(), networks, "random", device="cpu")


def calls(model: ECGTwin) -> dict[tuple[str, str, torch.dtype], Callable[[], np.ndarray]]:
    record = prepare(read_record(DEMO_PATIENT))
    condition = Condition.from_reference(record, REPORT)

    def twin(**how) -> np.ndarray:
        return model.sample(model.base_vector(record), condition, count=1, **how).records[0].signal

    def edit(**how) -> np.ndarray:
        return model.edit(record, REPORT, swap=SWAP, count=1, **how).edits[0][0].signal

    ways = [("reference", torch.float32), *(("cpu", dtype) for dtype in DTYPES if not precision_reasons(dtype))]
    return {
        (what, backend, dtype): functools.partial(call, backend=backend, dtype=dtype)
        for what, call in (("twin", twin), ("edit", edit))
        for backend, dtype in ways
    }


def difference(signal: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(signal - expected) / np.linalg.norm(expected))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=("bundled", "random"), default=("bundled", "random"))
    parser.add_argument("--rounds", type=int, default=21, help="(default %(default)s)")
    given = parse_with_csv(parser, COLUMNS + FACTS)
    known = facts("cpu")
    print(", ".join(f"{name} {value}" for name, value in known.items()))
    for name in given.model:
        model = load(name)
        ways = calls(model)
        for dtype in DTYPES:
            model.warmup(dtype=dtype)
        for (what, backend, dtype), call in ways.items():
            expected, limit = ways[what, "reference", torch.float32](), SINGLE_LIMIT
            if dtype == torch.bfloat16:
                limit = 2 * difference(call(backend="reference"), expected)
            found = difference(call(), expected)
            if not found <= limit:
                print(f"error: {name}, {what} by {backend} in {dtype}: differs by {found:.2g}", file=sys.stderr)
                return 1
        times = np.zeros((len(ways), given.rounds))
        for round_ in tqdm(range(given.rounds), desc=name, unit="round", disable=None):
            for place, call in enumerate(ways.values()):
                began = time.perf_counter()
                call()
                times[place, round_] = 1e3 * (time.perf_counter() - began)
        by_way = dict(zip(ways, times, strict=True))
        rows = []
        for (what, backend, dtype), taken in by_way.items():
            p50, p95 = np.quantile(taken, [0.5, 0.95])
            ratio = float(np.median(by_way[what, "reference", torch.float32] / taken))
            kind = str(dtype).removeprefix("torch.")
            way = f"{name:8} {what:5} {backend:10} {kind:9}"
            print(f"{way} p50 {p50:7.1f} ms  p95 {p95:7.1f} ms  {ratio:5.2f} x reference")
            values = (name, what, backend, kind, given.rounds, p50, p95, ratio)
            rows.append(dict(zip(COLUMNS, values, strict=True)) | known)
        if given.csv:
            append_csv(given.csv, COLUMNS + FACTS, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
