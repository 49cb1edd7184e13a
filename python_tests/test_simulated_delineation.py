"""An independent delineator, NeuroKit2's wavelets, measures on clean simulated ECGs what truth says."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.simulated import Condition, Patient, simulate, truth

nk = pytest.importorskip("neurokit2")

RATE = 500
PEOPLE = 12
# The wavelets put onsets and ends a little outside of where 3 % of a wave's size is reached.
TOLERANCE = {"pr": 25, "qrs": 20, "qt": 20}


def measured(signal: np.ndarray) -> dict[str, float]:
    """Median PR, QRS and QT in ms of one lead (samples,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peaks = nk.ecg_peaks(signal, sampling_rate=RATE)[1]["ECG_R_Peaks"]
        waves = nk.ecg_delineate(signal, peaks, sampling_rate=RATE, method="dwt")[1]
    p, r, r_end, t_end = (
        np.array(waves[f"ECG_{name}"], float) for name in ("P_Onsets", "R_Onsets", "R_Offsets", "T_Offsets")
    )
    spans = {"pr": r - p, "qrs": r_end - r, "qt": t_end - r}
    found = {name: span[np.isfinite(span)] for name, span in spans.items()}
    return {name: 1e3 * float(np.median(span)) / RATE if len(span) else np.nan for name, span in found.items()}


@pytest.mark.parametrize(
    ("report", "heart_rate", "names"),
    [
        ("sinus rhythm", 65, ("pr", "qrs", "qt")),
        ("sinus tachycardia", 100, ("pr", "qrs", "qt")),
        ("first degree AV block", 65, ("pr", "qrs", "qt")),
        ("RBBB", 70, ("pr", "qrs", "qt")),
        ("Prolonged QT", 70, ("pr", "qt")),
    ],
)
def test_delineated_intervals_are_the_true_ones_in_the_median(report, heart_rate, names):
    errors = {name: [] for name in names}
    for seed in range(PEOPLE):
        patient = Patient.draw(np.random.default_rng(seed))
        condition = Condition.from_report(report, heart_rate, 60, patient.sex)
        true = truth(patient, condition, np.random.default_rng(seed))
        signal = simulate(patient, condition, np.random.default_rng(seed), RATE, 10 * RATE, noise=0)
        found = measured(signal[:, MODEL_LEADS.index("V5")].astype(float))
        for name in names:
            errors[name].append(found[name] - getattr(true, name))
    for name in names:
        assert np.isfinite(errors[name]).sum() >= PEOPLE - 2
        assert abs(np.nanmedian(errors[name])) < TOLERANCE[name], (name, errors[name])
