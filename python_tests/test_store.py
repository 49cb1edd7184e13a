"""A store gives back what was written, however it was cut or interrupted, and names what is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_samples import REJECTED, WIDTH, sample_entries, write_store

from ecgtwin_fast.data.condition import patient_vector
from ecgtwin_fast.data.entry import digital, signal_hash
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.store import Store, labels
from ecgtwin_fast.data.store_writer import StoreWriter
from ecgtwin_fast.data.text import HashEncoder
from ecgtwin_fast.errors import ConditionError, StoreError

ENTRIES = sample_entries(23)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("stores") / "a=b", ENTRIES, 7, REJECTED)


@pytest.fixture
def copy(stored, tmp_path):
    shutil.copytree(stored.path, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "cache", ignore_errors=True)
    return tmp_path / "store"


def test_rounding_errs_by_little_of_full_scale():
    signal = np.random.default_rng(0).normal(0, 0.7, (1024, 12)).astype(np.float32)
    whole, gain = digital(signal)
    assert whole.dtype == np.int16 and np.abs(whole).max() == 32767
    largest = np.abs(signal).max()
    assert np.abs(whole / gain - signal).max() <= largest / 65000
    assert not digital(np.zeros((4, 12)))[0].any()


def test_signal_hash_tells_signals_and_gains_apart():
    whole = np.arange(24, dtype=np.int16).reshape(2, 12)
    first = signal_hash(whole, np.float32(100))
    assert first == signal_hash(whole.copy(), np.float32(100))
    assert len({first, signal_hash(whole, np.float32(101)), signal_hash(whole[::-1], np.float32(100))}) == 3


def test_conditions_come_back(stored):
    assert len(stored) == len(ENTRIES) and stored.kind == "samples" and stored.options == {"seed": 0}
    people = list(dict.fromkeys(entry.patient for entry in ENTRIES))
    for row, entry in enumerate(ENTRIES):
        assert stored.name(row) == entry.name
        assert stored.person[row] == people.index(entry.patient)
        assert np.isnat(stored.time[row]) if entry.time is None else stored.time[row] == entry.time
        assert np.isnan(stored.age[row]) if entry.age is None else stored.age[row] == entry.age
        assert np.isnan(stored.sex[row]) if entry.sex is None else "FM"[int(stored.sex[row])] == entry.sex
        assert (stored.heart_rate[row], stored.signal_hash[row]) == (entry.heart_rate, entry.signal_hash)
        assert (stored.real[row], stored.target[row], stored.test[row]) == (entry.real, entry.target, entry.test)
        assert stored.report(row) == "|".join(entry.statements)
        vector = patient_vector(entry.heart_rate, 64.25 if entry.age is None else entry.age, entry.sex or "F")
        vector[2] = 0.5 if entry.sex is None else vector[2]
        assert stored.patient[row].tolist() == vector.tolist()
    assert stored.time.dtype == "datetime64[s]" and stored.patient.dtype == np.float32
    assert stored.rows(True).tolist() == [row for row, entry in enumerate(ENTRIES) if entry.test]
    assert sorted([*stored.rows(True), *stored.rows(False)]) == list(range(len(ENTRIES)))


def test_statements_are_numbered_as_they_first_appear_and_embedded_once(stored):
    texts = list(dict.fromkeys(text for entry in ENTRIES for text in entry.statements))
    assert stored.statements == ["", *texts]
    expected = np.concatenate([np.zeros((1, WIDTH)), HashEncoder(WIDTH).encode(texts)])
    assert stored.embeddings.dtype == np.float32 and np.array_equal(stored.embeddings, expected.astype(np.float32))
    same = stored.report_key[:, None] == stored.report_key
    reports = np.array([stored.report(row) for row in range(len(stored))])
    assert np.array_equal(same, reports[:, None] == reports)


def test_conditions_are_padded_to_the_longest_report(stored):
    lengths = np.array([len(entry.statements) for entry in ENTRIES])
    for index in (np.flatnonzero(lengths == 1)[:2], np.flatnonzero(lengths < 3)[:4], np.arange(len(ENTRIES))):
        text, mask, patient = stored.condition(index)
        longest = lengths[index].max()
        assert text.shape == (len(index), longest, WIDTH) and mask.shape == (len(index), longest)
        assert mask.sum(1).tolist() == lengths[index].tolist() and not text[mask == 0].any()
        for row, vectors in zip(index, text, strict=True):
            assert np.array_equal(vectors[: lengths[row]], HashEncoder(WIDTH).encode(ENTRIES[row].statements))
        assert np.array_equal(patient, stored.patient[index])


def test_signals_come_back(stored):
    index = np.array([5, 0, 22, 5])
    signals = stored.signals(index)
    assert type(signals) is np.ndarray and signals.dtype == np.float32 and signals.shape == (4, 1024, 12)
    for row, signal in zip(index, signals, strict=True):
        np.testing.assert_allclose(signal, ENTRIES[row].signal / ENTRIES[row].gain, rtol=1e-6)
    record = stored.record(22)
    assert record.leads == MODEL_LEADS and record.sampling_rate == 102.4 and record.name == "record 22"
    assert np.array_equal(record.signal, signals[2]) and record.report == stored.report(22)
    assert (record.age, record.sex) == (ENTRIES[22].age, ENTRIES[22].sex)


def test_the_map_is_built_once_and_again_where_it_is_missing(copy):
    expected = Store(copy).signals([3])
    (mapped,) = (copy / "cache").glob("*.npy")
    built = mapped.stat().st_mtime_ns
    Store(copy).signals([3])
    assert mapped.stat().st_mtime_ns == built
    shutil.rmtree(copy / "cache")
    assert np.array_equal(Store(copy).signals([3]), expected)


def test_rejected_records_are_listed(stored):
    assert stored.rejected == {"NaN": 1, "flat lead": 1}
    rows = pq.read_table(stored.path / "rejected.parquet", partitioning=None).to_pylist()
    assert [tuple(row.values()) for row in rows] == [(r.name, r.reason, r.message) for r in REJECTED]


@pytest.mark.parametrize("shard", [1, 4, 1000])
def test_the_digest_is_of_the_content_not_of_its_cut(stored, tmp_path, shard):
    store = write_store(tmp_path, ENTRIES, shard, REJECTED)
    assert store.digest == stored.digest
    assert np.array_equal(store.signals(np.arange(len(ENTRIES))), stored.signals(np.arange(len(ENTRIES))))


def test_any_change_changes_the_digest(stored, tmp_path):
    def digest_of(name, entries):
        return write_store(tmp_path / name, entries).digest

    digests = {stored.digest, digest_of("fewer", ENTRIES[:-1]), digest_of("swapped", ENTRIES[1::-1] + ENTRIES[2:])}
    digests.add(digest_of("others", sample_entries(23, seed=1)))
    assert len(digests) == 4


def test_stopped_at_any_write_the_result_is_the_same(tmp_path, monkeypatch):
    entries, real, stops = ENTRIES[:6], os.replace, 0
    whole = write_store(tmp_path / "whole", entries, 2, REJECTED)
    while True:
        left = stops

        def replace(source, target):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            real(source, target)

        folder = tmp_path / str(stops)
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", replace)
            try:
                write_store(folder, entries, 2, REJECTED)
                break
            except KeyboardInterrupt:
                stops += 1
        if (folder / "unfinished" / "work.json").exists():
            with pytest.raises(StoreError, match="holds an unfinished store: call the same prepare again"):
                Store(folder)
        resumed = write_store(folder, entries, 2, REJECTED)
        assert (resumed.digest, resumed.rejected) == (whole.digest, whole.rejected)
        names = sorted(path.name for path in folder.iterdir())
        assert names == sorted(path.name for path in whole.path.iterdir())
    # One for the options, two for each of three shards, three at the end.
    assert stops == 10


def test_a_failing_text_encoder_leaves_the_shards(stored, tmp_path):
    class Failing(HashEncoder):
        def encode(self, statements):
            raise ConditionError("no")

    writer = StoreWriter(tmp_path, "samples", {"seed": 0})
    writer.write(ENTRIES, REJECTED)
    with pytest.raises(ConditionError):
        writer.finish(Failing(WIDTH))
    assert write_store(tmp_path, ENTRIES).digest == stored.digest


@pytest.mark.parametrize(
    "kind, options, listing, message",
    [
        ("other", {"seed": 0}, "", r"unfinished work with other kind \(samples, not other\)"),
        ("samples", {"seed": 1, "b": 2}, "", r"with other options \(seed 0, not 1, b None, not 2\)"),
        ("samples", {"seed": 0}, "x", "unfinished work with other listing"),
    ],
)
def test_unfinished_work_of_another_kind_is_refused(tmp_path, kind, options, listing, message):
    StoreWriter(tmp_path, "samples", {"seed": 0}).write(ENTRIES[:2])
    with pytest.raises(StoreError, match=message):
        StoreWriter(tmp_path, kind, options, listing)
    assert StoreWriter(tmp_path, "samples", {"seed": 0}).records == 2


def test_a_finished_store_is_not_written_over(copy, tmp_path):
    with pytest.raises(StoreError, match="holds a finished store of samples"):
        StoreWriter(copy, "samples", {"seed": 0})
    (copy / "store.json").unlink()
    with pytest.raises(StoreError, match="holds records without store.json"):
        StoreWriter(copy, "samples", {"seed": 0})
    with pytest.raises(StoreError, match="no records to make a store of"):
        StoreWriter(tmp_path / "empty", "samples", {}).finish(HashEncoder(WIDTH))


def altered(**changes):
    def alter(folder):
        content = json.loads((folder / "store.json").read_text())
        content |= changes
        (folder / "store.json").write_text(
            json.dumps({key: value for key, value in content.items() if value is not None})
        )

    return alter


def truncated(name):
    return lambda folder: os.truncate(folder / name, 900)


def without_column(folder):
    path = folder / "records-00001.parquet"
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["sex"]), path)


@pytest.mark.parametrize(
    "harm, message",
    [
        (shutil.rmtree, r"store: no store \(store.json is missing\)"),
        (altered(version=0), "store.json: version 0, this release reads version 1"),
        (altered(version=None), "store.json: damaged"),
        (altered(digest=None, kind=None), "store.json: damaged: digest, kind missing"),
        (altered(records=24), "store: holds 23 records, store.json says 24"),
        (altered(statements=9), "statements.parquet: holds 5 statements, store.json says 9"),
        (truncated("store.json"), "store: no store|store.json: damaged"),
        (lambda folder: (folder / "store.json").write_text("{"), "store.json: damaged"),
        (truncated("records-00001.parquet"), "records-00001.parquet: not readable as Parquet"),
        (lambda folder: (folder / "records-00002.parquet").unlink(), "records-00002.parquet: not readable"),
        (truncated("statements.parquet"), "statements.parquet: not readable as Parquet"),
        (without_column, r"records-00001.parquet: not readable as Parquet .* No match for FieldRef.Name\(sex\)"),
    ],
)
def test_damage_is_named(copy, harm, message):
    harm(copy)
    with pytest.raises(StoreError, match=message):
        Store(copy)


def test_a_changed_signal_is_found_and_no_map_is_left(copy):
    path = copy / "records-00001.parquet"
    table = pq.read_table(path, partitioning=None)
    signals = table["signal"].combine_chunks()
    values = signals.flatten().to_numpy().copy()
    values[12288 * 2 + 5] += 1
    table = table.set_column(
        table.column_names.index("signal"), "signal", pa.FixedSizeListArray.from_arrays(pa.array(values), 12288)
    )
    pq.write_table(table, path)
    with pytest.raises(StoreError, match=r"records-00001.parquet: damaged, the signal of record 9 is not the one"):
        Store(copy).signals([0])
    assert not list((copy / "cache").glob("*.npy"))


def test_a_truncated_map_is_named(copy):
    Store(copy).signals([0])
    (mapped,) = (copy / "cache").glob("*.npy")
    os.truncate(mapped, 1000)
    with pytest.raises(StoreError, match=r"\.npy: damaged .* delete it, and it is built again"):
        Store(copy).signals([0])


def test_labels_are_equal_where_all_columns_are():
    assert labels(np.array([3, 3, 1, 3]), np.array([0.5, 0.5, 0.5, 2])).tolist() == [1, 1, 0, 2]


def test_reading_a_store_needs_no_torch(stored):
    code = f"import sys; from ecgtwin_fast.data.store import Store; Store({str(stored.path)!r}).signals([1]); "
    code += "print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr
