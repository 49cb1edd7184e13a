"""What a diagnosis does to the simulated heart: functions that change a Heart in place."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .simulated_heart import AFTER, BEFORE, QRS_ONSET, ST, TIME, VECTOR, Heart, T, rotation

Apply = Callable[[Heart, float], None]
"""Changes a heart in place, by an amount near 1."""

TYPICAL_AXIS = 35.0

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


def frontal_axis(heart: Heart) -> float:
    """Direction of the QRS in the frontal plane in degrees, 0 to the left, 90 to the feet."""
    x, y, _ = heart.main_vector
    return math.degrees(math.atan2(y, x))


def nothing(heart: Heart, amount: float) -> None:
    """A statement that describes a heart as it is."""


def rhythm(name: str) -> Apply:
    def apply(heart: Heart, amount: float) -> None:
        heart.rhythm = name
        heart.atrial_amplitude *= amount

    return apply


def flutter(heart: Heart, amount: float) -> None:
    heart.rhythm = "flutter"
    heart.p = np.array(
        [
            [0.100, 0.060, 0.018, 0.03, -0.22, 0.05],
            [0.145, 0.014, 0.032, 0.00, 0.12, -0.08],
        ]
    )
    heart.p[:, VECTOR] *= amount


def sinus_arrhythmia(heart: Heart, amount: float) -> None:
    heart.respiratory = 0.15 * amount


def premature(kind: str, share: float) -> Apply:
    def apply(heart: Heart, amount: float) -> None:
        heart.premature, heart.premature_kind = share, kind

    return apply


_SPIKE = np.array([[0.0, 0.002, 0.002, 0.55, -0.85, 0.30]])


def slow_spread(heart: Heart, waves: list[list[float]], amount: float) -> None:
    """Ventricles that depolarise by these waves: in the patient's own size and time, turned as the patient's QRS is."""
    turn = rotation([0.0, 0.0, 0.5 * math.radians(frontal_axis(heart) - TYPICAL_AXIS)])
    size, factor = heart.size * (0.6 + 0.4 * amount), heart.slowness * (0.85 + 0.15 * amount)
    heart.qrs = np.array(waves)
    heart.qrs[:, VECTOR] = size * heart.qrs[:, VECTOR] @ turn.T
    heart.widen(factor)


def paced_ventricles(heart: Heart, amount: float) -> None:
    """Paced from the apex of the right ventricle: spread to the left, up and back; no P wave before it."""
    heart.rhythm = "paced"
    own = heart.size
    slow_spread(
        heart, [[-0.008, 0.020, 0.022, 0.42, -0.55, 0.40], [0.038, 0.022, 0.025, 0.38, -0.62, 0.75]], amount
    )
    discordant(heart, 0.50 * own * amount, 0.045)
    heart.qrs = np.vstack([_SPIKE + [QRS_ONSET - 0.006, 0, 0, 0, 0, 0], heart.qrs])


def paced_atria(heart: Heart, amount: float) -> None:
    """A spike, and the P wave after it."""
    heart.rhythm = "paced atria"
    heart.p[:, TIME] += 0.012
    heart.p = np.vstack([heart.p, _SPIKE * [1, 1, 1, 0.5, 0.5, 0.5]])
    heart.pr += 0.025


def paced_chambers(heart: Heart, amount: float) -> None:
    """Atria and ventricles paced one after the other."""
    paced_ventricles(heart, amount)
    paced_atria(heart, amount)
    heart.pr = 0.165


def discordant(heart: Heart, size: float, delay: float) -> None:
    """ST and T against the QRS, as after every abnormal depolarisation."""
    heart.repolarisation[:, TIME] += delay
    heart.repolarisation[T, VECTOR] = -size * heart.main_vector
    heart.repolarisation[ST, VECTOR] = -0.35 * size * heart.main_vector


def left_bundle_branch_block(heart: Heart, amount: float) -> None:
    own = heart.size
    waves = [
        [-0.012, 0.014, 0.018, 0.45, 0.42, -0.05],
        [0.020, 0.019, 0.021, 0.42, 0.08, 1.40],
        [0.058, 0.018, 0.020, 0.72, -0.08, 1.00],
    ]
    slow_spread(heart, waves, amount)
    discordant(heart, 0.62 * own * amount, 0.050)


def incomplete_left_bundle_branch_block(heart: Heart, amount: float) -> None:
    heart.qrs[0, VECTOR] *= -0.6
    heart.widen(1.22, 0.012)
    heart.repolarisation[T, VECTOR] *= 0.7


def right_bundle_branch_block(heart: Heart, amount: float) -> None:
    heart.qrs[3:5, VECTOR] *= 0.55
    late = 0.035 + 0.015 * amount + 0.04 * (heart.slowness - 1)
    heart.add_qrs(late, 0.014, 0.018, amount * heart.size * np.array([-0.34, -0.02, -0.70]))
    heart.repolarisation[:, TIME] += 0.030
    heart.repolarisation[T, VECTOR] += amount * np.array([0.10, 0.0, 0.28])


def incomplete_right_bundle_branch_block(heart: Heart, amount: float) -> None:
    heart.qrs[3:5, VECTOR] *= 0.8
    heart.add_qrs(0.036, 0.009, 0.010, amount * heart.size * np.array([-0.32, -0.02, -0.46]))


def left_axis(angle: float) -> Apply:
    """Turns the later QRS about the z axis, in degrees, positive to the left and up."""

    def apply(heart: Heart, amount: float) -> None:
        turned = math.radians(angle * amount)
        heart.qrs[1:, VECTOR] = heart.qrs[1:, VECTOR] @ rotation([0.0, 0.0, -turned]).T
        # leads II, III and aVF are nearer to the heart than I and aVL
        heart.qrs[1:, 3:5] *= 1 - 0.25 * abs(math.sin(turned))

    return apply


def left_anterior_fascicular_block(heart: Heart, amount: float) -> None:
    left_axis(max(0.85 * frontal_axis(heart) + 30 + 25 * amount, 0))(heart, 1.0)
    heart.qrs[0, VECTOR] += amount * np.array([-0.05, 0.22, 0.0])
    heart.widen(1.08)


def left_posterior_fascicular_block(heart: Heart, amount: float) -> None:
    left_axis(min(0.85 * frontal_axis(heart) - 68 - 25 * amount, 0))(heart, 1.0)
    heart.qrs[0, VECTOR] += amount * np.array([0.15, -0.18, 0.0])
    heart.widen(1.06)


def slow_ventricles(heart: Heart, amount: float) -> None:
    heart.widen(1.32 + 0.1 * (amount - 1), 0.02)
    heart.repolarisation[T, VECTOR] *= 0.75


def pre_excitation(heart: Heart, amount: float) -> None:
    heart.pr = 0.120
    heart.add_qrs(-0.034, 0.014, 0.016, amount * 0.42 * region("anterolateral"))
    heart.repolarisation[T, VECTOR] -= 0.25 * amount * region("anterolateral")


def pr_interval(seconds: float, variation: float) -> Apply:
    def apply(heart: Heart, amount: float) -> None:
        heart.pr = seconds * (1 + variation * (amount - 1))

    return apply


def complete_block(heart: Heart, amount: float) -> None:
    heart.rhythm = "complete block"
    heart.widen(1.3, 0.02)


def left_ventricular_hypertrophy(strain: float) -> Apply:
    def apply(heart: Heart, amount: float) -> None:
        # a small heart that is called hypertrophied has grown more than a large one
        growth = (1 + 0.8 * amount) * max(heart.size, 0.3) ** -0.8
        heart.qrs[1:4, VECTOR] *= max(growth, 1.2) * np.array([1.0, 0.8, 1.05])
        heart.widen(1.07)
        heart.repolarisation[T, VECTOR] -= strain * amount * np.array([0.50, 0.15, 0.25])
        heart.repolarisation[ST, VECTOR] -= strain * amount * np.array([0.13, 0.05, 0.07])

    return apply


def right_ventricular_hypertrophy(heart: Heart, amount: float) -> None:
    left_axis(-60)(heart, amount)
    heart.qrs[1, VECTOR] += amount * np.array([-0.30, 0.05, -0.55])
    heart.qrs[3:4, VECTOR] *= 0.3  # a bundle branch block has no such wave
    heart.repolarisation[T, VECTOR] += amount * np.array([0.10, -0.08, 0.42])


def septal_hypertrophy(heart: Heart, amount: float) -> None:
    heart.qrs[0, VECTOR] *= 1 + 1.4 * amount
    heart.repolarisation[T, VECTOR] *= 0.5


def left_atrial_enlargement(heart: Heart, amount: float) -> None:
    heart.p[1] += [0.018, 0.003, 0.003, 0.03 * amount, 0.01, 0.07 * amount]


def right_atrial_enlargement(heart: Heart, amount: float) -> None:
    heart.p[0, VECTOR] += amount * np.array([0.0, 0.12, -0.05])


def infarct(wall: str) -> Apply:
    """Loss of a wall: early forces and T turn away from it (Q waves, low R)."""
    towards = region(wall)

    def apply(heart: Heart, amount: float) -> None:
        lose_wall(heart, towards, amount)
        heart.repolarisation[T, VECTOR] -= 0.24 * amount * towards
        heart.repolarisation[ST, VECTOR] += 0.02 * amount * towards

    return apply


def lose_wall(heart: Heart, towards: np.ndarray, amount: float) -> None:
    share = np.clip(heart.qrs[:3, VECTOR] @ towards, 0, None)
    heart.qrs[:3, VECTOR] -= 0.55 * amount * share[:, None] * towards
    heart.add_qrs(-0.021, 0.010, 0.012, -0.36 * amount * heart.size * towards)


def acute_infarct(wall: str) -> Apply:
    """ST rises from the J point towards the wall and runs into a tall T; on the other side it sinks. Small Q waves."""
    towards = region(wall)

    def apply(heart: Heart, amount: float) -> None:
        lose_wall(heart, towards, 0.35 * amount)
        t = heart.repolarisation[T, VECTOR]
        t += max(0.0, 0.30 * amount - 0.5 * max(0.0, float(t @ towards))) * towards
        heart.add_repolarisation(0.075, 0.020, 0.090, 0.22 * amount * towards)
        heart.add_repolarisation(0.190, 0.060, 0.060, 0.16 * amount * towards)

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


def low_voltage(heart: Heart, amount: float) -> None:
    """QRS of less than half a millivolt in the limb leads, whatever the heart's own size."""
    heart.qrs[:, VECTOR] *= min(0.36 * amount / heart.size, 0.6)
    heart.repolarisation[:, VECTOR] *= 0.6
    heart.p[:, VECTOR] *= 0.8


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
