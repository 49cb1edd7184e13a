"""Intervals and morphology of records of which they are known."""

from __future__ import annotations

import numpy as np
import pytest
from ecg_samples import sample_record

from ecgtwin_fast.data.preprocess import prepare
from ecgtwin_fast.data.simulated import Patient, simulate_record
from ecgtwin_fast.evaluation import beats
from ecgtwin_fast.evaluation.beats import FEATURES, INTERVALS, delineated, measured_beats

needs_neurokit2 = pytest.mark.skipif(not beats.available(), reason="neurokit2 is not installed")


def signal(bpm: float = 72.0) -> np.ndarray:
    return prepare(sample_record(bpm=bpm, heart_rate=bpm)).signal


@needs_neurokit2
def test_intervals_and_amplitudes_of_a_known_beat():
    intervals, features = delineated(signal())
    found = dict(zip(INTERVALS, intervals, strict=True))
    assert found["RR"] == pytest.approx(60e3 / 72, abs=3)
    assert 100 < found["PR"] < 220 and 40 < found["QRS"] < 130 and 250 < found["QT"] < 450
    named = dict(zip(FEATURES, features, strict=True))
    assert named["RR deviation"] < 10
    assert np.hypot(named["axis, cosine"], named["axis, sine"]) == pytest.approx(1)
    # Leads are scaled copies of one beat: V4 is twice V2, and twice a small T wave is a T wave twice as large.
    for wave in ("R", "T", "P"):
        assert named[f"V4 {wave}"] == pytest.approx(2 * named[f"V2 {wave}"], rel=0.02), wave


@needs_neurokit2
def test_axis_follows_the_limb_leads():
    """Lead I alone is at 0 degrees, aVF alone at 90, and turned about at 180."""
    record = signal()
    for pattern, degrees in (((1, 0.5, -0.5, -0.75, 0, 0.75), 0), ((0, 1, 1, -0.5, 1, -0.5), 90)):
        record[:, :6] = signal()[:, 6:7] * np.array(pattern, np.float32)
        assert delineated(record)[0][INTERVALS.index("axis")] == pytest.approx(degrees, abs=1)
        turned = abs(delineated(-record)[0][INTERVALS.index("axis")])
        assert turned == pytest.approx(180 - degrees, abs=8)


@needs_neurokit2
def test_nothing_is_found_in_a_flat_record():
    rates, intervals, features = measured_beats([np.zeros((1024, 12), np.float32), signal(90)])
    assert np.isnan(rates[0]) and np.isnan(intervals[0]).all() and np.isnan(features[0]).all()
    assert rates[1] == pytest.approx(90, abs=1.5) and np.isfinite(features[1]).all()


def test_without_neurokit2_there_are_heart_rates_alone(monkeypatch):
    monkeypatch.setattr(beats, "available", lambda: False)
    rates, intervals, features = measured_beats([signal()])
    assert rates == pytest.approx([72], abs=1.5) and np.isnan(intervals).all() and np.isnan(features).all()


@needs_neurokit2
def test_processes_find_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    signals = [prepare(simulate_record(Patient.draw(rng), rng)).signal for _ in range(5)]
    alone = measured_beats(signals, workers=1)
    monkeypatch.setattr(beats, "FEWEST_POOLED", 1)
    monkeypatch.setattr(beats, "CHUNK", 2)
    for first, second in zip(alone, measured_beats(signals, workers=2), strict=True):
        np.testing.assert_array_equal(first, second)
