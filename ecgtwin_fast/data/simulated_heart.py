"""The simulated heart: a dipole made of asymmetric Gaussian waves, and what projects it onto the leads.

After McSharry et al., "A dynamical model for generating synthetic electrocardiogram signals" (ECGSYN, 2003),
and Clifford et al., "An artificial vector model for generating abnormal electrocardiographic rhythms" (2010).
Axes: x to the patient's left, y to the feet, z to the back. Times in seconds, dipole in mV.

A wave is a row (time, width before its peak, width after it, x, y, z).
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
        [-0.600, 0.120, -0.700],
        [0.044, 0.164, -1.387],
        [0.720, 0.100, -1.150],
        [1.080, 0.127, -0.550],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)

# Times of the P wave count from its onset; those of the QRS, and of repolarisation at 60 beats a minute,
# from the time origin of the QRS.
P_WAVES = np.array(
    [
        [0.038, 0.016, 0.017, 0.025, 0.070, -0.025],
        [0.068, 0.018, 0.017, 0.070, 0.040, 0.040],
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
        [0.275, 0.055, 0.036, 0.330, 0.170, -0.230],
        [0.430, 0.030, 0.035, 0.008, 0.012, -0.025],
    ]
)
ST, T = 0, 1


@dataclass
class Heart:
    """Working copy of a patient's heart that a condition's effects change before it is rendered."""

    p: np.ndarray
    qrs: np.ndarray
    repolarisation: np.ndarray
    pr: float
    ectopic: np.ndarray
    rhythm: str = "sinus"
    respiratory: float = 0.02
    atrial: np.ndarray = field(default_factory=lambda: np.array([-0.2, 0.35, -0.5]))
    atrial_amplitude: float = 0.05
    premature: float = 0.0
    premature_kind: str = "ventricular"

    @property
    def main_vector(self) -> np.ndarray:
        """Mean direction of the QRS, of unit length, (3,)."""
        total = self.qrs[:, VECTOR].sum(0)
        return total / np.linalg.norm(total)

    @property
    def size(self) -> float:
        """Size of the QRS dipole's main wave relative to the typical one."""
        return float(np.linalg.norm(self.qrs[2, VECTOR]) / np.linalg.norm(QRS_WAVES[2, VECTOR]))

    def add_qrs(self, time: float, before: float, after: float, vector: np.ndarray) -> None:
        """Adds one wave of ventricular depolarisation."""
        self.qrs = np.vstack([self.qrs, [time, before, after, *vector]])

    def widen(self, factor: float, delay: float = 0.0) -> None:
        """Stretches the QRS after its onset, and delays repolarisation by `delay` seconds."""
        self.qrs[:, TIME] = QRS_ONSET + (self.qrs[:, TIME] - QRS_ONSET) * factor
        self.qrs[:, BEFORE : AFTER + 1] *= factor
        self.repolarisation[:, TIME] += delay


def rotation(vector: np.ndarray) -> np.ndarray:
    """(3, 3) rotation about `vector`, whose length is the angle in radians (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle == 0:
        return np.eye(3)
    x, y, z = np.asarray(vector) / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def render(waves: np.ndarray, sampling_rate: float, samples: int) -> np.ndarray:
    """Sum of waves (n, 6) as a dipole (samples, 3). Each is evaluated near its peak only."""
    reach = 4 * waves[:, BEFORE : AFTER + 1].max()
    window = np.arange(int(2 * reach * sampling_rate) + 2)
    index = np.ceil((waves[:, TIME] - reach) * sampling_rate).astype(int)[:, None] + window
    offset = index / sampling_rate - waves[:, TIME, None]
    width = np.where(offset < 0, waves[:, BEFORE, None], waves[:, AFTER, None])
    bump = np.exp(-0.5 * (offset / width) ** 2)
    bump[(index < 0) | (index >= samples)] = 0
    index = index.clip(0, samples - 1).ravel()
    return np.stack(
        [np.bincount(index, (bump * waves[:, i, None]).ravel(), samples) for i in range(3, 6)], axis=1
    )
