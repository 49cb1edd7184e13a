"""Data sets of twins: both engines beside the bare model and a script that works record by record; growth of memory.

    python benchmarks/dataset.py --csv dataset.csv     # 2,000 twins of 50 references under 8 conditions, in every way
    python benchmarks/dataset.py --memory 20000        # of a run in which noise stands in for the model

Before anything is timed the ways are compared: both engines' data sets must verify and be equal to the byte, and hold
what the bare model makes; the script's twins must be the reference backend's, within rounding of the CPU engine's.
References are PTB-XL's where ECGTWIN_PTBXL (default ../shared/ecg/ptb-xl) holds them, else simulated.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from machine import FACTS, ROOT, facts
from results_csv import append_csv, parse_with_csv

sys.path.insert(0, str(ROOT / "python_tests"))

from dataset_tools import StandIn, content  # noqa: E402

from ecgtwin_fast import ECGTwin  # noqa: E402
from ecgtwin_fast.data.ptbxl import ptbxl_root  # noqa: E402
from ecgtwin_fast.data.record import Record, write_wfdb  # noqa: E402
from ecgtwin_fast.dataset.conditions import open_conditions  # noqa: E402
from ecgtwin_fast.dataset.engine import LocalEngine  # noqa: E402
from ecgtwin_fast.dataset.expansion import Expansion  # noqa: E402
from ecgtwin_fast.dataset.plan import Plan, read_plan  # noqa: E402
from ecgtwin_fast.dataset.references import open_references  # noqa: E402
from ecgtwin_fast.dataset.run import make_dataset  # noqa: E402
from ecgtwin_fast.dataset.verify import verify  # noqa: E402
from ecgtwin_fast.generate import Condition  # noqa: E402

COLUMNS = ("what", "records", "rounds", "p20_s", "p50_s", "p80_s", "records_per_s", "ratio_bare")
REPORTS = (
    "sinus rhythm", "sinus tachycardia", "sinus bradycardia", "atrial fibrillation|rapid ventricular response",
    "left bundle branch block", "right bundle branch block", "inferior infarction", "first degree AV block",
)  # fmt: skip
TEXT = """\
references: {{{references}}}
conditions:
{conditions}
twins: {twins}
seed: 7
dtype: {dtype}
output: {{records_per_shard: {per_shard}}}
"""
SCRIPT_STEPS = 1000
SCRIPT_LIMIT = 1e-3
"""Largest relative difference of a twin by the script from the CPU engine's."""


class Item(NamedTuple):
    """What the networks need for a record."""

    reference: Record
    condition: Condition


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=int, default=50, help="(default %(default)s)")
    parser.add_argument("--twins", type=int, default=5, help="of each reference and condition (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--script", type=int, default=4, help="records of the script (default %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--engines", nargs="+", choices=("local", "ray"), default=("local", "ray"))
    parser.add_argument("--memory", type=int, metavar="N", help="only watch memory over N records")
    given = parse_with_csv(parser, COLUMNS + FACTS)
    with tempfile.TemporaryDirectory() as folder:
        if given.memory:
            return memory(Path(folder), given.memory)
        return compare(Path(folder), given)


def write_plan(folder: Path, references: int, twins: int, dtype: str, per_shard: int = 256) -> Plan:
    root = ptbxl_root()
    source = f"simulated: {references}" if root is None else f"ptb-xl: {root.absolute()}, limit: {references}"
    conditions = "\n".join(f'  - {{report: "{report}"}}' for report in REPORTS)
    path = folder / "plan.yaml"
    path.write_text(
        TEXT.format(references=source, conditions=conditions, twins=twins, dtype=dtype, per_shard=per_shard)
    )
    return read_plan(path)


def compare(folder: Path, given: argparse.Namespace) -> int:
    plan = write_plan(folder, given.references, given.twins, given.dtype)
    model = ECGTwin.from_pretrained(plan.model, "cpu")
    items = [*expanded(plan)]
    known = facts("cpu")
    print(", ".join(f"{name} {value}" for name, value in known.items()))
    print(f"{len(items)} records of {given.references} references, {plan.dtype}")

    made = bare(plan, model, items)[1]
    outs = {}
    for engine in given.engines:
        outs[engine] = folder / engine
        run(plan, outs[engine], engine)
        problem = wrong(outs[engine], made, outs[given.engines[0]])
        if problem:
            print(f"error: engine {engine}: {problem}", file=sys.stderr)
            return 1
    script_seconds, difference = script(plan, model, items[: given.script], folder / "script")
    if not difference <= SCRIPT_LIMIT:
        print(f"error: the script's twins differ from the engine's by {difference:.2g}", file=sys.stderr)
        return 1

    ways: dict[str, Callable[[Path], float]] = {"bare model": lambda out: bare(plan, model, items)[0]}
    for engine in given.engines:
        ways[f"engine {engine}"] = lambda out, engine=engine: run(plan, out, engine)
    times = np.zeros((len(ways), given.rounds))
    for round_ in range(given.rounds):
        for place, (name, way) in enumerate(ways.items()):
            times[place, round_] = way(folder / f"{place}-{round_}")
            print(f"round {round_}: {name} {times[place, round_]:.1f} s", flush=True)
    rows = [row(name, len(items), taken, times[0]) for name, taken in zip(ways, times, strict=True)]
    for steps, seconds in script_seconds.items():
        per_record = np.array(seconds)
        rows.append(row(f"record by record, {steps} steps", 1, per_record, times[0] / len(items)))
    for values in rows:
        print(f"{values['what']:32} {values['records_per_s']:8.2f} records/s  {values['ratio_bare']:7.3f} x bare model")
    if given.csv:
        append_csv(given.csv, COLUMNS + FACTS, [values | known for values in rows])
    return 0


def row(name: str, records: int, taken: np.ndarray, bare_times: np.ndarray) -> dict[str, object]:
    """Times of rounds in turns are compared round by round."""
    p20, p50, p80 = np.quantile(taken, [0.2, 0.5, 0.8])
    same = len(taken) == len(bare_times)
    ratio = np.median(taken / bare_times) if same else p50 / np.median(bare_times)
    return dict(zip(COLUMNS, (name, records, len(taken), p20, p50, p80, records / p50, float(ratio)), strict=True))


def expanded(plan: Plan) -> Iterator[Item]:
    references = open_references(plan)
    expansion = Expansion(plan, references, open_conditions(plan))
    records = [references.load(number)[0] for number in range(len(references))]
    for index in range(expansion.total):
        item = expansion.item(index)
        record = records[item.reference]
        yield Item(record, Condition.from_reference(record, item.asked.report, item.asked.heart_rate))


def bare(plan: Plan, model: ECGTwin, items: list[Item]) -> tuple[float, np.ndarray]:
    """Seconds and signals of the networks alone, in the batches of the plan, with the records in memory."""
    made, bases = [], {}
    began = time.perf_counter()
    for start in range(0, len(items), plan.batch_size):
        batch = items[start : start + plan.batch_size]
        for item in batch:
            if id(item.reference) not in bases:
                bases[id(item.reference)] = model.base_vector(item.reference)
        stacked = torch.stack([bases[id(item.reference)] for item in batch])
        conditions = [item.condition for item in batch]
        options = {"steps": plan.steps, "seed": plan.seed, "dtype": getattr(torch, plan.dtype)}
        made.append(model.signals(stacked, conditions, first_index=start, sampler=plan.sampler, **options).signals)
    return time.perf_counter() - began, np.concatenate(made)


def run(plan: Plan, out: Path, engine: str) -> float:
    """Seconds from the workers being ready to the complete data set."""

    def open_engine(job, log):
        if engine == "local":
            return LocalEngine(job)
        from ecgtwin_fast.dataset.ray_engine import RayEngine

        return RayEngine(job, None, None, 1, log)

    return make_dataset(plan, out, open_engine, device="cpu").seconds


def wrong(out: Path, made: np.ndarray, other: Path) -> str | None:
    problems = verify(out, progress=False).problems
    if problems:
        return problems[0]
    if content(out) != content(other):
        return f"its data set is not the bytes of {other.name}'s"
    for batch in pq.ParquetDataset(out / "data").read(["index", "gain", "signal"]).to_batches():
        index, gain = (batch[name].to_numpy() for name in ("index", "gain"))
        stored = batch["signal"].flatten().to_numpy().reshape(-1, 1024, 12) / gain[:, None, None]
        if np.abs(stored - made[index]).max(axis=(1, 2)).max() > np.abs(made).max() / 65000:
            return "its records are not the bare model's"
    return None


def script(plan: Plan, model: ECGTwin, items: list[Item], out: Path) -> tuple[dict[int, list[float]], float]:
    """What the published scripts do: plain PyTorch in float32, DDPM, one record after another, each its own file.

    Returns seconds of each record by number of steps, and the largest relative difference from the CPU engine's twins.
    """
    seconds: dict[int, list[float]] = {SCRIPT_STEPS: [], plan.steps: []}
    difference = 0.0
    for steps, taken in seconds.items():
        options = {"count": 1, "sampler": "ddpm", "steps": steps, "seed": plan.seed}
        for number, item in enumerate(items):
            began = time.perf_counter()
            base = model.base_vector(item.reference)
            twin = model.sample(base, item.condition, first_index=number, backend="reference", **options).records[0]
            write_wfdb(twin, out, f"{steps}-{number}")
            taken.append(time.perf_counter() - began)
            ours = model.sample(base, item.condition, first_index=number, **options).records[0].signal
            difference = max(difference, float(np.linalg.norm(twin.signal - ours) / np.linalg.norm(ours)))
    return seconds, difference


def memory(folder: Path, count: int) -> int:
    """Growth of the resident set over a run, a straight line through the last four fifths of it."""
    plan = write_plan(folder, 50, -(-count // (50 * len(REPORTS))), "float32")
    points: list[tuple[int, int]] = []

    class Watched(LocalEngine):
        def run(self, shards, giving_up):
            done = 0
            for result in super().run(shards, giving_up):
                yield result
                if result is not None:
                    done += result.entry.records
                    points.append((done, resident()))

    began = time.perf_counter()
    summary = make_dataset(plan, folder / "out", lambda job, log: Watched(job, compute=StandIn()))
    records, sizes = np.array(points[len(points) // 5 :]).T
    slope = np.polyfit(records, sizes, 1)[0]
    first, last = sizes[[0, -1]] / 2**20
    print(f"{summary.records} records in {time.perf_counter() - began:.1f} s")
    print(f"resident {first:.1f} MiB after {records[0]}, {last:.1f} MiB at the end; slope {slope:.1f} bytes a record")
    return 0


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    sys.exit(main())
