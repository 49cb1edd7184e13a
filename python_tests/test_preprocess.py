"""The model's input: leads, length, resampling and heart rate."""

from __future__ import annotations

import numpy as np
import pytest
from ecg_samples import CHEST, CLINICAL, real_records, sample_record

from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.preprocess import SAMPLES, SAMPLING_RATE, heart_rate_xqrs, prepare, resample


@pytest.mark.parametrize("rate", [100.0, 128.0, 257.0, 333.3, 360.0, 500.0, 1000.0])
def test_any_rate_becomes_1024_samples_of_the_same_curve(rate):
    prepared = prepare(sample_record(rate, bpm=66, heart_rate=66, age=50, sex="F", report="sinus rhythm"))
    expected = sample_record(SAMPLING_RATE, bpm=66)
    assert prepared.signal.shape == (SAMPLES, 12) and prepared.signal.dtype == np.float32
    assert (prepared.sampling_rate, prepared.leads) == (SAMPLING_RATE, MODEL_LEADS)
    assert (prepared.age, prepared.sex, prepared.report) == (50, "F", "sinus rhythm")
    for lead in MODEL_LEADS:
        error = np.linalg.norm(prepared.lead(lead) - expected.lead(lead)) / np.linalg.norm(
            expected.lead(lead)
        )
        # QRS of 10 ms is wider than the filter's transition only in part.
        assert error < 0.06, (lead, error)


def test_a_record_in_the_models_form_stays_as_it_is():
    record = sample_record(SAMPLING_RATE, leads=MODEL_LEADS, heart_rate=72.0)
    np.testing.assert_array_equal(prepare(record).signal, record.signal)


def test_only_the_first_ten_seconds_count():
    long, short = sample_record(seconds=25.0), sample_record()
    np.testing.assert_allclose(prepare(long).signal, prepare(short).signal)


def test_a_tiny_shortfall_is_filled_with_the_last_sample():
    prepared = prepare(sample_record(SAMPLING_RATE, seconds=1020 / SAMPLING_RATE, heart_rate=70.0))
    assert prepared.signal.shape == (SAMPLES, 12)
    np.testing.assert_array_equal(prepared.signal[1020:], np.repeat(prepared.signal[1019:1020], 4, axis=0))


def test_resampling_removes_what_the_new_rate_cannot_hold():
    time = np.arange(5000) / 500
    low, high = np.sin(2 * np.pi * 7 * time), np.sin(2 * np.pi * 80 * time)
    inside = slice(20, -20)
    resampled = resample(3 + low + high, 500, SAMPLING_RATE)
    expected = 3 + np.sin(2 * np.pi * 7 * np.arange(SAMPLES) / SAMPLING_RATE)
    np.testing.assert_allclose(resampled[inside], expected[inside], atol=0.01)
    # Nothing of the offset of 3 is lost at the ends, where the filter has one side only.
    assert np.abs(resampled - expected).max() < 0.4


@pytest.mark.parametrize(
    "leads",
    [
        ("I", "II", *CHEST),
        ("II", "III", "aVL", *CHEST),
        (*CLINICAL, "vx", "vy", "vz"),
        tuple(reversed(CLINICAL)),
    ],
)
def test_fewer_more_and_reordered_leads_give_the_same_input(leads):
    np.testing.assert_allclose(
        prepare(sample_record(leads=leads)).signal, prepare(sample_record()).signal, atol=1e-5
    )


@pytest.mark.parametrize("bpm", [30, 45, 60, 78, 110, 150, 190])
@pytest.mark.parametrize("rate", [SAMPLING_RATE, 500.0])
def test_xqrs_finds_the_rate_of_a_known_rhythm(bpm, rate):
    record = sample_record(rate, bpm=bpm)
    assert heart_rate_xqrs(record.signal, rate, record.leads) == pytest.approx(bpm, abs=1.0)


def test_a_lead_without_beats_is_passed_over():
    record = sample_record(bpm=80)
    record.signal[:, record.leads.index("II")] = np.linspace(0, 0.3, 5000)
    assert heart_rate_xqrs(record.signal, 500, record.leads) == pytest.approx(80, abs=1)


def test_a_stated_heart_rate_is_kept():
    assert prepare(sample_record(bpm=80, heart_rate=133.0)).heart_rate == 133.0


def test_the_heart_rate_of_real_records_survives_resampling():
    data = real_records()
    for ecg_id in list(data.rows)[:30:3]:
        record = data.record(ecg_id)
        prepared = prepare(record)
        again = heart_rate_xqrs(prepared.signal, prepared.sampling_rate, prepared.leads)
        assert again == pytest.approx(prepared.heart_rate, abs=1.0), ecg_id
        assert np.isfinite(prepared.signal).all() and prepared.leads == MODEL_LEADS


def test_real_limb_leads_obey_einthoven_after_preparation():
    data = real_records()
    for ecg_id in list(data.rows)[:10]:
        prepared = prepare(data.record(ecg_id))
        left = prepared.lead("I") + prepared.lead("III") - prepared.lead("II")
        assert np.sum(left**2) < 0.01 * np.sum(prepared.lead("II") ** 2), ecg_id
