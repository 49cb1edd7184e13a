"""Records that are read directly come out as the wfdb package reads them; all others are left to it."""

from __future__ import annotations

import numpy as np
import pytest
import wfdb
from ecg_samples import CLINICAL, real_records, sample_record

from ecgtwin_fast.data.arrays import Window
from ecgtwin_fast.data.record import read_record, write_wfdb
from ecgtwin_fast.data.wfdb_plain import read_plain
from ecgtwin_fast.errors import RecordError

WINDOWS = [Window(), Window(2.5, 3.0), Window(0.0, None), Window(9.9, 10.0)]


@pytest.fixture
def header(tmp_path):
    return write_wfdb(sample_record(), tmp_path, "r", comments=["# Age: 40", "ü"])


def edit(header, old, new, count=-1):
    text = header.read_text()
    assert old in text
    header.write_text(text.replace(old, new, count))


def assert_as_wfdb(header, window=WINDOWS[0]):
    signal, rate, names, units = read_plain(header, window)
    first = round(window.offset * rate)
    last = None if window.seconds is None else first + round(window.seconds * rate)
    expected = wfdb.rdrecord(str(header.with_suffix("")))
    assert np.array_equal(signal, expected.p_signal[first:last], equal_nan=True)
    assert (rate, names, units) == (expected.fs, expected.sig_name, expected.units)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_plain_record(header, window):
    assert_as_wfdb(header, window)


@pytest.mark.parametrize(
    "old, new",
    [
        ("1000.0(0)/mV 16 0", "200(-17)/uV 16 0"),
        ("1000.0(0)/mV 16 0", "200/mV 12 1024"),
        ("1000.0(0)/mV 16 0", "200 16 0"),
        ("r 12 500 5000", "r 12 499.5 5000 10:31:00 23/07/2180"),
        (" aVL\n", " lead aVL \n"),
    ],
)
def test_headers_in_other_words(header, old, new):
    edit(header, old, new)
    assert_as_wfdb(header)


def test_missing_samples_are_nan(header):
    path = header.with_suffix(".dat")
    units = np.fromfile(path, "<i2").reshape(-1, 12)
    units[100:103, CLINICAL.index("V2")] = -32768
    units.tofile(path)
    assert_as_wfdb(header)
    signal = read_record(header).lead("V2")
    assert np.flatnonzero(np.isnan(signal)).tolist() == [100, 101, 102]


def test_real_records_are_plain():
    data = real_records()
    for ecg_id in list(data.rows)[:20]:
        for rate in (100, 500):
            assert_as_wfdb(data.path(ecg_id, rate).with_suffix(".hea"))


@pytest.mark.parametrize(
    "old, new",
    [
        ("r.dat 16 ", "r.dat 16x2 "),
        ("r.dat 16 ", "r.dat 16+24 "),
        ("r.dat 16 ", "r.dat 212 "),
        ("1000.0(0)/mV", "0(0)/mV"),
        ("1000.0(0)/mV", "1e3(0)/mV"),
        ("r 12 500 5000", "r 12 500"),
        ("r 12 500 5000", "r 12 500/25 5000"),
        ("r 12 500 5000", "r 12 500 5001"),
        ("r 12 500 5000", "r 13 500 5000"),
        ("r 12 500 5000", "r/2 12 500 5000"),
        ("r.dat", "missing.dat"),
        (" aVL\n", " aVÜ\n"),
    ],
)
def test_other_layouts_are_left_to_wfdb(header, old, new):
    edit(header, old, new)
    assert read_plain(header, Window()) is None


def test_two_signal_files_are_left_to_wfdb(header):
    edit(header, "r.dat", "other.dat", count=1)
    header.with_name("other.dat").write_bytes(header.with_suffix(".dat").read_bytes())
    assert read_plain(header, Window()) is None


def test_compressed_records_are_read_all_the_same(tmp_path):
    units = np.round(sample_record().signal * 200).astype(np.int16)
    wfdb.wrsamp(
        "c", 500, ["mV"] * 12, list(CLINICAL), d_signal=units, fmt=["212"] * 12, adc_gain=[200.0] * 12,
        baseline=[0] * 12, write_dir=str(tmp_path),
    )  # fmt: skip
    assert read_plain(tmp_path / "c.hea", Window()) is None
    assert np.abs(read_record(tmp_path / "c").signal - sample_record().signal).max() <= 0.5 / 200 + 1e-6


def test_a_window_past_the_end_is_named(header):
    with pytest.raises(RecordError, match="offset 10 s is past its end, 10 s"):
        read_plain(header, Window(10.0))
