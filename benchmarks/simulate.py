"""Times the simulated cohort on one core, after checking that a record is the same alone and in any batch.

    python benchmarks/simulate.py --records 1024 --csv benchmarks/results/simulate.csv

Records are ten seconds of twelve leads, of as many patients, under the conditions that a population shows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from machine import FACTS, facts
from results_csv import append_csv, parse_with_csv
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.simulated import draw_visit, simulate, simulate_batch

COLUMNS = ("what", "sampling_rate", "batch", "rounds", "p20_ms", "p50_ms", "p80_ms", "records_per_s")
CHECKED = 48


class Task(NamedTuple):
    what: str
    sampling_rate: float
    batch: int
    call: Callable[[], object]


def visits(count: int) -> tuple:
    """Patients, conditions and generators."""
    return tuple(zip(*(draw_visit(0, number, 0) for number in range(count)), strict=True))


def check() -> None:
    """Raise AssertionError unless records are pure, obey Einthoven's equation and differ from each other."""
    batch = simulate_batch(*visits(CHECKED))
    alone = [simulate(*one) for one in zip(*visits(CHECKED), strict=True)]
    assert np.array_equal(batch, alone), "a record depends on its batch"
    one, two, three = (batch[:, :, MODEL_LEADS.index(lead)] for lead in ("I", "II", "III"))
    assert np.array_equal(one + three, two), "lead III is not II - I"
    assert np.isfinite(batch).all() and len(np.unique(batch[:, 0, 0])) > CHECKED // 2, "records are alike"


def tasks(count: int) -> list[Task]:
    drawn = visits(count)
    few = tuple(part[: count // 8] for part in drawn)
    return [
        Task("patients, conditions and signals", 102.4, count, lambda: simulate_batch(*visits(count))),
        Task("patients and conditions", 102.4, count, lambda: visits(count)),
        Task("signals", 102.4, count, lambda: simulate_batch(*drawn)),
        Task("signals, one at a time", 102.4, count // 8, lambda: [simulate(*one) for one in zip(*few, strict=True)]),
        Task("signals", 500.0, count // 8, lambda: simulate_batch(*few, 500.0, 5000)),
    ]


def measure(found: list[Task], rounds: int) -> list[np.ndarray]:
    """Milliseconds of each task in each round; every task in turn in every round."""
    times = np.zeros((len(found), rounds))
    with threadpool_limits(1), tqdm(desc="timing", total=times.size, unit="call") as bar:
        for task in found:
            task.call()
        for round_ in range(rounds):
            for number, task in enumerate(found):
                began = time.perf_counter()
                task.call()
                times[number, round_] = 1e3 * (time.perf_counter() - began)
                bar.update()
    return list(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1024, help="in a batch (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="(default %(default)s)")
    given = parse_with_csv(parser, COLUMNS + FACTS)
    try:
        check()
    except AssertionError as error:
        sys.exit(f"wrong answer, not timed: {error}")
    found = tasks(max(given.records, 8))
    known, rows = facts("cpu") | {"threads": 1}, []
    for task, milliseconds in zip(found, measure(found, given.rounds), strict=True):
        p20, p50, p80 = np.percentile(milliseconds, [20, 50, 80])
        rate = task.batch / p50 * 1e3
        rows.append(
            {
                "what": task.what, "sampling_rate": task.sampling_rate, "batch": task.batch, "rounds": given.rounds,
                "p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "records_per_s": rate,
            } | known
        )  # fmt: skip
        at = f"{task.sampling_rate:g} Hz, batch {task.batch}"
        print(f"{task.what:34s} {at:22s}  {p50:9.1f} ms  {rate:7.0f} records a second on one core")
    if given.csv:
        append_csv(given.csv, COLUMNS + FACTS, rows)


if __name__ == "__main__":
    main()
