"""What is true of a simulated ECG: intervals and axis, as they follow from the heart's kernels."""

from __future__ import annotations

from dataclasses import dataclass
from math import atan2, degrees, nan, sqrt

import numpy as np

from .simulated_condition import Condition, heart_of
from .simulated_heart import AFTER, BEFORE, QRS_ONSET, TIME, VECTOR, Heart, T, repolarisation_scale
from .simulated_patient import Patient

GRID = np.arange(-0.6, 1.0, 0.001)
"""Times in seconds from the QRS's origin at which kernels are evaluated."""

EDGE = 0.03
"""A wave begins and ends where it is this share of its largest size over the leads."""

_CONDUCTED = ("sinus", "paced atria", "two to one block")


@dataclass(frozen=True)
class Truth:
    """Of the beats that are not premature: PR, QRS and QT in ms, axis in degrees; heart rate per minute; P waves.

    p_present: whether the atria give P waves, not so in fibrillation, flutter, nodal rhythms and pacing of the
    ventricles alone. pr is NaN where none leads to the QRS, that is there and in complete block. axis: of the QRS's
    area in the frontal plane, -180..180, 0 to the left, 90 to the feet.
    """

    heart_rate: float
    p_present: bool
    pr: float
    qrs: float
    qt: float
    axis: float


def truth(patient: Patient, condition: Condition, rng: np.random.Generator | None = None) -> Truth:
    """The truth about the ECG that simulate(patient, condition, rng) gives, from a generator in the same state.

    PR runs from the onset of P to the onset of the QRS, QT from there to the end of T. Onsets and ends are where a wave
    reaches 3 % of its largest size over the leads; the end of T is that of its kernel, two widths after its peak, where
    the steepest tangent of a Gaussian meets the baseline. QT is that of the mean RR interval. None for `rng` gives
    every finding its usual size.
    """
    heart = heart_of(patient, condition, rng)
    interval = 60 / condition.heart_rate
    onset, end = _edges(heart.qrs, patient.lead_field)
    scale = float(repolarisation_scale(interval))
    t_end = (heart.repolarisation[T, TIME] + 2 * heart.repolarisation[T, AFTER]) * scale
    conducted = heart.rhythm in _CONDUCTED
    p_onset = QRS_ONSET - heart.pr_at(interval) + _edges(heart.p, patient.lead_field)[0] if conducted else nan
    return Truth(
        heart_rate=condition.heart_rate,
        p_present=conducted or heart.rhythm == "complete block",
        pr=1e3 * (onset - p_onset),
        qrs=1e3 * (end - onset),
        qt=1e3 * float(t_end - onset),
        axis=_frontal_axis(heart, patient.lead_field),
    )


def _edges(waves: np.ndarray, lead_field: np.ndarray) -> tuple[float, float]:
    """First and last time in seconds at which the sum of waves is more than an edge of itself in any lead."""
    offset = GRID - waves[:, TIME, None]
    width = np.where(offset < 0, waves[:, BEFORE, None], waves[:, AFTER, None])
    bumps = np.exp(-0.5 * (offset / width) ** 2)
    size = np.abs(lead_field @ waves[:, VECTOR].T @ bumps).max(0)
    active = GRID[size > EDGE * size.max()]
    return float(active[0]), float(active[-1])


def _frontal_axis(heart: Heart, lead_field: np.ndarray) -> float:
    areas = heart.qrs[:, BEFORE : AFTER + 1].sum(1)
    one, two = lead_field[:2] @ (areas @ heart.qrs[:, VECTOR])
    # aVF is shorter than the limb leads by sqrt(3) / 2
    return degrees(atan2((two - one / 2) * 2 / sqrt(3), one))
