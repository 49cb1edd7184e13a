"""Reading generated ECGs of every kind, and finding out whose twins they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from training_store import write_store

from ecgtwin_fast.data.entry import digital
from ecgtwin_fast.data.record import write_wfdb
from ecgtwin_fast.errors import ECGTwinError
from ecgtwin_fast.evaluation.generated import Linkage, read_generated


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("generated") / "store", people=6, test_people=4)


def write_dataset(folder, store, rows, patients=True):
    """A Parquet data set of the store's records, as if generated, in two shards."""
    (folder / "data").mkdir(parents=True)
    signal_type = pa.list_(pa.int16(), 1024 * 12)
    for shard, part in enumerate(np.array_split(rows, 2)):
        records = [store.record(row) for row in part]
        signals, gains = zip(*(digital(record.signal) for record in records), strict=True)
        columns = {
            "index": part,
            "reference": [f"elsewhere/{number}" for number in part] if patients else ["nobody"] * len(part),
            "patient": [str(store.person[row]) if patients else None for row in part],
            "report": [record.report for record in records],
            "heart_rate": np.float32([record.heart_rate for record in records]),
            "age": np.float32([record.age for record in records]),
            "sex": [record.sex for record in records],
            "gain": np.float32(gains),
            "signal": pa.array([signal.ravel().tolist() for signal in signals], signal_type),
        }
        pq.write_table(pa.table(columns), folder / "data" / f"shard-{shard:05d}.parquet")
    return folder


def test_parquet_data_set(store, tmp_path):
    rows = np.arange(5, 12)
    found, notes = read_generated(write_dataset(tmp_path, store, rows), "one", Linkage(store), 100, 0)
    assert notes == [] and found.name == "one" and len(found) == 7
    np.testing.assert_allclose(found.signals, store.signals(rows), atol=1e-4)
    assert found.person.tolist() == store.person[rows].tolist()
    assert (found.reference == -1).all() and (found.target == -1).all()
    assert found.reports.tolist() == [store.report(row) for row in rows]
    np.testing.assert_array_equal(found.sex, store.sex[rows])
    some, _ = read_generated(tmp_path, "one", Linkage(store), 3, 0)
    assert len(some) == 3 and set(some.heart_rate) < set(found.heart_rate)


def test_data_set_of_nobody_known(store, tmp_path):
    found, notes = read_generated(
        write_dataset(tmp_path, store, np.arange(4), patients=False), "population", Linkage(store), 100, 0
    )
    assert (found.person == -1).all() and len(set(found.groups())) == 4
    assert notes == ["population: names no patient of the real store: identity, which needs them, is left out"]


def test_folder_of_twins(store, tmp_path):
    """References are named by the store's names or by paths that end so; one record is damaged, one says nothing."""
    for row, reference in ((3, store.name(3)), (4, f"some/folder/{store.name(4)}.hea"), (5, "patient of nobody")):
        write_wfdb(store.record(row), tmp_path / f"p{row}", "twin_000", [f"Reference: {reference}", "Seed: 0"])
    write_wfdb(store.record(6), tmp_path / "p6", "record", ["Patient: 3", "Reference: elsewhere/1"])
    (tmp_path / "p3" / "twin_001.hea").write_text("damaged")
    write_wfdb(replace(store.record(3), report=None), tmp_path / "p3", "twin_002")
    found, notes = read_generated(tmp_path, "twins", Linkage(store), 100, 0)
    np.testing.assert_allclose(found.signals, store.signals([3, 4, 5, 6]), atol=6e-4)
    assert found.reference.tolist() == [3, 4, -1, -1]
    assert found.person.tolist() == [store.person[3], store.person[4], -1, 3]
    np.testing.assert_allclose(found.heart_rate, store.heart_rate[[3, 4, 5, 6]], rtol=1e-5)
    assert len(notes) == 1 and "twins: 2 records cannot be used" in notes[0] and "no report in its comments" in notes[0]


def test_store_of_generated_records(store):
    found, notes = read_generated(store.path, "store", Linkage(store), 100, 0)
    assert notes == [] and len(found) == len(store)
    np.testing.assert_array_equal(found.person, store.person)
    assert found.reference.tolist() == list(range(12)), "records are their own references where they have their names"


def test_nothing_to_read(store, tmp_path):
    with pytest.raises(ECGTwinError, match="expected generated ECGs: WFDB records"):
        read_generated(tmp_path, "nothing", Linkage(store), 100, 0)
    (tmp_path / "twin_000.hea").write_text("damaged")
    with pytest.raises(ECGTwinError, match=r"none of 1 records can be used \(no report in its comments: 1\)"):
        read_generated(tmp_path, "nothing", Linkage(store), 100, 0)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shard-00000.parquet").write_text("damaged")
    with pytest.raises(ECGTwinError, match="not readable as a data set"):
        read_generated(tmp_path, "nothing", Linkage(store), 100, 0)
