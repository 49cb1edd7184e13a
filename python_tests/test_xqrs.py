"""XQRS with faster local peaks finds wfdb's beats."""

from __future__ import annotations

import numpy as np
import pytest
import wfdb.processing
from ecg_samples import real_records, sample_record
from wfdb.processing.peaks import find_local_peaks

from ecgtwin_fast.data.simulated import Patient, simulate_record
from ecgtwin_fast.data.xqrs import local_peaks, xqrs_detect


@pytest.mark.parametrize("radius", [1, 2, 7, 30])
@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_local_peaks_are_wfdbs(radius, levels):
    rng = np.random.default_rng(radius)
    for samples in (40, 41, 500):
        # Few levels: plateaus and equal peaks.
        signal = rng.integers(levels, size=samples).astype(float) - 1
        assert local_peaks(signal, radius).tolist() == find_local_peaks(signal, radius).tolist()
    assert local_peaks(np.ones(50), radius).tolist() == find_local_peaks(np.ones(50), radius).tolist() == []


def assert_same_beats(signal):
    assert xqrs_detect(signal, 500).tolist() == wfdb.processing.xqrs_detect(signal, 500, verbose=False).tolist()


def test_beats_are_wfdbs():
    rng = np.random.default_rng(0)
    for _ in range(6):
        record = simulate_record(Patient.draw(rng), rng, sampling_rate=500, samples=5000)
        for lead in ("II", "V2"):
            assert_same_beats(record.lead(lead).astype(float))
    assert_same_beats(sample_record().lead("V1").astype(float))
    assert_same_beats(rng.normal(size=5000))
    assert_same_beats(np.linspace(0, 1, 5000))


def test_real_beats_are_wfdbs():
    data = real_records()
    for ecg_id in list(data.rows)[:12]:
        assert_same_beats(data.record(ecg_id).lead("II").astype(float))


def test_wfdb_itself_stays_as_it_is():
    xqrs_detect(sample_record().lead("II").astype(float), 500)
    assert wfdb.processing.qrs.find_local_peaks is find_local_peaks
