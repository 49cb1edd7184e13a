"""The reference records of a plan: every kind, prepared, with patient and digest."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mimic_tree import simulated_people, write_tree
from plan_samples import CONDITIONS, REFERENCES, plan_of, the_error
from store_samples import sample_entries, write_store

from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.preprocess import SAMPLES, prepare
from ecgtwin_fast.data.record import Record, write_wfdb
from ecgtwin_fast.data.simulated import Patient, simulate_record
from ecgtwin_fast.data.sources import PTBXLSource
from ecgtwin_fast.dataset.references import open_references
from ecgtwin_fast.errors import RecordError


def references_of(folder: Path, section: str):
    return open_references(plan_of(folder, f"{CONDITIONS}references: {{{section}}}\n"))


def assert_prepared(record: Record) -> None:
    assert record.signal.shape == (SAMPLES, 12) and record.signal.dtype == np.float32
    assert record.leads == MODEL_LEADS and record.sampling_rate == 102.4
    assert np.isfinite(record.signal).all() and record.heart_rate is not None


ENTRIES = sample_entries(12, people=3)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    write_store(folder / "store", ENTRIES, shard=5)
    return folder


@pytest.mark.parametrize("fold", ["all", "test", "training"])
@pytest.mark.parametrize("limit", [None, 2])
def test_a_store(stored, fold, limit):
    references = references_of(stored, f"store: store, fold: {fold}" + (f", limit: {limit}" if limit else ""))
    expected = [entry for entry in ENTRIES if fold == "all" or entry.test == (fold == "test")][:limit]
    assert len(references) == len(expected) >= 2
    for number, entry in enumerate(expected):
        record, patient = references.load(number)
        assert_prepared(record)
        assert (references.name(number), patient) == (entry.name, entry.patient) == (record.source, entry.patient)
        assert np.array_equal(record.signal, entry.signal * (1 / entry.gain))
        assert (record.age, record.sex, record.report) == (entry.age, entry.sex, "|".join(entry.statements))


def test_the_digest_of_a_store_is_its_own(stored):
    assert references_of(stored, "store: store").digest == references_of(stored, "store: store, limit: 1").digest


def write_folder(root: Path) -> list[Record]:
    rng = np.random.default_rng(0)
    records = [simulate_record(Patient.draw(rng), rng, sampling_rate=500, samples=5000) for _ in range(3)]
    for number, record in enumerate(records):
        write_wfdb(record, root / f"patient{number // 2}", f"r{number}")
    return records


def test_a_wfdb_folder(tmp_path):
    records = write_folder(tmp_path / "ecgs")
    references = references_of(tmp_path, "wfdb: ecgs")
    names = [references.name(number) for number in range(len(references))]
    assert names == ["patient0/r0", "patient0/r1", "patient1/r2"]
    loaded = [references.load(number) for number in range(3)]
    assert [patient for _, patient in loaded] == ["patient0", "patient0", "patient1"]
    for (record, _), original in zip(loaded, records, strict=True):
        assert_prepared(record)
        assert (record.report, record.sex) == (original.report, original.sex)
        assert np.abs(record.signal - prepare(original).signal).max() < 0.002
    assert len(references_of(tmp_path, "wfdb: ecgs, limit: 2")) == 2


def test_the_digest_of_a_folder_follows_its_listing_and_not_its_place(tmp_path):
    write_folder(tmp_path / "ecgs")
    before = references_of(tmp_path, "wfdb: ecgs").digest
    shutil.copytree(tmp_path / "ecgs", tmp_path / "copy")
    assert references_of(tmp_path, "wfdb: copy").digest == before
    assert references_of(tmp_path, "wfdb: ecgs, limit: 2").digest != before
    header = tmp_path / "copy" / "patient1" / "r2.hea"
    header.rename(header.with_name("r3.hea"))
    assert references_of(tmp_path, "wfdb: copy").digest != before
    header.with_name("r3.hea").rename(header)
    header.write_text(header.read_text() + "# one comment more\n")
    assert references_of(tmp_path, "wfdb: copy").digest != before


def test_a_damaged_record_fails_alone(tmp_path):
    write_folder(tmp_path / "ecgs")
    (tmp_path / "ecgs" / "patient0" / "r1.dat").unlink()
    references = references_of(tmp_path, "wfdb: ecgs")
    with pytest.raises(RecordError, match="r1.dat"):
        references.load(1)
    assert references.load(2)[1] == "patient1"


@pytest.fixture(scope="module")
def ptbxl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ptb-xl")
    lines = ["ecg_id,patient_id,age,sex,recording_date,scp_codes,strat_fold,filename_lr,filename_hr"]
    rng = np.random.default_rng(0)
    for number in range(1, 4):
        record = simulate_record(Patient.draw(rng), rng, sampling_rate=500, samples=5000)
        write_wfdb(replace(record, age=None, sex=None), folder / "data" / "records500", f"{number}_hr")
        patient, fold, file = 40 + number, 10 if number == 2 else 1, f"records500/{number}_hr"
        lines.append(f"{number},{patient}.0,56,1,1984-11-09 09:17:34,{{'SR': 0.0}},{fold},lr,{file}")
    (folder / "data" / "ptbxl_database.csv").write_text("\n".join(lines) + "\n")
    (folder / "data" / "scp_statements.csv").write_text(",description\nSR,sinus rhythm\n")
    return folder


@pytest.mark.parametrize(("fold", "rows"), [("all", [0, 1, 2]), ("test", [1]), ("training", [0, 2])])
def test_ptbxl(ptbxl, fold, rows):
    references = references_of(ptbxl, f"ptb-xl: data, fold: {fold}")
    source = PTBXLSource(ptbxl / "data")
    assert [references.name(number) for number in range(len(references))] == [source.name(row) for row in rows]
    for number, row in enumerate(rows):
        record, patient = references.load(number)
        assert_prepared(record)
        assert (patient, record.age, record.sex, record.report) == (f"{41 + row}", 56.0, "F", "sinus rhythm")


def test_the_digest_of_ptbxl_follows_its_tables(ptbxl, tmp_path):
    before = references_of(ptbxl, "ptb-xl: data").digest
    shutil.copytree(ptbxl / "data", tmp_path / "data")
    assert references_of(tmp_path, "ptb-xl: data").digest == before
    (tmp_path / "data" / "scp_statements.csv").write_text(",description\nSR,another rhythm\n")
    assert references_of(tmp_path, "ptb-xl: data").digest != before


@pytest.fixture
def mimic(tmp_path):
    studies, _ = write_tree(tmp_path / "mimic", simulated_people(2, 1))
    return tmp_path, studies


def test_mimic(mimic):
    folder, studies = mimic
    references = references_of(folder, "mimic-iv-ecg: mimic")
    assert len(references) == 2
    for number, study in enumerate(studies):
        record, patient = references.load(number)
        assert_prepared(record)
        assert (references.name(number), patient) == (study.path, str(study.subject))
        assert (record.sex, record.report) == (study.record.sex, study.record.report)
    before = references.digest
    (folder / "mimic" / "hosp" / "patients.csv").rename(folder / "patients.csv")
    elsewhere = references_of(folder, "mimic-iv-ecg: mimic, patients: patients.csv")
    assert elsewhere.digest == before and elsewhere.load(0)[0].sex == studies[0].record.sex


def test_mimic_without_patients_needs_age_and_sex_in_every_condition(mimic):
    folder, _ = mimic
    (folder / "mimic" / "hosp" / "patients.csv").unlink()
    section = "references:\n  mimic-iv-ecg: mimic\nconditions:\n"
    error = the_error(folder, section + "  - {report: a, age: 50, sex: F}\n  - {report: a, age: 50}\n")
    assert error.startswith("plan.yaml:2: references.mimic-iv-ecg: no patients.csv of MIMIC-IV in ")
    assert "name it in references.patients, or give age and sex in every condition" in error
    draw = "  draw: {count: 1, age: 50, statements: [{report: a, sex: F}, {report: b, sex: reference}]}\n"
    assert "references.patients" in the_error(folder, section + draw)
    references = open_references(plan_of(folder, section + draw.replace("reference}", "M}")))
    record, _ = references.load(0)
    assert (record.age, record.sex) == (None, None)


def test_simulated_patients(tmp_path):
    references, same = (references_of(tmp_path, "simulated: 3, seed: 5") for _ in range(2))
    assert len(references) == 3
    loaded = [references.load(number) for number in range(3)]
    for number, (record, patient) in enumerate(loaded):
        assert_prepared(record)
        assert (references.name(number), record.source) == (f"patient-{number}/visit-0",) * 2
        assert patient == str(number)
        assert np.array_equal(record.signal, same.load(number)[0].signal)
    assert not np.array_equal(loaded[0][0].signal, loaded[1][0].signal)
    # More patients change none of the first.
    assert np.array_equal(references_of(tmp_path, "simulated: 9, seed: 5").load(1)[0].signal, loaded[1][0].signal)
    digests = {references_of(tmp_path, f"simulated: {n}, seed: {seed}").digest for n in (3, 4) for seed in (5, 6)}
    assert len(digests) == 4 and references.digest in digests


def test_what_vanished_after_the_plan_was_read(tmp_path):
    write_folder(tmp_path / "ecgs")
    plan = plan_of(tmp_path, REFERENCES.replace("simulated: 4", "wfdb: ecgs") + CONDITIONS)
    shutil.rmtree(tmp_path / "ecgs")
    with pytest.raises(RecordError, match="ecgs: no such folder"):
        open_references(plan)
