"""A small store of simulated people, for the tests of the training stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ecgtwin_fast.data.entry import Entry
from ecgtwin_fast.data.simulated import Patient, simulate_record
from ecgtwin_fast.data.store import Store
from ecgtwin_fast.data.store_writer import StoreWriter
from ecgtwin_fast.data.text import text_encoder

TEXT_WIDTH = 32


def write_store(folder: Path, people: int = 16, test_people: int = 3, real_people: int = 0) -> Store:
    """Two records of each person; the last `test_people` are the test fold, the first `real_people` count as real."""
    rng = np.random.default_rng(5)
    entries = []
    for number in range(people):
        patient = Patient.draw(rng)
        for visit in range(2):
            record = simulate_record(patient, rng)
            entries.append(
                Entry.of(
                    record,
                    f"{number}-{visit}",
                    str(number),
                    np.datetime64("2026-01-01", "ms") + visit,
                    test=number >= people - test_people,
                    real=number < real_people,
                )
            )
    writer = StoreWriter(folder, "simulated", {"people": people})
    writer.write(entries)
    return writer.finish(text_encoder("hash", TEXT_WIDTH))
