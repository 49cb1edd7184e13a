"""What a diagnosis does to the simulated heart: functions that change a Heart in place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .simulated_heart import AFTER, BEFORE, ST, TIME, VECTOR, Heart, T, rotation

Apply = Callable[[Heart, float], None]
"""Changes a heart in place, by an amount near 1."""

REGIONS = {
    "anterior": (0.30, 0.0, -1.0),
    "anteroseptal": (-0.15, 0.0, -1.0),
    "anterolateral": (0.80, -0.15, -0.65),
    "lateral": (1.0, -0.25, 0.15),
    "inferior": (-0.10, 1.0, 0.10),
    "inferolateral": (0.65, 0.75, 0.15),
    "inferoposterior": (-0.05, 0.75, 0.70),
    "inferoposterolateral": (0.50, 0.60, 0.60),
    "posterior": (0.0, 0.1, 1.0),
    "lateral and anterior": (0.85, 0.10, -0.40),
}


def region(name: str) -> np.ndarray:
    """Unit vector from the heart's middle to a wall, (3,)."""
    vector = np.array(REGIONS[name])
    return vector / np.linalg.norm(vector)


def nothing(heart: Heart, amount: float) -> None:
    """A statement that describes a heart as it is."""


def rhythm(name: str, atrial_amplitude: float = 0.05) -> Apply:
    def apply(heart: Heart, amount: float) -> None:
        heart.rhythm = name
        heart.atrial_amplitude = atrial_amplitude * amount

    return apply


def flutter(heart: Heart, amount: float) -> None:
    heart.rhythm = "flutter"
    heart.p = np.array(
        [
            [0.00, 0.050, 0.022, 0.02, -0.12, 0.03],
            [0.09, 0.030, 0.035, 0.00, 0.07, -0.06],
        ]
    )
    heart.p[:, VECTOR] *= amount


def sinus_arrhythmia(heart: Heart, amount: float) -> None:
    heart.respiratory = 0.13 * amount


def premature(kind: str, share: float) -> Apply:
    def apply(heart: Heart, amount: float) -> None:
        heart.premature, heart.premature_kind = share, kind

    return apply


def paced(heart: Heart, amount: float) -> None:
    heart.rhythm = "paced"
    heart.qrs = np.array(
        [
            [-0.045, 0.003, 0.004, 0.35, -0.55, 0.20],
            [-0.005, 0.024, 0.024, 0.45, -0.75, 0.40],
            [0.045, 0.024, 0.026, 0.35, -0.75, 0.75],
        ]
    )
    discordant(heart, 0.40 * amount, 0.045)


def discordant(heart: Heart, size: float, delay: float) -> None:
    """ST and T against the QRS, as after every abnormal depolarisation."""
    heart.repolarisation[:, TIME] += delay
    heart.repolarisation[T, VECTOR] = -size * heart.main_vector
    heart.repolarisation[ST, VECTOR] = -0.35 * size * heart.main_vector


def left_bundle_branch_block(heart: Heart, amount: float) -> None:
    own = heart.size
    heart.qrs = np.array(
        [
            [-0.014, 0.012, 0.015, 0.45, 0.50, -0.08],
            [0.018, 0.017, 0.017, 0.20, 0.05, 1.55],
            [0.058, 0.015, 0.019, 0.85, -0.10, 0.95],
        ]
    )
    heart.qrs[:, VECTOR] *= own * (0.6 + 0.4 * amount)
    discordant(heart, 0.62 * own * amount, 0.050)


def incomplete_left_bundle_branch_block(heart: Heart, amount: float) -> None:
    heart.qrs[0, VECTOR] *= -0.6
    heart.widen(1.22, 0.012)
    heart.repolarisation[T, VECTOR] *= 0.7


def right_bundle_branch_block(heart: Heart, amount: float) -> None:
    heart.qrs[3:5, VECTOR] *= 0.55
    heart.add_qrs(0.050, 0.014, 0.018, amount * heart.size * np.array([-0.52, -0.02, -0.74]))
    heart.repolarisation[:, TIME] += 0.030
    heart.repolarisation[T, VECTOR] += amount * np.array([0.10, 0.0, 0.28])


def incomplete_right_bundle_branch_block(heart: Heart, amount: float) -> None:
    heart.qrs[3:5, VECTOR] *= 0.8
    heart.add_qrs(0.036, 0.009, 0.010, amount * heart.size * np.array([-0.32, -0.02, -0.46]))


def left_axis(angle: float) -> Apply:
    """Turns the later QRS about the z axis, in degrees, positive to the left and up."""

    def apply(heart: Heart, amount: float) -> None:
        turn = rotation(np.array([0.0, 0.0, -np.radians(angle * amount)]))
        heart.qrs[2:, VECTOR] = heart.qrs[2:, VECTOR] @ turn.T

    return apply


def left_anterior_fascicular_block(heart: Heart, amount: float) -> None:
    axis = np.degrees(np.arctan2(heart.main_vector[1], heart.main_vector[0]))
    left_axis(max(axis + 50, 0))(heart, 1.0)
    heart.qrs[0, VECTOR] += amount * np.array([-0.05, 0.22, 0.0])
    heart.widen(1.08)


def left_posterior_fascicular_block(heart: Heart, amount: float) -> None:
    axis = np.degrees(np.arctan2(heart.main_vector[1], heart.main_vector[0]))
    left_axis(min(axis - 108, 0))(heart, 1.0)
    heart.qrs[0, VECTOR] += amount * np.array([0.15, -0.18, 0.0])
    heart.widen(1.06)


def slow_ventricles(heart: Heart, amount: float) -> None:
    heart.widen(1.32 + 0.1 * (amount - 1), 0.02)
    heart.repolarisation[T, VECTOR] *= 0.75


def pre_excitation(heart: Heart, amount: float) -> None:
    heart.pr = 0.095
    heart.add_qrs(-0.034, 0.014, 0.016, amount * 0.42 * region("anterolateral"))
    heart.repolarisation[T, VECTOR] -= 0.25 * amount * region("anterolateral")


def pr_interval(seconds: float) -> Apply:
    def apply(heart: Heart, amount: float) -> None:
        heart.pr = seconds * (0.75 + 0.25 * amount)

    return apply


def complete_block(heart: Heart, amount: float) -> None:
    heart.rhythm = "complete block"
    heart.widen(1.3, 0.02)


def left_ventricular_hypertrophy(strain: float) -> Apply:
    def apply(heart: Heart, amount: float) -> None:
        heart.qrs[1:4, VECTOR] *= (1 + 0.55 * amount) * np.array([1.0, 0.8, 1.05])
        heart.widen(1.07)
        heart.repolarisation[T, VECTOR] -= strain * amount * np.array([0.50, 0.15, -0.10])
        heart.repolarisation[ST, VECTOR] -= strain * amount * np.array([0.13, 0.05, -0.04])

    return apply


def right_ventricular_hypertrophy(heart: Heart, amount: float) -> None:
    left_axis(-70)(heart, amount)
    heart.qrs[1, VECTOR] += amount * np.array([-0.30, 0.05, -0.55])
    heart.qrs[3:4, VECTOR] *= 0.3  # a bundle branch block has no such wave
    heart.repolarisation[T, VECTOR] += amount * np.array([0.10, 0.0, 0.28])


def septal_hypertrophy(heart: Heart, amount: float) -> None:
    heart.qrs[0, VECTOR] *= 1 + 1.4 * amount
    heart.repolarisation[T, VECTOR] *= 0.5


def left_atrial_enlargement(heart: Heart, amount: float) -> None:
    heart.p[1] += [0.018, 0.003, 0.003, 0.03 * amount, 0.01, 0.07 * amount]


def right_atrial_enlargement(heart: Heart, amount: float) -> None:
    heart.p[0, VECTOR] += amount * np.array([0.0, 0.12, -0.05])


def infarct(wall: str, acute: bool = False) -> Apply:
    """Loss of a wall: early forces and T turn away from it (Q waves, low R); ST to it while acute."""
    towards = region(wall)

    def apply(heart: Heart, amount: float) -> None:
        share = np.clip(heart.qrs[:3, VECTOR] @ towards, 0, None)
        heart.qrs[:3, VECTOR] -= 0.55 * amount * share[:, None] * towards
        heart.add_qrs(-0.021, 0.010, 0.012, -0.36 * amount * heart.size * towards)
        heart.repolarisation[T, VECTOR] -= 0.24 * amount * towards
        heart.repolarisation[ST, VECTOR] += (0.26 if acute else 0.02) * amount * towards

    return apply


def ischaemia(wall: str, st: float = 0.06, t: float = 0.34) -> Apply:
    """T turned away from a wall, and ST with it."""
    towards = region(wall)

    def apply(heart: Heart, amount: float) -> None:
        heart.repolarisation[T, VECTOR] -= t * amount * towards
        heart.repolarisation[ST, VECTOR] -= st * amount * towards

    return apply


def scale(part: str, row: int | slice, factor: float) -> Apply:
    """Multiplies the dipole of some waves of `part` ("p", "qrs" or "repolarisation")."""

    def apply(heart: Heart, amount: float) -> None:
        getattr(heart, part)[row, VECTOR] *= factor

    return apply


def long_qt(heart: Heart, amount: float) -> None:
    heart.repolarisation[T:, TIME] += 0.075 * amount
    heart.repolarisation[T, BEFORE : AFTER + 1] *= 1.15


def digitalis(heart: Heart, amount: float) -> None:
    heart.repolarisation[:, TIME] *= 0.90
    heart.repolarisation[ST] += [0.03, 0.02, 0.01, *(-0.13 * amount * heart.main_vector)]
    heart.repolarisation[T, VECTOR] *= 0.55


def high_potassium(heart: Heart, amount: float) -> None:
    heart.repolarisation[T, VECTOR] *= 1 + 1.1 * amount
    heart.repolarisation[T, BEFORE : AFTER + 1] *= 0.75


def poor_r_progression(heart: Heart, amount: float) -> None:
    heart.qrs[:2, VECTOR] += amount * np.array([0.0, 0.0, 0.22])
