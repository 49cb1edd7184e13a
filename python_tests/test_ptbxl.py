"""PTB-XL's own layout: a small copy of it made here, and the real one where it is."""

from __future__ import annotations

import os

import numpy as np
import pytest
from ecg_samples import CLINICAL, real_records, sample_record

from ecgtwin_fast.data.ptbxl import PTBXL, ptbxl_root
from ecgtwin_fast.data.record import read_record, write_wfdb
from ecgtwin_fast.errors import RecordError

COLUMNS = "ecg_id,patient_id,age,sex,report,scp_codes,strat_fold,filename_lr,filename_hr"
ROWS = """\
1,15.0,56.0,1,"ekg, normal","{'NORM': 100.0, 'LVOLT': 0.0, 'SR': 0.0}",3,LOW/00001_lr,HIGH/00001_hr
2,13.0,300.0,0,,"{'SR': 0.0, 'OWN': 100.0, 'AFIB': 50.0, 'NORM': 80.0}",10,LOW/00002_lr,HIGH/00002_hr
7,15.0,,,,"{'OWN': 100.0}",1,LOW/00007_lr,HIGH/00007_hr
""".replace("LOW", "records100/00000").replace("HIGH", "records500/00000")
STATEMENTS = """\
,description,diagnostic
NORM,normal ECG,1.0
LVOLT,"low QRS voltages in the frontal, horizontal leads",
SR,sinus rhythm,
AFIB,atrial fibrillation,
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "ptbxl_database.csv").write_text(f"{COLUMNS}\n{ROWS}")
    (tmp_path / "scp_statements.csv").write_text(STATEMENTS)
    for ecg_id in (1, 2, 7):
        leads = tuple(lead.upper() for lead in CLINICAL)
        for rate, short in ((500, "hr"), (100, "lr")):
            record = sample_record(rate, bpm=50 + 10 * ecg_id)
            record.leads = leads
            write_wfdb(record, tmp_path / f"records{rate}" / "00000", f"{ecg_id:05d}_{short}")
    return tmp_path


def test_rows_carry_age_sex_and_english_report(root):
    data = PTBXL(root)
    assert len(data) == 3
    first, second, third = data.rows.values()
    assert (first.patient_id, first.age, first.sex, first.strat_fold) == (15, 56.0, "F", 3)
    assert first.report == "normal ECG|low QRS voltages in the frontal, horizontal leads|sinus rhythm"
    assert (second.age, second.sex, second.strat_fold) == (90.0, "M", 10)
    assert second.report == "normal ECG|atrial fibrillation|sinus rhythm"
    assert (third.age, third.sex, third.report) == (None, None, None)


def test_patients_and_records_in_order(root):
    data = PTBXL(root / "records500" / "00000")
    assert data.patients() == {15: [1, 7], 13: [2]}
    seen = [(row.ecg_id, record.sampling_rate, record.signal.shape) for row, record in data.records(rate=100)]
    assert seen == [(1, 100.0, (1000, 12)), (2, 100.0, (1000, 12)), (7, 100.0, (1000, 12))]


def test_records_are_read_when_asked_for(root):
    records = PTBXL(root).records()
    assert next(records)[0].ecg_id == 1
    for path in (root / "records500" / "00000").glob("00002*"):
        path.unlink()
    with pytest.raises(RecordError, match="00002_hr.hea: no such file"):
        next(records)


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_a_path_inside_the_folder_finds_its_row(root, suffix, monkeypatch):
    monkeypatch.chdir(root / "records500")
    for folder in (root / "records500" / "00000", "00000"):
        record = read_record(f"{folder}/00001_hr{suffix}")
        assert (record.age, record.sex, record.source) == (56.0, "F", "PTB-XL ecg_id 1")
        assert record.report.startswith("normal ECG|")
    assert read_record(root / "records100" / "00000" / "00002_lr", age=33).age == 33


def test_a_record_beside_the_data_set_is_none_of_its_rows(root):
    write_wfdb(sample_record(age=20), root, "own")
    record = read_record(root / "own")
    assert (record.age, record.report, record.source) == (20, None, str(root / "own"))


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda data: data.record(3), "no ecg_id 3 in its database of 3 records"),
        (lambda data: data.path(1, rate=250), "100 Hz and 500 Hz, not 250 Hz"),
    ],
)
def test_what_is_not_there_is_named(root, ask, message):
    with pytest.raises(RecordError, match=message):
        ask(PTBXL(root))


def test_a_damaged_database_names_the_row(root):
    path = root / "ptbxl_database.csv"
    path.write_text(path.read_text().replace("'OWN': 100.0}\",1", "'OWN': \",1"))
    with pytest.raises(RecordError, match="ptbxl_database.csv: ecg_id 7"):
        PTBXL(root)


def test_missing_statements_are_named(root):
    (root / "scp_statements.csv").unlink()
    with pytest.raises(RecordError, match="scp_statements.csv: PTB-XL table not readable"):
        PTBXL(root)


def test_the_root_comes_from_the_environment(root, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ECGTWIN_PTBXL", str(root))
    assert ptbxl_root() == root
    monkeypatch.setenv("ECGTWIN_PTBXL", str(root / "records500"))
    assert ptbxl_root() is None
    monkeypatch.delenv("ECGTWIN_PTBXL")
    checkout = tmp_path_factory.mktemp("checkout")
    monkeypatch.chdir(checkout)
    assert ptbxl_root() is None
    (checkout.parent / "shared" / "ecg").mkdir(parents=True)
    os.symlink(root, checkout.parent / "shared" / "ecg" / "ptb-xl")
    try:
        assert ptbxl_root().resolve() == root
    finally:
        (checkout.parent / "shared" / "ecg" / "ptb-xl").unlink()
        (checkout.parent / "shared" / "ecg").rmdir()
        (checkout.parent / "shared").rmdir()


def test_real_rows_are_complete():
    data = real_records()
    assert len(data) == sum(len(ids) for ids in data.patients().values())
    for row in data.rows.values():
        assert row.sex in ("F", "M") and row.report and 1 <= row.strat_fold <= 10
        assert row.age is None or 0 < row.age <= 90


def test_a_real_record_has_both_rates_of_one_curve():
    data = real_records()
    ecg_id = next(iter(data.rows))
    fine, coarse = data.record(ecg_id), data.record(ecg_id, rate=100)
    assert fine.signal.shape == (5000, 12) and coarse.signal.shape == (1000, 12)
    assert np.corrcoef(fine.lead("II")[::5], coarse.lead("II"))[0, 1] > 0.95
