"""Small stores for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.preprocess import SAMPLES, SAMPLING_RATE
from ecgtwin_fast.data.record import Record
from ecgtwin_fast.data.store import Store
from ecgtwin_fast.data.store_writer import Entry, Rejected, StoreWriter
from ecgtwin_fast.data.text import HashEncoder

WIDTH = 24
REPORTS = ("sinus rhythm", "atrial fibrillation|left bundle branch block", "sinus rhythm|normal ECG|low voltages")
REJECTED = [Rejected("bad", "NaN", "bad: lead V1 holds 3"), Rejected("worse", "flat lead", "worse: lead I is flat")]


def sample_entries(count: int, seed: int = 0, people: int = 3) -> list[Entry]:
    """Entries of noise, with every kind of unknown value, equal times, equal conditions and equal signals."""
    rng = np.random.default_rng(seed)
    signals = rng.normal(0, rng.uniform(0.1, 3), (max(1, count // 2), SAMPLES, len(MODEL_LEADS)))
    entries = []
    for number in range(count):
        person = int(rng.integers(people))
        record = Record(
            signal=signals[rng.integers(len(signals))],
            sampling_rate=SAMPLING_RATE,
            leads=MODEL_LEADS,
            age=rng.choice([None, 40.0, 71.0]),
            sex=rng.choice([None, "F", "M"]),
            report=str(rng.choice(REPORTS)),
            heart_rate=float(rng.choice([60, 75])),
        )
        time = None if rng.random() < 0.2 else np.datetime64("2020-01-01T00:00:00") + int(rng.integers(5))
        entries.append(
            Entry.of(
                record, f"record {number}", f"person {person}", time,
                test=person == 0, real=bool(rng.random() < 0.5), target=bool(rng.random() < 0.8),
            )
        )  # fmt: skip
    return entries


def write_store(path: Path, entries: list[Entry], shard: int = 1000, rejected=()) -> Store:
    """A store of these entries, or the rest of an unfinished one, `shard` to a shard; the first holds `rejected`."""
    writer = StoreWriter(path, "samples", {"seed": 0})
    for start in list(range(0, len(entries), shard))[writer.shards :]:
        writer.write(entries[start : start + shard], rejected if start == 0 else ())
    return writer.finish(HashEncoder(WIDTH))
