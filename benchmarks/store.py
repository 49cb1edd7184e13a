"""Times preparing of records, per core, and reading of a store, after checking that both give what they shall.

    python benchmarks/store.py --records 64 --stored 4096 --csv store.csv

Records are PTB-XL's where ECGTWIN_PTBXL (default ../shared/ecg/ptb-xl) holds them, else simulated ones.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import wfdb
from machine import FACTS, facts
from results_csv import append_csv, parse_with_csv
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ecgtwin_fast.data.entry import Entry
from ecgtwin_fast.data.pairs import Pairs
from ecgtwin_fast.data.prepare import prepare_records
from ecgtwin_fast.data.ptbxl import ptbxl_root
from ecgtwin_fast.data.record import write_wfdb
from ecgtwin_fast.data.simulated import Patient, simulate_record
from ecgtwin_fast.data.sources import Limited, PTBXLSource, Source, TableRecord
from ecgtwin_fast.data.store import Store
from ecgtwin_fast.data.store_writer import StoreWriter
from ecgtwin_fast.data.text import text_encoder

COLUMNS = ("what", "batch", "rounds", "p20_ms", "p50_ms", "p80_ms", "records_per_s")
BATCHES = (64, 512)
LARGE_BATCH = 65_536


class Task(NamedTuple):
    what: str
    batch: int
    call: Callable[[], object]


def wfdb_records(folder: Path, count: int) -> list[TableRecord]:
    """Records at 500 Hz without a heart rate: PTB-XL's first ones, or simulated ones that are written to `folder`."""
    root = ptbxl_root()
    if root is not None:
        source: Source = Limited(PTBXLSource(root), count)
        return [source[number] for number in range(len(source))]
    rng = np.random.default_rng(0)
    records = []
    for number in range(count):
        record = simulate_record(Patient.draw(rng), rng, sampling_rate=500, samples=5000)
        path = write_wfdb(replace(record, heart_rate=None), folder, str(number)).with_suffix("")
        fields = {"age": record.age, "sex": record.sex, "report": record.report}
        records.append(TableRecord(str(number), path, str(number), None, False, fields))
    return records


def build_store(folder: Path, count: int) -> tuple[Store, list[Entry]]:
    """Two visits of simulated patients; returns the first entries, too, to check what comes back."""
    rng = np.random.default_rng(0)
    writer, kept = StoreWriter(folder, "benchmark", {}), []
    with tqdm(desc="simulating a store", total=count, unit="record") as bar:
        for start in range(0, count, 512):
            entries = []
            for number in range(start, min(start + 512, count), 2):
                patient = Patient.draw(rng)
                for visit in range(2):
                    record = simulate_record(patient, rng)
                    entries.append(Entry.of(record, f"{number}/{visit}", str(number), test=False))
            writer.write(entries)
            kept += entries[: 512 - len(kept)]
            bar.update(len(entries))
    return writer.finish(text_encoder("hash", 768)), kept


def check(records: list[TableRecord], store: Store, entries: list[Entry]) -> None:
    """Raise AssertionError unless reading agrees with the wfdb package and the store with what went in."""
    for record in records:
        expected = wfdb.rdrecord(str(record.path)).p_signal.astype(np.float32)
        assert np.array_equal(record.load().record.signal, expected, equal_nan=True), record.name
    for row, (entry, signal) in enumerate(zip(entries, store.signals(np.arange(len(entries))), strict=True)):
        assert np.allclose(signal, entry.signal / entry.gain, rtol=1e-6, atol=0), entry.name
        assert store.report(row) == "|".join(entry.statements)


def tasks(records: list[TableRecord], store: Store) -> list[Task]:
    rng = np.random.default_rng(1)
    known = [replace(record, fields=record.fields | {"heart_rate": 70.0}) for record in records]
    pairs = Pairs(store, store.rows(False))
    found = [
        Task("read WFDB, the wfdb package", len(records), lambda: [wfdb.rdrecord(str(r.path)) for r in records]),
        Task("read WFDB", len(records), lambda: [record.load() for record in records]),
        Task("prepare, heart rate by XQRS", len(records), lambda: prepare_records(records, keep_unknown=True)),
        Task("prepare, heart rate known", len(records), lambda: prepare_records(known, keep_unknown=True)),
    ]
    for batch in BATCHES:
        found += [
            Task("store: signals", batch, lambda batch=batch: store.signals(rng.integers(len(store), size=batch))),
            Task("store: conditions", batch, lambda batch=batch: store.condition(rng.integers(len(store), size=batch))),
        ]
    return found + [
        Task("pairs drawn", batch, lambda batch=batch: pairs.draw(rng, batch)) for batch in (512, LARGE_BATCH)
    ]


def measure(found: list[Task], rounds: int) -> list[np.ndarray]:
    """Milliseconds of each task in each round; every task in turn in every round."""
    times = np.zeros((len(found), rounds))
    with threadpool_limits(1), tqdm(desc="timing", total=times.size, unit="call") as bar:
        for round_ in range(rounds):
            for number, task in enumerate(found):
                began = time.perf_counter()
                task.call()
                times[number, round_] = 1e3 * (time.perf_counter() - began)
                bar.update()
    return list(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=64, help="records to prepare (default %(default)s)")
    parser.add_argument("--stored", type=int, default=4096, help="records in the store (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    given = parse_with_csv(parser, COLUMNS + FACTS)
    with tempfile.TemporaryDirectory() as scratch:
        records = wfdb_records(Path(scratch), given.records)
        store, entries = build_store(Path(scratch) / "store", given.stored)
        try:
            check(records, store, entries)
        except AssertionError as error:
            sys.exit(f"wrong answer, not timed: {error}")
        found = tasks(records, store)
        times = measure(found, given.rounds)
    known, rows = facts("cpu"), []
    for task, milliseconds in zip(found, times, strict=True):
        p20, p50, p80 = np.percentile(milliseconds, [20, 50, 80])
        rate = task.batch / p50 * 1e3
        rows.append(
            {
                "what": task.what, "batch": task.batch, "rounds": given.rounds,
                "p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "records_per_s": rate,
            } | known
        )  # fmt: skip
        print(f"{task.what:28s} batch {task.batch:6d}  {p50:9.2f} ms  {rate:12.0f} a second on one core")
    if given.csv:
        append_csv(given.csv, COLUMNS + FACTS, rows)


if __name__ == "__main__":
    main()
