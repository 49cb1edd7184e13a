"""The simulated cohort: reproducible, physically consistent, and true to the condition asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import find_peaks

from ecgtwin_fast.data import simulated
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.preprocess import heart_rate_xqrs
from ecgtwin_fast.data.record import read_record
from ecgtwin_fast.data.simulated import Condition, Patient, simulate, simulate_pair
from ecgtwin_fast.data.simulated_heart import P_WAVES, QRS_WAVES, REPOLARISATION_WAVES, Heart
from ecgtwin_fast.data.simulated_rhythms import draw_beats
from ecgtwin_fast.data.simulated_vocabulary import ABNORMAL, HEALTHY, NORMAL, RAPID, SLOW, effects_of
from ecgtwin_fast.errors import ConditionError

SHIPPED = Path(simulated.__file__).parent / "patient"
RATE = 500.0
HEADER_COMMENTS = [
    "# simulated",
    "# Age: 63",
    "# Sex: F",
    "# Report: normal ECG|sinus rhythm",
    "# Heart rate: 68",
]


def ecg(
    report: str, heart_rate: float = 70, seed: int = 0, noise: float = 0.0, age: float = 60
) -> dict[str, np.ndarray]:
    """Leads by name, 10 s at 500 Hz, of the patient that `seed` draws."""
    rng = np.random.default_rng(seed)
    patient = Patient.draw(rng)
    condition = Condition.from_report(report, heart_rate, age, patient.sex)
    return dict(zip(MODEL_LEADS, simulate(patient, condition, rng, RATE, 5000, noise).T, strict=True))


def activity(leads: dict[str, np.ndarray]) -> np.ndarray:
    """Steepness over all leads in mV/s, (samples,): high within the QRS only."""
    return np.abs(np.gradient(np.stack(list(leads.values())), 1 / RATE, axis=1)).mean(0)


def beat_indices(leads: dict[str, np.ndarray]) -> np.ndarray:
    smooth = np.convolve(activity(leads), np.ones(40) / 40, "same")
    return find_peaks(smooth, height=0.35 * np.percentile(smooth, 99), distance=0.25 * RATE)[0]


def mean_beat(leads: dict[str, np.ndarray], before: float = 0.3, after: float = 0.5) -> dict[str, np.ndarray]:
    """Average beat of each lead around the QRS."""
    start, stop = int(before * RATE), int(after * RATE)
    chosen = [i for i in beat_indices(leads) if start <= i < 5000 - stop]
    return {
        name: np.mean([lead[i - start : i + stop] for i in chosen], axis=0) for name, lead in leads.items()
    }


def qrs_duration(leads: dict[str, np.ndarray]) -> float:
    steep = activity(mean_beat(leads, 0.15, 0.15))
    active = np.flatnonzero(steep > 0.12 * steep.max())
    return (active[-1] - active[0]) / RATE


def test_same_seed_same_ecg_and_other_seed_another():
    first, again, other = (simulate_pair(np.random.default_rng(seed)) for seed in (5, 5, 6))
    for a, b, c in zip(first, again, other, strict=True):
        assert np.array_equal(a.signal, b.signal) and a.report == b.report
        assert not np.array_equal(a.signal, c.signal)


@pytest.mark.parametrize("noise", [0.0, 1.0, 5.0])
def test_limb_leads_obey_einthoven_and_goldberger_exactly(noise):
    x = ecg("atrial fibrillation|left ventricular hypertrophy", 110, noise=noise)
    assert x["I"].dtype == np.float32
    assert np.array_equal(x["I"] + x["III"], x["II"])
    assert np.array_equal(x["aVR"], -(x["I"] + x["II"]) / 2)
    assert np.array_equal(x["aVL"], x["I"] - x["II"] / 2)
    assert np.array_equal(x["aVF"], x["II"] - x["I"] / 2)


@pytest.mark.parametrize(
    ("report", "heart_rate"),
    [
        ("sinus rhythm", 72),
        ("sinus bradycardia", 42),
        ("sinus tachycardia", 150),
        ("sinus arrhythmia", 65),
        ("complete left bundle branch block", 75),
        ("complete right bundle branch block", 80),
        ("Atrial fibrillation with rapid ventricular response", 140),
        ("atrial flutter", 75),
        ("Ventricular pacing", 70),
    ],
)
def test_heart_rate_is_the_one_asked_for(report, heart_rate):
    beats = beat_indices(ecg(report, heart_rate, seed=4))
    assert 60 * RATE / np.diff(beats).mean() == pytest.approx(heart_rate, abs=2)


# XQRS's rate is that of the median interval, which in fibrillation differs from the mean one
@pytest.mark.parametrize(
    ("report", "heart_rate", "tolerance"), [("sinus rhythm", 72, 2), ("atrial fibrillation", 110, 10)]
)
def test_heart_rate_as_the_pipeline_measures_it(report, heart_rate, tolerance):
    leads = ecg(report, heart_rate, seed=1, noise=1.0)
    measured = heart_rate_xqrs(np.stack(list(leads.values()), axis=1), RATE, MODEL_LEADS)
    assert measured == pytest.approx(heart_rate, abs=tolerance)


@pytest.mark.parametrize("seed", range(4))
def test_fibrillation_is_irregular_and_has_no_p_wave(seed):
    sinus, fibrillation = ecg("sinus rhythm", 75, seed), ecg("atrial fibrillation", 75, seed)
    spread = [
        np.std(np.diff(beat_indices(x))) / np.mean(np.diff(beat_indices(x))) for x in (sinus, fibrillation)
    ]
    assert spread[0] < 0.1 < spread[1]
    before_qrs = slice(int(0.1 * RATE), int(0.24 * RATE))
    p = [np.ptp(mean_beat(x)["II"][before_qrs]) for x in (sinus, fibrillation)]
    assert p[0] > 0.03 and p[1] < 0.75 * p[0]


@pytest.mark.parametrize("seed", range(4))
def test_bundle_branch_blocks_widen_the_qrs(seed):
    normal = qrs_duration(ecg("sinus rhythm", seed=seed))
    assert 0.06 < normal < 0.115
    for report in ("Left bundle branch block", "complete right bundle branch block"):
        assert normal + 0.02 < qrs_duration(ecg(report, seed=seed)) < 0.2


@pytest.mark.parametrize("seed", range(4))
def test_bundle_branch_blocks_point_to_their_side(seed):
    left, right = (mean_beat(ecg(f"{side} bundle branch block", seed=seed)) for side in ("left", "right"))
    assert left["V1"].min() < -2 * left["V1"][100:200].max()
    assert left["V6"].max() > 2 * abs(left["V6"][100:200].min())
    late = slice(int(0.33 * RATE), int(0.38 * RATE))
    assert right["V1"][late].max() > 0.2 and right["I"][late].min() < -0.1


def test_first_degree_block_moves_the_p_wave_away_from_the_qrs():
    def p_lead(report: str) -> float:
        beat = mean_beat(ecg(report, 60, seed=2), before=0.4)["II"]
        return 0.4 - np.argmax(beat[: int(0.33 * RATE)]) / RATE

    assert p_lead("first degree AV block") > p_lead("sinus rhythm") + 0.05


def test_qt_shortens_with_the_rate():
    def t_peak(heart_rate: float) -> float:
        after_qrs = slice(int(0.41 * RATE), int(0.69 * RATE))
        return np.argmax(mean_beat(ecg("sinus rhythm", heart_rate, seed=1))["V5"][after_qrs]) / RATE

    assert t_peak(120) < t_peak(50) - 0.04


@pytest.mark.parametrize("seed", range(4))
def test_inferior_infarct_takes_early_forces_from_the_inferior_leads(seed):
    early = slice(int(0.25 * RATE), int(0.30 * RATE))
    normal, infarct = (
        mean_beat(ecg(report, seed=seed)) for report in ("sinus rhythm", "inferior myocardial infarction")
    )
    for lead in ("II", "III", "aVF"):
        assert infarct[lead][early].min() < normal[lead][early].min() - 0.08


def test_hypertrophy_raises_and_low_voltage_lowers_the_qrs():
    normal, high, low = (
        np.ptp(ecg(report, seed=3)["V5"])
        for report in ("sinus rhythm", "left ventricular hypertrophy", "Low QRS voltages in limb leads")
    )
    assert high > 1.3 * normal and low < 0.7 * normal


def test_premature_beats_come_early_and_leave_the_rate():
    heart = Heart(P_WAVES, QRS_WAVES, REPOLARISATION_WAVES, pr=0.16, ectopic=QRS_WAVES)
    for effect in effects_of(["Ventricular bigeminy"]):
        effect.apply(heart, 1.0)
    beats = draw_beats(heart, 75, 10.0, np.random.default_rng(0))
    assert (beats.premature[:-1] ^ beats.premature[1:]).all()
    early, intervals = beats.premature[1:], np.diff(beats.times)
    assert intervals[early].max() < 0.65 and intervals[~early].min() > 0.95
    assert np.diff(beats.times[~beats.premature]).mean() == pytest.approx(2 * 0.8, rel=0.03)


def test_healthy_amplitudes_are_human():
    beats = [mean_beat(ecg("normal ECG|sinus rhythm", seed=seed)) for seed in range(30)]
    r_of_two, s_of_v1 = np.median([b["II"].max() for b in beats]), np.median([b["V1"].min() for b in beats])
    assert 0.5 < r_of_two < 1.5 and -1.5 < s_of_v1 < -0.5
    t = slice(int(0.45 * RATE), int(0.72 * RATE))
    for lead in ("I", "II", "V3", "V4", "V5", "V6"):
        assert np.median([b[lead][t].max() for b in beats]) > 0.1
    assert np.median([b["aVR"][t].min() for b in beats]) < -0.1
    assert np.median([b["V5"].max() for b in beats]) > 3 * np.median([b["V1"].max() for b in beats])


def test_drawn_pairs_are_one_patient_in_two_plausible_conditions():
    rng = np.random.default_rng(0)
    neutral = {NORMAL, *HEALTHY, *ABNORMAL, RAPID, SLOW}
    for _ in range(60):
        pair = simulate_pair(rng)
        assert pair[0].sex == pair[1].sex and abs(pair[0].age - pair[1].age) < 20
        for record in pair:
            assert record.signal.shape == (1024, 12) and record.leads == MODEL_LEADS
            assert np.isfinite(record.signal).all() and np.abs(record.signal).max() < 8
            assert (np.ptp(record.signal, axis=0) > 0.05).all()
            assert 20 <= record.heart_rate <= 220
            for statement in record.report.split("|"):
                assert statement in neutral or len(effects_of([statement])) == 1


def test_wordings_of_one_finding_are_one_effect_and_unknown_ones_none():
    assert effects_of(["LBBB"]) == effects_of(["complete left bundle branch block"]) != []
    assert effects_of(["Possible inferior infarct - age undetermined"]) == effects_of(
        ["inferior myocardial infarction"]
    )
    assert len(effects_of(["Sinus rhythm with 1st degree A-V block"])) == 2
    plain, unknown = ecg("sinus rhythm"), ecg("sinus rhythm|tall dark stranger")
    assert all(np.array_equal(plain[lead], unknown[lead]) for lead in MODEL_LEADS)


@pytest.mark.parametrize(
    ("report", "heart_rate", "age", "sex", "field"),
    [
        (" | ", 70, 60, "F", "report"),
        ("sinus rhythm", 400, 60, "F", "heart rate"),
        ("sinus rhythm", 70, 400, "F", "age"),
        ("sinus rhythm", 70, 60, "x", "sex"),
    ],
)
def test_impossible_conditions_are_refused(report, heart_rate, age, sex, field):
    with pytest.raises(ConditionError, match=field):
        Condition.from_report(report, heart_rate, age, sex)


@pytest.mark.parametrize("heart_rate", [20, 300])
@pytest.mark.parametrize(
    "report", ["sinus rhythm", "atrial fibrillation", "atrial flutter", "third degree AV block"]
)
def test_extreme_rates_still_give_an_ecg(report, heart_rate):
    leads = ecg(report, heart_rate)
    assert all(np.isfinite(x).all() and np.ptp(x) > 0.05 for x in leads.values())


def test_shipped_patient_is_what_the_script_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["simulated", str(tmp_path)])
    simulated.main()
    written, shipped = (read_record(folder / "patient.hea") for folder in (tmp_path, SHIPPED))
    # another processor's exp may round one digit otherwise
    assert np.abs(written.signal - shipped.signal).max() < 0.0025
    assert (tmp_path / "patient.hea").read_text().splitlines()[-5:] == HEADER_COMMENTS
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 150_000


def test_shipped_patient_reads_as_a_record():
    record = read_record(SHIPPED / "patient.hea")
    assert record.signal.shape == (5000, 12) and record.sampling_rate == 500
    assert record.report == "normal ECG|sinus rhythm" and record.heart_rate == 68
    assert 18 <= record.age <= 95 and record.sex in "FM"
    assert heart_rate_xqrs(record.signal, 500, record.leads) == pytest.approx(68, abs=2)
