"""Records: leads by name, WFDB, CSV and NumPy files, header comments."""

from __future__ import annotations

import numpy as np
import pytest
import wfdb
from ecg_samples import CHEST, CLINICAL, limb_leads, sample_record

from ecgtwin_fast.data.comments import parse_comments
from ecgtwin_fast.data.leads import MODEL_LEADS, model_name, select_leads
from ecgtwin_fast.data.record import Record, read_record, write_wfdb
from ecgtwin_fast.data.snomed import STATEMENTS

LIMB = ("I", "II", "III", "aVR", "aVL", "aVF")


def write_with_wfdb(folder, signal, leads, units, rate=500, comments=()):
    wfdb.wrsamp(
        "r", fs=rate, units=units, sig_name=list(leads), p_signal=signal, fmt=["16"] * len(leads),
        write_dir=str(folder), comments=list(comments),
    )  # fmt: skip
    return folder / "r"


@pytest.mark.parametrize(
    "name, lead",
    [
        ("AVR", "aVR"),
        ("avl", "aVL"),
        (" ii ", "II"),
        ("Lead I", "I"),
        ("lead_III", "III"),
        ("MDC_ECG_LEAD_V1", "V1"),
        ("MDC_ECG_LEAD_aVF", "aVF"),
        ("ECG V6", "V6"),
        ("ECG Lead II", "II"),
        ("v2 (mV)", "V2"),
        ("V3 [µV]", "V3"),
        ("vx", None),
        ("MLII", None),
        ("V7", None),
        ("V10", None),
        ("resp", None),
    ],
)
def test_lead_names_and_their_variants(name, lead):
    assert model_name(name) == lead


def test_leads_are_taken_by_name_never_by_place():
    signal = np.arange(24, dtype=np.float32).reshape(2, 12)
    for names in (CLINICAL, tuple(name.upper() for name in reversed(CLINICAL))):
        picked, leads = select_leads(signal, names)
        assert leads == MODEL_LEADS
        for column, lead in enumerate(MODEL_LEADS):
            place = [model_name(name) for name in names].index(lead)
            np.testing.assert_array_equal(picked[:, column], signal[:, place])


@pytest.mark.parametrize("pair", [(a, b) for i, a in enumerate(LIMB) for b in LIMB[i + 1 :]])
def test_any_two_limb_leads_give_the_other_four(pair):
    rng = np.random.default_rng(0)
    table = limb_leads(rng.normal(size=50), rng.normal(size=50))
    chest = rng.normal(size=(50, 6))
    signal = np.column_stack([table[pair[0]], table[pair[1]], chest])
    picked, _ = select_leads(signal, (*pair, *CHEST))
    for column, lead in enumerate(MODEL_LEADS[:6]):
        np.testing.assert_allclose(picked[:, column], table[lead], atol=1e-6)
    np.testing.assert_array_equal(picked[:, 6:], chest.astype(np.float32))


def test_wfdb_round_trip_keeps_signal_and_condition(tmp_path):
    record = sample_record(102.4, age=71.5, sex="F", report="atrial fibrillation|für $5", heart_rate=120.25)
    header = write_wfdb(
        record, tmp_path / "new" / "folder", "twin-1", ["synthetic, not for diagnosis", "model:\na"]
    )
    back = read_record(header)
    assert np.abs(back.signal - record.signal).max() <= 0.00051
    assert (back.leads, back.sampling_rate, back.duration) == (CLINICAL, 102.4, 10.0)
    assert (back.age, back.sex, back.report, back.heart_rate) == (71.5, "F", record.report, 120.25)
    plain = wfdb.rdrecord(str(header.with_suffix("")))
    assert set(plain.units) == {"mV"} and plain.adc_gain == [1000.0] * 12 and plain.fmt == ["16"] * 12
    assert plain.comments[:2] == ["synthetic, not for diagnosis", "model: a"]
    assert sorted(path.name for path in header.parent.iterdir()) == ["twin-1.dat", "twin-1.hea"]


def test_a_written_record_replaces_an_older_one(tmp_path):
    write_wfdb(sample_record(bpm=60), tmp_path, "r")
    write_wfdb(sample_record(bpm=90), tmp_path, "r")
    assert np.abs(read_record(tmp_path / "r").signal - sample_record(bpm=90).signal).max() < 0.001


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_header_signal_file_or_stem_name_a_record(tmp_path, suffix):
    write_wfdb(sample_record(), tmp_path, "r")
    assert read_record(f"{tmp_path}/r{suffix}").signal.shape == (5000, 12)


@pytest.mark.parametrize("unit, factor", [("mV", 1.0), ("uV", 1e-3), ("V", 1e3), ("nV", 1e-6)])
def test_other_units_become_millivolt(tmp_path, unit, factor):
    signal = np.sin(np.arange(1000) / 20)[:, None] * np.array([1.0, 2.0])
    stem = write_with_wfdb(tmp_path, signal, ("I", "II"), [unit] * 2)
    np.testing.assert_allclose(read_record(stem).signal, signal * factor, atol=1e-4 * factor)


def test_other_channels_keep_their_unit(tmp_path):
    signal = np.sin(np.arange(1000) / 20)[:, None] * np.array([1.0, 2.0])
    record = read_record(write_with_wfdb(tmp_path, signal, ("I", "resp"), ["mV", "Ohm"]))
    np.testing.assert_allclose(record.lead("resp"), signal[:, 1], atol=1e-3)


def test_missing_samples_stay_nan(tmp_path):
    signal = np.ones((1000, 2)) * np.linspace(-1, 1, 1000)[:, None]
    signal[10:13, 1] = np.nan
    record = read_record(write_with_wfdb(tmp_path, signal, ("I", "II"), ["mV"] * 2))
    assert np.isnan(record.lead("II")).sum() == 3 and not np.isnan(record.lead("I")).any()


@pytest.mark.parametrize(
    "options, first, length",
    [
        ({}, 0, 5000),
        ({"offset": 4.5}, 2250, 5000),
        ({"seconds": None}, 0, 10000),
        ({"offset": 15}, 7500, 2500),
    ],
)
def test_a_window_of_a_long_record(tmp_path, options, first, length):
    record = sample_record(seconds=20, bpm=63)
    write_wfdb(record, tmp_path, "long")
    np.savez(tmp_path / "long.npz", signal=record.signal, sampling_rate=500, leads=record.leads)
    for path in (tmp_path / "long", tmp_path / "long.npz"):
        read = read_record(path, **options)
        assert read.signal.shape == (length, 12)
        np.testing.assert_allclose(read.signal, record.signal[first : first + length], atol=0.001)


@pytest.mark.parametrize(
    "comments, fields",
    [
        (["Age: 63", "Sex: Female"], {"age": 63.0, "sex": "F"}),
        (["<age>: 63  <sex>: M  <diagnoses>: (none)"], {"age": 63.0, "sex": "M"}),
        (["Dx: 164889003,59931005,999"], {"report": "atrial fibrillation|T wave inversion"}),
        (["Dx: 999"], {}),
        (["diagnosis: Sinus rhythm, 1st degree AV block"], {"report": "Sinus rhythm|1st degree AV block"}),
        (["Dx: 426783006", "Report: a|b: c"], {"report": "a|b: c"}),
        (["Heart rate: 71.5", "gender: m"], {"heart_rate": 71.5, "sex": "M"}),
        (["Age: NaN", "Sex: Unknown", "no field", ""], {}),
    ],
)
def test_header_comments(comments, fields):
    assert parse_comments(comments) == fields


def test_snomed_statements_are_distinct():
    assert len(set(STATEMENTS.values())) == len(STATEMENTS) and all(code.isdigit() for code in STATEMENTS)


def test_comments_of_a_foreign_header_are_read(tmp_path):
    signal = np.sin(np.arange(1000) / 20)[:, None]
    record = read_record(
        write_with_wfdb(tmp_path, signal, ["I"], ["mV"], comments=["Age: 63", "Dx: 164889003"])
    )
    assert (record.age, record.report) == (63.0, "atrial fibrillation")


def write_csv(path, record, time=True, decimals=5):
    names = (["time"] if time else []) + list(record.leads)
    columns = [np.arange(len(record.signal))[:, None] / record.sampling_rate] if time else []
    np.savetxt(
        path,
        np.hstack([*columns, record.signal]),
        delimiter=",",
        header=",".join(names),
        comments="",
        fmt=f"%.{decimals}f",
    )


@pytest.mark.parametrize("rate, decimals", [(500.0, 5), (102.4, 4), (360.0, 3)])
def test_csv_takes_its_rate_from_the_time_column(tmp_path, rate, decimals):
    record = sample_record(rate)
    write_csv(tmp_path / "r.csv", record, decimals=decimals)
    read = read_record(tmp_path / "r.csv")
    assert read.sampling_rate == pytest.approx(rate, rel=1e-4) and read.leads == CLINICAL
    np.testing.assert_allclose(read.signal, record.signal, atol=10.0**-decimals)


def test_csv_without_times_takes_the_rate_given_and_empty_cells_are_missing(tmp_path):
    write_csv(tmp_path / "r.csv", sample_record(100), time=False)
    lines = (tmp_path / "r.csv").read_text().splitlines()
    lines[3] = "," + lines[3].split(",", 1)[1]
    (tmp_path / "r.csv").write_text("\n".join(lines))
    record = read_record(tmp_path / "r.csv", sampling_rate=100)
    assert (
        record.signal.shape == (1000, 12)
        and np.isnan(record.signal).sum() == 1
        and np.isnan(record.signal[2, 0])
    )


def test_npz_carries_everything_and_npy_what_is_given(tmp_path):
    record = sample_record(250)
    np.savez(
        tmp_path / "r.npz",
        signal=record.signal,
        sampling_rate=250,
        leads=record.leads,
        age=50,
        sex="M",
        report="a|b",
    )
    np.save(tmp_path / "r.npy", record.signal)
    full = read_record(tmp_path / "r.npz")
    bare = read_record(tmp_path / "r.npy", sampling_rate=250, leads=CLINICAL, sex="F")
    assert (full.age, full.sex, full.report, full.source) == (50.0, "M", "a|b", str(tmp_path / "r.npz"))
    assert (bare.age, bare.sex, bare.sampling_rate, bare.leads) == (None, "F", 250.0, CLINICAL)
    np.testing.assert_array_equal(full.signal, bare.signal)


def test_given_fields_replace_the_files_and_none_does_not(tmp_path):
    write_wfdb(sample_record(age=30, sex="M", report="a"), tmp_path, "r")
    record = read_record(tmp_path / "r", age=40, sex=None, report="b", heart_rate=88)
    assert (record.age, record.sex, record.report, record.heart_rate) == (40, "M", "b", 88)
    with pytest.raises(TypeError, match="no argument agee"):
        read_record(tmp_path / "r", agee=40)


def test_duration_and_lead():
    record = Record(np.zeros((30, 2)), 10, ["I", "II"])
    assert record.duration == 3.0 and record.signal.dtype == np.float32 and record.leads == ("I", "II")
    assert record.lead("II").shape == (30,)
