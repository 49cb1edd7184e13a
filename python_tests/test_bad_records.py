"""Bad files and signals: each a specific exception naming file, lead and limit; nothing half-written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import wfdb
from ecg_samples import CHEST, CLINICAL, sample_record

from ecgtwin_fast.data.leads import select_leads
from ecgtwin_fast.data.preprocess import prepare
from ecgtwin_fast.data.ptbxl import PTBXL
from ecgtwin_fast.data.record import Record, read_record, write_wfdb
from ecgtwin_fast.errors import LeadError, RecordError


def changed(lead, start, stop, value):
    record = sample_record(source="r.hea")
    record.signal[start:stop, record.leads.index(lead)] = value
    return record


def drifting():
    drift = np.linspace(0, 0.5, 5000)[:, None] * np.ones((1, 12))
    return Record(drift, 500, CLINICAL, source="r.hea")


@pytest.mark.parametrize(
    "make, exception, message",
    [
        (
            lambda: changed("V3", 100, 103, np.nan),
            RecordError,
            "lead V3 holds 3 missing or infinite samples of 5000",
        ),
        (lambda: changed("V3", 7, 8, np.inf), RecordError, "lead V3 holds 1 missing or infinite"),
        (
            lambda: changed("aVL", 0, 5000, 0.7),
            RecordError,
            "lead aVL is flat: 0.0000 mV peak to peak, expected",
        ),
        (lambda: changed("II", 40, 41, 21.5), RecordError, "lead II reaches 21.5 mV, expected at most 20 mV"),
        (
            lambda: replace(sample_record(source="r.hea"), signal=sample_record().signal * 1e3),
            RecordError,
            "units mV?",
        ),
        (
            lambda: replace(sample_record(source="r.hea"), signal=sample_record().signal / 1e3),
            RecordError,
            "units mV?",
        ),
        (
            lambda: sample_record(seconds=9.5, source="r.hea"),
            RecordError,
            "9.5 s long, expected at least 10 s",
        ),
        (lambda: sample_record(seconds=9.94, source="r.hea"), RecordError, "9.94 s long"),
        (
            lambda: sample_record(40, source="r.hea"),
            RecordError,
            "sampling rate 40 Hz, expected 50 Hz or more",
        ),
        (
            lambda: sample_record(leads=("I", "II", "V2"), source="r.hea"),
            LeadError,
            "missing leads V1, V3, V4, V5, V6",
        ),
        (
            lambda: sample_record(leads=("I", *CHEST), source="r.hea"),
            LeadError,
            "missing leads II, III, aVR, aVF, aVL",
        ),
        (lambda: sample_record(leads=(*CLINICAL, "I"), source="r.hea"), LeadError, "lead I occurs twice"),
        (drifting, RecordError, "no heartbeats found"),
    ],
)
def test_signals_that_cannot_be_used(make, exception, message):
    with pytest.raises(exception) as error:
        prepare(make())
    assert message in str(error.value) and "r.hea" in str(error.value)


def test_missing_leads_are_named_with_those_that_are_there():
    with pytest.raises(LeadError, match=r"missing leads I, .*V6 \(there are vx, vy, vz\)"):
        select_leads(np.zeros((5, 3)), ("vx", "vy", "vz"))


def make_wfdb(tmp_path):
    write_wfdb(sample_record(), tmp_path, "r")
    return tmp_path / "r.hea"


def truncated(tmp_path):
    make_wfdb(tmp_path)
    content = (tmp_path / "r.dat").read_bytes()
    (tmp_path / "r.dat").write_bytes(content[: len(content) // 2])
    return tmp_path / "r"


def without_signal(tmp_path):
    header = make_wfdb(tmp_path)
    (tmp_path / "r.dat").unlink()
    return header


def header_with(text):
    def make(tmp_path):
        (tmp_path / "r.hea").write_text(text)
        return tmp_path / "r"

    return make


def strange_unit(tmp_path):
    wfdb.wrsamp(
        "r", 500, ["mmHg"], ["II"], np.sin(np.arange(99.0))[:, None], fmt=["16"], write_dir=str(tmp_path)
    )
    return tmp_path / "r"


def file_with(name, content):
    def make(tmp_path):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return make


def npz_with(**arrays):
    def make(tmp_path):
        np.savez(tmp_path / "r.npz", **arrays)
        return tmp_path / "r.npz"

    return make


def object_npy(tmp_path):
    np.save(tmp_path / "r.npy", np.array([{"a": 1}], dtype=object))
    return tmp_path / "r.npy"


@pytest.mark.parametrize(
    "make, options, message",
    [
        (lambda folder: folder / "r", {}, "r.hea: no such file; a WFDB record needs its header"),
        (lambda folder: folder / "r.csv", {}, "r.csv: no such file"),
        (lambda folder: folder / "r.npz", {}, "r.npz: no such file"),
        (lambda folder: folder, {}, "expected a WFDB record"),
        (
            file_with("r.txt", b"x"),
            {},
            "r.txt: expected a WFDB record (.hea, .dat, .mat or their stem), .csv",
        ),
        (truncated, {}, "r: not readable as WFDB (truncated or damaged?)"),
        (without_signal, {}, "r.dat: no such file, though r.hea names it"),
        (header_with(""), {}, "r: not readable as WFDB"),
        (
            header_with("r 1 500 0\nr.dat 16 1000/mV 16 0 0 0 0 I\n"),
            {},
            "r.hea: the header states no samples",
        ),
        (header_with("r 1 0 99\nr.dat 16 1000/mV 16 0 0 0 0 I\n"), {}, "r.hea: sampling rate is 0"),
        (strange_unit, {}, "lead II is in 'mmHg', expected V, mV, µV or nV"),
        (make_wfdb, {"offset": 10}, "r.hea: offset 10 s is past its end, 10 s"),
        (make_wfdb, {"offset": -1}, "r.hea: offset is -1 s"),
        (make_wfdb, {"seconds": 0}, "r.hea: offset is 0 s, length 0 s"),
        (file_with("r.csv", b"I,II\n"), {}, "r.csv: expected a header of lead names and a row per sample"),
        (file_with("r.csv", b"I,II\n1,2\n3,4\n"), {}, "r.csv: no column 'time' in seconds"),
        (file_with("r.csv", b"time,I\n0,1\n0,2\n0,3\n"), {}, "r.csv: column 'time' must rise evenly"),
        (file_with("r.csv", b"time,I\n0,1\n1,2\n9,3\n"), {}, "r.csv: column 'time' must rise evenly"),
        (file_with("r.csv", b"time,I\n0,1\n1\n"), {}, "r.csv: row 3 has 1 cells, the header has 2"),
        (
            file_with("r.csv", b"time,I\n0,one\n1,2\n"),
            {},
            "r.csv: row 2 holds a cell that is not a number: 0, one",
        ),
        (file_with("r.csv", b"\xff\xfe\x00I"), {}, "r.csv: not readable as CSV"),
        (file_with("r.csv", b"I,II\n1,2\n"), {"sampling_rate": -5}, "r.csv: sampling rate is -5 Hz"),
        (file_with("r.npz", b"no archive"), {}, "r.npz: not readable as NumPy"),
        (file_with("r.npy", b"\x93NUMPY\x01"), {}, "r.npy: not readable as NumPy"),
        (object_npy, {}, "r.npy: not readable as NumPy"),
        (npz_with(signal=np.zeros((9, 2))), {}, "r.npz: sampling_rate, leads missing"),
        (
            npz_with(signal=np.zeros((9, 2)), sampling_rate=5, leads=["I"]),
            {},
            "signal of shape (9, 2) does not fit",
        ),
        (npz_with(signal=np.zeros((9, 1)), sampling_rate="x", leads=["I"]), {}, "r.npz: could not convert"),
        (npz_with(signal=np.zeros((9, 1)), sampling_rate=5, leads=["I"], age=[1, 2]), {}, "r.npz: "),
    ],
)
def test_files_that_cannot_be_read(tmp_path, make, options, message):
    path = make(tmp_path)
    with pytest.raises(RecordError) as error:
        read_record(path, **options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "record, name, message",
    [
        (changed("V2", 5, 9, np.nan), "r", "r.hea: lead V2 holds 4 samples that are not finite"),
        (changed("V2", 5, 6, 40.0), "r", "r.hea: lead V2 reaches 40.0 mV; 16 bit hold ±32.767 mV"),
        (sample_record(), "a.b", "a.b.hea: a WFDB record's name holds letters"),
        (sample_record(), "../r", "a WFDB record's name holds letters"),
        (sample_record(), "", "a WFDB record's name holds letters"),
    ],
)
def test_records_that_cannot_be_written_leave_nothing(tmp_path, record, name, message):
    with pytest.raises(RecordError) as error:
        write_wfdb(record, tmp_path / "out", name)
    assert message in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_the_older_record(tmp_path, monkeypatch):
    write_wfdb(sample_record(), tmp_path, "r")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = wfdb.wrsamp

    def full_disk(name, **options):
        write(name, **options)
        raise OSError("no space left on device")

    monkeypatch.setattr(wfdb, "wrsamp", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_wfdb(sample_record(bpm=100), tmp_path, "r")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "shape, rate, leads, message",
    [
        ((10,), 500, ("I",), "signal of shape (10,), expected (samples, 1 leads)"),
        ((10, 3), 500, ("I", "II"), "signal of shape (10, 3), expected (samples, 2 leads)"),
        ((10, 1), 0, ("I",), "sampling rate is 0 Hz"),
        ((10, 1), float("nan"), ("I",), "sampling rate is nan Hz"),
    ],
)
def test_records_whose_parts_do_not_fit(shape, rate, leads, message):
    with pytest.raises(RecordError) as error:
        Record(np.zeros(shape), rate, leads, source="r.hea")
    assert message in str(error.value) and "r.hea" in str(error.value)


def test_an_absent_lead_is_named():
    with pytest.raises(RecordError, match="record: no lead V9 among I, II"):
        sample_record().lead("V9")


def test_a_folder_without_a_database_is_no_ptbxl(tmp_path):
    with pytest.raises(RecordError, match="no ptbxl_database.csv"):
        PTBXL(tmp_path)
