"""MIMIC-IV-ECG's own layout, in a miniature of simulated records and one of PTB-XL's."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
import pyarrow.csv
import pytest
from ecg_samples import real_records
from mimic_tree import (
    FIRST_STUDY,
    FIRST_SUBJECT,
    Person,
    ptbxl_people,
    simulated_people,
    write_tables,
    write_tree,
)

from ecgtwin_fast.data.mimic import MIMICSource, heart_rate
from ecgtwin_fast.data.prepare import prepare_records, prepare_store
from ecgtwin_fast.data.preprocess import prepare
from ecgtwin_fast.data.sources import in_test_fold
from ecgtwin_fast.data.text import HashEncoder
from ecgtwin_fast.errors import RecordError


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("mimic-iv-ecg")
    return root, *write_tree(root, simulated_people(6, visits=2))


def store_of(root, out, **options):
    return prepare_store(MIMICSource(root, None, 0.5), out, "mimic-iv-ecg", {}, HashEncoder(32), **options).store


def test_the_tree_has_the_layout(tree):
    root, studies, _ = tree
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    stem = f"files/p1000/p{FIRST_SUBJECT}/s{FIRST_STUDY}/{FIRST_STUDY}"
    assert {f"{stem}.hea", f"{stem}.dat", "record_list.csv", "machine_measurements.csv", "hosp/patients.csv"} <= files
    assert len(files) == 2 * len(studies) + 3
    header = (root / f"{stem}.hea").read_text().splitlines()
    assert header[0] == f"{FIRST_STUDY} 12 500 5000 09:26:53 14/03/2150"
    assert header[1].startswith(f"{FIRST_STUDY}.dat 16 200.0(0)/mV 16 0 ")
    assert [line.split()[-1] for line in header[1:13]] == "I II III aVR aVF aVL V1 V2 V3 V4 V5 V6".split()
    measured = pyarrow.csv.read_csv(root / "machine_measurements.csv")
    assert measured.column_names[3:7] == ["ecg_time", "report_0", "report_1", "report_2"]
    assert {"report_17", "rr_interval", "t_axis"} <= set(measured.column_names)


def test_a_store_holds_what_the_tables_say(tree, tmp_path):
    root, studies, persons = tree
    store = store_of(root, tmp_path / "store", shard_size=5)
    assert [store.name(row) for row in range(len(store))] == [study.path for study in studies]
    born = {person.subject: person.anchor_year - person.anchor_age for person in persons}
    sexes = {person.subject: person.gender for person in persons}
    for row, study in enumerate(studies):
        record = store.record(row)
        assert record.age == study.time.year - born[study.subject]
        assert record.sex == sexes[study.subject]
        assert record.report == study.record.report
        assert record.heart_rate == pytest.approx(60_000 / study.rr_interval)
        assert store.time[row] == np.datetime64(study.time)
        expected = prepare(replace(study.record, heart_rate=60.0)).signal
        # Half a unit of the file and the store's own rounding; resampling overshoots a little.
        assert np.abs(record.signal - expected).max() < 0.6 / 200
    assert store.person.tolist() == [row // 2 for row in range(12)]
    assert store.test.tolist() == [in_test_fold(str(study.subject), 0.5) for study in studies]
    assert 0 < store.test.sum() < 12
    assert not set(store.person[store.rows(True)]) & set(store.person[store.rows(False)])


def test_heart_rate_is_that_of_plausible_milliseconds():
    assert [heart_rate(interval) for interval in (800, 200, 3000)] == [75, 300, 20]
    assert {heart_rate(interval) for interval in (199, 3001, 0, -800, 29999, 65535, None)} == {None}


def changed_tables(tree, tmp_path, study=None, person=None):
    """The tree with the first study or person replaced, tables written anew."""
    root, studies, persons = tree
    (tmp_path / "files").symlink_to(root / "files")
    write_tables(tmp_path, [study or studies[0], *studies[1:]], [person or persons[0], *persons[1:]])
    return MIMICSource(tmp_path, None, 0.1)


@pytest.mark.parametrize("interval", [0, 29999, 65535, "", "none"])
def test_an_implausible_interval_leaves_the_rate_to_xqrs(tree, tmp_path, interval):
    study = tree[1][0]
    source = changed_tables(tree, tmp_path, replace(study, rr_interval=interval))
    (entry,) = prepare_records([source[0]])
    assert entry.heart_rate == prepare(source[0].load().record).heart_rate
    assert abs(entry.heart_rate - study.record.heart_rate) < 0.1 * study.record.heart_rate


def with_report(study, report):
    return {"study": replace(study, record=replace(study.record, report=report))}


@pytest.mark.parametrize(
    "change, reason, message",
    [
        (lambda study, person: with_report(study, ""), "empty report", "the report is empty"),
        (lambda study, person: with_report(study, "|..| ---"), "empty report", "the report is empty"),
        (lambda study, person: {"study": replace(study, time="unknown")}, "age unknown", "age is missing"),
        (lambda study, person: {"person": replace(person, anchor_age=121)}, "age out of range", "age is 122: expected"),
        (lambda study, person: {"person": replace(person, anchor_age="")}, "age unknown", "age is missing"),
        (lambda study, person: {"person": replace(person, gender="")}, "sex unknown", "sex is None"),
        (lambda study, person: {"person": Person(1, "F", 50, 2150)}, "age unknown", "age is missing"),
        (lambda study, person: {"study": replace(study, study=1)}, "missing record", "1.hea: no such file"),
    ],
)
def test_rows_that_cannot_be_used(tree, tmp_path, change, reason, message):
    source = changed_tables(tree, tmp_path, **change(tree[1][0], tree[2][0]))
    first, second = prepare_records([source[0], source[3]])
    assert (first.reason, first.name) == (reason, source.name(0)) and message in first.message
    assert second.statements == tree[1][3].record.report.split("|")


def test_a_record_without_measurements_has_an_empty_report(tree, tmp_path):
    changed_tables(tree, tmp_path)
    table = pyarrow.csv.read_csv(tmp_path / "machine_measurements.csv")
    pyarrow.csv.write_csv(table.slice(1), tmp_path / "machine_measurements.csv")
    source = MIMICSource(tmp_path, None, 0.1)
    first, second = prepare_records([source[0], source[1]])
    assert first.reason == "empty report"
    assert second.statements == tree[1][1].record.report.split("|")


def test_statements_keep_their_order_without_the_empty_ones(tree, tmp_path):
    study = tree[1][0]
    source = changed_tables(tree, tmp_path, **with_report(study, "Sinus rhythm|| Normal ECG |-|" + "x|" * 10 + "last"))
    (entry,) = prepare_records([source[0]])
    assert entry.statements == ["Sinus rhythm", "Normal ECG", *["x"] * 10, "last"]


def test_patients_may_be_elsewhere_or_unknown(tree, tmp_path):
    root, studies, persons = tree
    changed_tables(tree, tmp_path)
    compressed = tmp_path / "patients.csv.gz"
    table = pyarrow.csv.read_csv(root / "hosp" / "patients.csv")
    with pyarrow.output_stream(compressed, compression="gzip") as stream:
        pyarrow.csv.write_csv(table, stream)
    (tmp_path / "hosp" / "patients.csv").unlink()
    elsewhere = MIMICSource(tmp_path, compressed, 0.1)
    assert elsewhere[0].fields == MIMICSource(root, None, 0.1)[0].fields
    assert MIMICSource(tmp_path, None, 0.1)[0].fields == elsewhere[0].fields
    compressed.unlink()
    with pytest.raises(RecordError, match="no hosp/patients.csv .* give --patients, or --keep-unknown"):
        MIMICSource(tmp_path, None, 0.1)
    (entry,) = prepare_records([MIMICSource(tmp_path, None, 0.1, without_patients=True)[0]], keep_unknown=True)
    assert (entry.age, entry.sex) == (None, None)


@pytest.mark.parametrize("name", ["record_list.csv", "machine_measurements.csv", "hosp/patients.csv"])
def test_tables_that_cannot_be_read_are_named(tree, tmp_path, name):
    changed_tables(tree, tmp_path)
    path = tmp_path / name
    path.write_text(path.read_text().replace("subject_id", "subject").replace("study_id", "study"))
    with pytest.raises(RecordError, match=f"{name}: not readable as a table with .*_id"):
        MIMICSource(tmp_path, None, 0.1)
    path.unlink()
    with pytest.raises(RecordError, match=f"{name}"):
        MIMICSource(tmp_path, None, 0.1)


def test_a_tree_of_real_records(tmp_path):
    people = ptbxl_people(real_records(), 6)
    studies, _ = write_tree(tmp_path / "tree", people)
    store = store_of(tmp_path / "tree", tmp_path / "store")
    assert len(store) == len(studies) == sum(map(len, people)) and store.rejected == {}
    assert store.time[0] == np.datetime64(datetime(2150, 3, 14, 9, 26, 53))
    first = prepare(people[0][0])
    assert store.heart_rate[0] == pytest.approx(first.heart_rate, abs=1)
    assert np.abs(store.signals(0)[0] - first.signal).max() < 0.6 / 200
