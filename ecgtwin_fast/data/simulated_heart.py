"""The simulated heart: a dipole made of asymmetric Gaussian waves, as a condition's effects change it.

After Sameni et al., "Multichannel ECG and noise modeling: application to maternal and fetal ECG signals" (2007): P, Q,
R, S and T are Gaussian kernels in x, y and z, as in McSharry et al., "A dynamical model for generating synthetic
electrocardiogram signals" (ECGSYN, 2003). Kernels have a time instead of a phase, because depolarisation keeps its
duration at any heart rate while repolarisation shortens. Axes: x to the patient's left, y to the feet, z to the back.
Times in seconds, dipole in mV. A wave is a row (time, width before its peak, width after it, x, y, z).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TIME, BEFORE, AFTER = 0, 1, 2
VECTOR = slice(3, 6)

QRS_ONSET = -0.042
"""Onset of the QRS before its time origin (near the R peak), in seconds."""

# Rows I, II, V1..V6, after Dower et al. (1980); the frontal and septal ones are set so that healthy hearts
# have the amplitudes of real ones in all leads.
LEAD_FIELD = np.array(
    [
        [0.800, -0.220, 0.059],
        [0.235, 1.066, -0.132],
        [-0.540, 0.110, -0.630],
        [0.053, 0.197, -1.664],
        [0.806, 0.112, -1.288],
        [1.350, 0.159, -0.688],
        [1.328, 0.150, -0.101],
        [0.889, 0.081, 0.246],
    ]
)

# Times of the P wave count from its onset; those of the QRS, and of repolarisation at 60 beats a minute,
# from the time origin of the QRS.
P_WAVES = np.array(
    [
        [0.038, 0.016, 0.017, 0.025, 0.070, -0.025],
        [0.068, 0.018, 0.017, 0.080, 0.060, 0.035],
    ]
)
QRS_WAVES = np.array(
    [
        [-0.025, 0.0065, 0.0070, -0.12, -0.04, -0.16],
        [-0.011, 0.0080, 0.0090, 0.38, 0.20, -0.42],
        [0.002, 0.0095, 0.0090, 0.95, 0.60, 0.30],
        [0.015, 0.0095, 0.0100, 0.15, 0.15, 0.90],
        [0.033, 0.0080, 0.0100, -0.20, -0.12, 0.10],
    ]
)
REPOLARISATION_WAVES = np.array(
    [
        [0.130, 0.045, 0.050, 0.030, 0.025, -0.045],
        [0.288, 0.057, 0.037, 0.355, 0.160, -0.225],
        [0.448, 0.030, 0.035, 0.008, 0.012, -0.022],
    ]
)
ST, T = 0, 1


@dataclass
class Heart:
    """Working copy of a patient's heart that a condition's effects change before it beats.

    p (n, 6), qrs (n, 6), repolarisation (n, 6), ectopic (5, 6): waves, ectopic the QRS (2) and repolarisation (3) of
    a premature ventricular beat. pr: PR interval in seconds at 60 beats a minute. respiratory, mayer: amplitudes of the
    RR interval's two bands as shares of it, breath the frequency of the former in Hz. atrial (3,): direction of
    fibrillatory waves, atrial_rate their frequency in Hz and atrial_amplitude their size in mV. premature: share of
    premature beats.
    """

    p: np.ndarray
    qrs: np.ndarray
    repolarisation: np.ndarray
    pr: float
    ectopic: np.ndarray
    rhythm: str = "sinus"
    respiratory: float = 0.02
    mayer: float = 0.015
    breath: float = 0.25
    atrial: tuple[float, float, float] = (-0.2, 0.35, -0.5)
    atrial_rate: float = 6.5
    atrial_amplitude: float = 0.05
    premature: float = 0.0
    premature_kind: str = "ventricular"

    @property
    def main_vector(self) -> np.ndarray:
        """Mean direction of the QRS, of unit length, (3,)."""
        total = self.qrs[:, VECTOR].sum(0)
        return total / math.sqrt(total @ total)

    @property
    def size(self) -> float:
        """Size of the QRS dipole's main wave relative to the typical one."""
        own, typical = self.qrs[2, VECTOR], QRS_WAVES[2, VECTOR]
        return math.sqrt((own @ own) / (typical @ typical))

    @property
    def slowness(self) -> float:
        """Duration of the QRS relative to the typical one."""
        return float(self.qrs[:, BEFORE : AFTER + 1].sum() / QRS_WAVES[:, BEFORE : AFTER + 1].sum())

    def add_qrs(self, time: float, before: float, after: float, vector: np.ndarray) -> None:
        """Adds one wave of ventricular depolarisation."""
        self.qrs = np.vstack([self.qrs, [time, before, after, *vector]])

    def add_repolarisation(self, time: float, before: float, after: float, vector: np.ndarray) -> None:
        """Adds one wave of ventricular repolarisation."""
        self.repolarisation = np.vstack([self.repolarisation, [time, before, after, *vector]])

    def widen(self, factor: float, delay: float = 0.0) -> None:
        """Stretches the QRS after its onset, and delays repolarisation by `delay` seconds."""
        self.qrs[:, TIME] = QRS_ONSET + (self.qrs[:, TIME] - QRS_ONSET) * factor
        self.qrs[:, BEFORE : AFTER + 1] *= factor
        self.repolarisation[:, TIME] += delay

    def pr_at(self, interval: float) -> float:
        """PR interval in seconds at an RR interval: conduction through the AV node shortens a little with the rate."""
        return self.pr * min(interval, 1.0) ** 0.2


def repolarisation_scale(interval: np.ndarray | float) -> np.ndarray | float:
    """Factor on the times of repolarisation at an RR interval in seconds (Fridericia's cube root)."""
    return np.cbrt(np.minimum(np.maximum(interval, 0.25), 2.0))


def rotation(vector: np.ndarray) -> np.ndarray:
    """(3, 3) rotation about `vector`, whose length is the angle in radians (Rodrigues)."""
    x, y, z = (float(value) for value in vector)
    angle = math.hypot(x, y, z)
    if angle == 0:
        return np.eye(3)
    x, y, z = x / angle, y / angle, z / angle
    cosine, sine = math.cos(angle), math.sin(angle)
    rest = 1 - cosine
    return np.array(
        [
            [cosine + x * x * rest, x * y * rest - z * sine, x * z * rest + y * sine],
            [x * y * rest + z * sine, cosine + y * y * rest, y * z * rest - x * sine],
            [x * z * rest - y * sine, y * z * rest + x * sine, cosine + z * z * rest],
        ]
    )
