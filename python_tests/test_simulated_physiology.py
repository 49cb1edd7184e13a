"""Physiology of the simulated cohort: what each condition does to rhythm, intervals, axis and waves, against truth."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy.signal import find_peaks

from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.preprocess import heart_rate_xqrs
from ecgtwin_fast.data.simulated import Condition, Patient, Truth, simulate, simulate_batch, truth
from ecgtwin_fast.data.simulated_condition import heart_of
from ecgtwin_fast.data.simulated_rhythms import draw_beats
from ecgtwin_fast.data.xqrs import xqrs_detect

RATE = 500.0
PEOPLE = 12
BEFORE, AFTER = 0.35, 0.60
R = int(BEFORE * RATE)
"""Sample of the mean beat at which the QRS is."""


def case(report: str, heart_rate: float = 70, seed: int = 0, age: float = 60) -> tuple:
    rng = np.random.default_rng(seed)
    patient = Patient.draw(rng)
    return patient, Condition.from_report(report, heart_rate, age, patient.sex), rng


@cache
def people(report: str, heart_rate: float = 70) -> tuple[np.ndarray, list[Truth]]:
    """Clean ECGs (PEOPLE, 5000, 12) at 500 Hz of as many people under a condition, and the truth about them."""
    cases = [case(report, heart_rate, seed) for seed in range(PEOPLE)]
    signals = simulate_batch(*zip(*cases, strict=True), RATE, 5000, 0)
    return signals, [truth(*case(report, heart_rate, seed)) for seed in range(PEOPLE)]


def lead(signal: np.ndarray, name: str) -> np.ndarray:
    return signal[..., MODEL_LEADS.index(name)]


def activity(signal: np.ndarray) -> np.ndarray:
    """Steepness over all leads in mV/s, (samples,): high within the QRS only."""
    return np.abs(np.gradient(signal, 1 / RATE, axis=0)).mean(1)


def beats(signal: np.ndarray) -> np.ndarray:
    smooth = np.convolve(activity(signal), np.ones(40) / 40, "same")
    return find_peaks(smooth, height=0.35 * np.percentile(smooth, 99), distance=0.25 * RATE)[0]


def mean_beat(signal: np.ndarray) -> np.ndarray:
    """Average beat (samples, 12) with the QRS at sample R."""
    reach = int(AFTER * RATE)
    chosen = [i for i in beats(signal) if R <= i < len(signal) - reach]
    return np.mean([signal[i - R : i + reach] for i in chosen], axis=0)


def mean_beats(report: str, heart_rate: float = 70) -> np.ndarray:
    return np.array([mean_beat(signal) for signal in people(report, heart_rate)[0]])


def truths(report: str, field: str, heart_rate: float = 70) -> np.ndarray:
    return np.array([getattr(one, field) for one in people(report, heart_rate)[1]])


def at(beat: np.ndarray, seconds: float) -> np.ndarray:
    """The beat's leads `seconds` after its QRS."""
    return beat[R + int(seconds * RATE)]


@pytest.mark.parametrize(
    ("report", "heart_rate"),
    [
        ("sinus rhythm", 72),
        ("sinus bradycardia", 44),
        ("sinus tachycardia", 140),
        ("LBBB", 75),
        ("RBBB", 80),
        ("1st degree A-V block", 65),
        ("atrial flutter", 75),
        ("AV dual-paced rhythm", 70),
        ("Inferior STEMI", 90),
        ("LVH", 60),
    ],
)
def test_the_heart_rate_is_the_one_asked_for(report, heart_rate):
    for seed in range(3):
        signal = simulate(*case(report, heart_rate, seed), RATE, 5000)
        assert heart_rate_xqrs(signal, RATE, MODEL_LEADS) == pytest.approx(heart_rate, abs=2)


def test_fibrillation_is_irregular_sinus_arrhythmia_less_and_sinus_rhythm_little():
    def variability(report: str) -> float:
        intervals = [np.diff(xqrs_detect(lead(signal, "II").astype(float), RATE)) for signal in people(report)[0]]
        return float(np.median([np.std(own) / np.mean(own) for own in intervals]))

    sinus, arrhythmia, fibrillation = map(variability, ("sinus rhythm", "sinus arrhythmia", "atrial fibrillation"))
    assert 0.01 < sinus < 0.05 < arrhythmia < 0.13 < fibrillation < 0.35


def test_sinus_intervals_have_a_respiratory_and_a_mayer_band():
    patient, condition, rng = case("sinus rhythm", 60)
    power = np.zeros(300)
    for _ in range(20):
        found = draw_beats(heart_of(patient, condition, rng), 60, 310.0, rng)
        even = np.interp(np.arange(0, 300, 0.5), found.times, found.intervals)
        power += np.abs(np.fft.rfft(even - even.mean())[1:]) ** 2
    frequency = np.arange(1, 301) / 300
    bands = [power[np.abs(frequency - middle) < 0.03].mean() for middle in (0.1, patient.breath)]
    between = power[np.abs(frequency - (0.1 + patient.breath) / 2) < 0.02].mean()
    assert min(bands) > 5 * between


def test_fibrillation_has_no_p_wave_and_sinus_rhythm_has_the_true_pr():
    before_qrs = slice(R - int(0.16 * RATE), R - int(0.06 * RATE))
    sinus, fibrillation = (
        np.median(np.ptp(lead(mean_beats(report), "II")[:, before_qrs], axis=1))
        for report in ("sinus rhythm", "atrial fibrillation")
    )
    assert fibrillation < 0.5 * sinus and sinus > 0.06
    assert truths("sinus rhythm", "p_present").all() and not truths("atrial fibrillation", "p_present").any()
    assert np.isnan(truths("atrial fibrillation", "pr")).all() and np.isnan(truths("Ventricular pacing", "pr")).all()
    assert truths("Complete heart block", "p_present").all() and np.isnan(truths("Complete heart block", "pr")).all()
    assert 130 < np.median(truths("sinus rhythm", "pr")) < 185


def test_first_degree_block_prolongs_pr_as_truth_says():
    def p_time(beat: np.ndarray) -> float:
        """Seconds from the top of P to the QRS."""
        p = np.abs(lead(beat, "II")[: R - int(0.06 * RATE)] - lead(beat, "II")[R - int(0.06 * RATE)])
        return (R - p.argmax()) / RATE

    moved = np.array([p_time(beat) for beat in mean_beats("first degree AV block", 60)]) - [
        p_time(beat) for beat in mean_beats("sinus rhythm", 60)
    ]
    wanted = truths("first degree AV block", "pr", 60) - truths("sinus rhythm", "pr", 60)
    assert np.median(np.abs(1e3 * moved - wanted)) < 12
    assert truths("first degree AV block", "pr", 60).min() > 205 > truths("sinus rhythm", "pr", 60).max()


def test_flutter_waves_are_in_the_inferior_leads_at_three_hundred_a_minute():
    shares = []
    for report in ("atrial flutter", "sinus rhythm"):
        spectrum = np.abs(np.fft.rfft(lead(people(report, 75)[0], "III"), axis=1))
        # beats at 75 a minute have all multiples of 1.25 Hz; flutter stands out at the fourth
        shares.append(np.median(spectrum[:, 49:52].max(1) / spectrum[:, 24:27].max(1)))
    assert shares[0] > 1.5 > 1.2 * shares[1]


def qrs_width(beat: np.ndarray) -> float:
    """Milliseconds around the QRS's middle between the first and the last steep place."""
    steep = activity(beat)[R - int(0.09 * RATE) : R + int(0.12 * RATE)]
    return 1e3 * np.ptp(np.flatnonzero(steep > 0.10 * steep.max())) / RATE


@pytest.mark.parametrize(
    ("report", "shortest", "longest"),
    [
        ("sinus rhythm", 75, 108),
        ("LBBB", 120, 190),
        ("RBBB", 120, 150),
        ("Intraventricular conduction delay", 105, 145),
        ("LAFB", 75, 118),
    ],
)
def test_qrs_duration_is_the_conditions_and_measured_as_truth_says(report, shortest, longest):
    true = truths(report, "qrs")
    assert shortest < np.percentile(true, 10) and np.percentile(true, 90) < longest
    measured = [qrs_width(beat) for beat in mean_beats(report)]
    assert abs(np.median(measured - true)) < 20 and np.percentile(np.abs(measured - true), 80) < 30


def t_end(beat: np.ndarray) -> float:
    """Milliseconds from the QRS's middle to where the steepest tangent after the top of T meets the baseline."""
    late = beat[R + int(0.16 * RATE) : R + int(0.44 * RATE)]
    trace = late[:, np.abs(late).max(0).argmax()]
    trace = trace * np.sign(trace[np.abs(trace).argmax()])
    top = trace.argmax()
    fall = np.gradient(trace)[top:]
    steepest = top + fall.argmin()
    return 1e3 * (0.16 + (steepest - trace[steepest] / fall.min()) / RATE)


def test_qt_is_measured_as_truth_says_and_shortens_with_the_rate():
    shift = {}
    for report, heart_rate in (("sinus rhythm", 60), ("Prolonged QT", 60), ("sinus tachycardia", 100)):
        measured = np.array([t_end(beat) for beat in mean_beats(report, heart_rate)])
        shift[report] = np.median(measured - truths(report, "qt", heart_rate))
    # the QRS's onset lies some 45 ms before its middle
    assert max(shift.values()) - min(shift.values()) < 12 and -65 < shift["sinus rhythm"] < -30
    usual, long, fast = (
        np.median(truths(report, "qt", heart_rate))
        for report, heart_rate in (("sinus rhythm", 60), ("Prolonged QT", 60), ("sinus tachycardia", 100))
    )
    assert 370 < usual < 430 and 460 < long < 530 and fast == pytest.approx(usual * 0.6 ** (1 / 3), abs=15)


@pytest.mark.parametrize(
    ("report", "low", "high"),
    [
        ("sinus rhythm", -30, 90),
        ("LAFB", -75, -30),
        ("LPFB", 85, 120),
        ("Left axis deviation", -60, 10),
        ("Right axis deviation", 60, 150),
        ("RVH", 75, 150),
        ("Ventricular pacing", -90, -20),
    ],
)
def test_frontal_axis_is_the_conditions_and_measured_as_truth_says(report, low, high):
    true = truths(report, "axis")
    assert low < np.median(true) < high and np.mean((low < true) & (true < high)) > 0.8
    for beat, axis in zip(mean_beats(report), true, strict=True):
        early = beat[R - 45 : R - 35].mean(0)
        one, foot = (lead((beat[R - 40 : R + 45] - early).sum(0), name) for name in ("I", "aVF"))
        measured = math.degrees(math.atan2(2 / math.sqrt(3) * foot, one))
        assert abs((measured - axis + 180) % 360 - 180) < 25


@pytest.mark.parametrize(
    ("report", "raised", "sunk"),
    [
        ("Inferior STEMI", ("II", "III", "aVF"), ("aVL",)),
        ("Anterior STEMI", ("V2", "V3", "V4"), ()),
        ("Lateral STEMI", ("I", "aVL", "V5", "V6"), ("III",)),
    ],
)
def test_st_rises_where_the_infarct_is_and_sinks_opposite(report, raised, sunk):
    def level(report: str) -> np.ndarray:
        return np.median([at(beat, 0.10) - beat[R - 40 : R - 32].mean(0) for beat in mean_beats(report)], axis=0)

    usual, acute = level("sinus rhythm"), level(report)
    assert all(lead(acute, name) > 0.1 and lead(acute - usual, name) > 0.08 for name in raised)
    assert all(lead(acute, name) < -0.05 for name in sunk)
    assert np.abs(usual).max() < 0.1


@pytest.mark.parametrize(
    ("report", "leads"),
    [
        ("Old inferior infarct", ("II", "III", "aVF")),
        ("Old anterior infarct", ("V2", "V3", "V4")),
        ("Old lateral infarct", ("I", "V5", "V6")),
    ],
)
def test_an_old_infarct_takes_early_forces_from_its_wall(report, leads):
    early = slice(R - int(0.05 * RATE), R)
    for name in leads:
        lost = [lead(beats, name)[:, early].mean(1) for beats in (mean_beats("sinus rhythm"), mean_beats(report))]
        assert np.median(lost[0] - lost[1]) > 0.05


def test_bundle_branch_blocks_point_to_their_side():
    left, right = mean_beats("LBBB"), mean_beats("RBBB")
    around, late = slice(R - 50, R + 50), slice(R + int(0.02 * RATE), R + int(0.09 * RATE))
    assert (lead(left, "V1")[:, around].min(1) < -2 * lead(left, "V1")[:, around].max(1)).all()
    assert np.median(lead(left, "V6")[:, around].max(1) + 3 * lead(left, "V6")[:, around].min(1)) > 0
    assert np.median(lead(right, "V1")[:, late].max(1)) > 0.2 and np.median(lead(right, "I")[:, late].min(1)) < -0.08


def test_t_waves_are_inverted_where_said():
    t = slice(R + int(0.2 * RATE), R + int(0.36 * RATE))
    for name in ("I", "V4", "V5", "V6"):
        top, bottom = (
            np.median(extreme(lead(mean_beats(report), name)[:, t], 1))
            for report, extreme in (("sinus rhythm", np.max), ("T wave inversion", np.min))
        )
        assert top > 0.1 and bottom < -0.1


def test_voltage_is_low_and_high_where_said():
    low, usual, high = (people(report)[0] for report in ("Low QRS voltages in limb leads", "sinus rhythm", "LVH"))
    limb = np.ptp(low[:, :, :6], axis=1).max(1)
    assert np.median(limb) < 0.55 and limb.max() < 0.8 < np.median(np.ptp(usual[:, :, :6], axis=1).max(1))

    def sokolow(signals: np.ndarray) -> np.ndarray:
        return lead(signals, "V5").max(1) - lead(signals, "V1").min(1)

    assert np.median(sokolow(usual)) < 3.5 < np.percentile(sokolow(high), 20)
    assert np.median(lead(people("RVH")[0], "V1").max(1)) > 0.6 > 2 * np.median(lead(usual, "V1").max(1))


@pytest.mark.parametrize(("report", "wide"), [("Ventricular trigeminy", True), ("PAC(s)", False)])
def test_premature_beats_are_early_and_the_ventricles_own_are_wide(report, wide):
    early_widths, other_widths, coupling = [], [], []
    for seed in range(6):
        patient, condition, rng = case(report, 66, seed)
        found = draw_beats(heart_of(patient, condition, rng), 66, 10.0, rng)
        assert found.premature.any() and not (found.premature[1:] & found.premature[:-1]).any()
        usual = np.median(found.intervals[1:][~found.premature[1:] & ~found.premature[:-1]])
        coupling += (found.intervals[found.premature] / usual).tolist()
        after = found.intervals[1:][found.premature[:-1]] / usual
        assert (after > (1.2 if wide else 1.0)).all()
        signal = simulate(*case(report, 66, seed), RATE, 5000, 0)
        for time, premature in zip(found.times, found.premature, strict=True):
            middle = int(time * RATE)
            if 150 < middle < 4850:
                steep = activity(signal[middle - 60 : middle + 90])
                width = 1e3 * np.ptp(np.flatnonzero(steep > 0.15 * steep.max())) / RATE
                (early_widths if premature else other_widths).append(width)
    assert max(coupling) < 0.85 and min(coupling) > 0.4
    ratio = np.median(early_widths) / np.median(other_widths)
    assert ratio > 1.4 if wide else 0.9 < ratio < 1.1


def test_pacing_has_spikes_before_the_chambers_it_paces():
    def spikes(report: str) -> float:
        """Narrow peaks a second."""
        bend = np.abs(np.diff(lead(people(report, 75)[0], "II"), 2, axis=1))
        return float(np.median([len(find_peaks(own, height=0.04, distance=20)[0]) for own in bend])) / 10

    assert spikes("sinus rhythm") == 0
    assert spikes("Ventricular pacing") == pytest.approx(1.25, abs=0.15)
    assert 125 < truths("Ventricular pacing", "qrs").min() and truths("Ventricular pacing", "qrs").max() < 210
    assert spikes("Atrial pacing") == pytest.approx(1.25, abs=0.15)
    assert spikes("AV dual-paced rhythm") == pytest.approx(2.5, abs=0.3)


def test_healthy_amplitudes_are_human():
    found = mean_beats("sinus rhythm")
    top, bottom = np.median(found.max(1), axis=0), np.median(found.min(1), axis=0)
    assert 0.5 < lead(top, "II") < 1.5 and -1.5 < lead(bottom, "V1") < -0.5
    assert lead(top, "V5") > 3 * lead(top, "V1")
    t = found[:, R + int(0.15 * RATE) : R + int(0.45 * RATE)]
    for name in ("I", "II", "V3", "V4", "V5", "V6"):
        assert np.median(lead(t, name).max(1)) > 0.1
    assert np.median(lead(t, "aVR").min(1)) < -0.1
