"""A simulated person: a seed's anatomy, from which follow the heart's waves, the lead field and the noise habits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .simulated_heart import LEAD_FIELD, P_WAVES, QRS_WAVES, REPOLARISATION_WAVES, VECTOR, Heart, T, rotation
from .simulated_noise import Habits
from .simulated_reports import Effect, draw_history

ANATOMY = (
    "heart_x", "heart_y", "heart_z", "qrs_size", "qrs_duration", "t_x", "t_y", "t_z", "t_size", "qt", "p_x", "p_y",
    "p_z", "p_size", "pr", "electrode_shift", "chest_gain", "resting_rate", "respiratory", "sex",
)  # fmt: skip
"""Names of the entries of Patient.anatomy()."""

_TRAITS = {name: number for number, name in enumerate(ANATOMY[:-1])}
MEAN_AGE, AGE_DEVIATION = 61.0, 17.0
YOUNGEST, OLDEST = 18.0, 95.0


@dataclass(frozen=True)
class Patient:
    """What one person's ECGs share: sex, anatomy, waves of the dipole, lead field, resting rate, noise, and a history.

    age: in years at the first visit. traits (19,): the anatomy's standard normal draws, see `anatomy`.
    p (2, 6), qrs (5, 6), repolarisation (3, 6), ectopic (5, 6): waves as in simulated_heart, ectopic the QRS (2) and
    repolarisation (3) of a premature ventricular beat. pr: PR interval in seconds. lead_field (8, 3): leads I, II,
    V1..V6 from the dipole, Dower's with a perturbation. resting_rate: beats per minute in sinus rhythm. respiratory,
    mayer: amplitudes of the two bands of the RR interval as shares of it, breath: the former's frequency in Hz.
    atrial (3,), atrial_rate, atrial_amplitude: fibrillatory waves, should the atria fibrillate: direction, Hz, mV.
    habits: noise. years_between: from one visit to the next. history: chronic findings, each with the age in years
    from which the person has it.
    """

    age: float
    sex: str
    traits: np.ndarray
    p: np.ndarray
    qrs: np.ndarray
    repolarisation: np.ndarray
    ectopic: np.ndarray
    pr: float
    lead_field: np.ndarray
    resting_rate: float
    respiratory: float
    mayer: float
    breath: float
    atrial: tuple[float, float, float]
    atrial_rate: float
    atrial_amplitude: float
    habits: Habits
    years_between: float
    history: tuple[tuple[float, Effect], ...]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Patient:
        """A random adult."""
        traits = rng.standard_normal(len(_TRAITS))
        trait = dict(zip(_TRAITS, traits.tolist(), strict=True))
        z = iter(rng.standard_normal(13).tolist())
        turn = rotation([0.21 * trait["heart_x"], 0.21 * trait["heart_y"], 0.31 * trait["heart_z"]])
        t_turn = turn @ rotation([0.18 * trait["t_x"], 0.21 * trait["t_y"], 0.21 * trait["t_z"]])
        p_turn = rotation([0.2 * trait["p_x"], 0.2 * trait["p_y"], 0.2 * trait["p_z"]])
        p, qrs, repolarisation = np.split(_varied(rng), _PARTS)
        p[:, VECTOR] = math.exp(0.22 * trait["p_size"]) * p[:, VECTOR] @ p_turn.T
        qrs[:, VECTOR] = math.exp(0.24 * trait["qrs_size"]) * qrs[:, VECTOR] @ turn.T
        qrs[:, : VECTOR.start] *= math.exp(0.04 + 0.08 * trait["qrs_duration"])
        repolarisation[:, VECTOR] = math.exp(0.30 * trait["t_size"]) * repolarisation[:, VECTOR] @ t_turn.T
        repolarisation[:, : VECTOR.start] *= math.exp(0.04 * trait["qt"])
        age = min(max(MEAN_AGE + AGE_DEVIATION * next(z), YOUNGEST), OLDEST)
        return cls(
            age=age,
            sex="FM"[rng.integers(2)],
            traits=traits,
            p=p,
            qrs=qrs,
            repolarisation=repolarisation,
            ectopic=_ectopic(rng),
            pr=min(max(0.158 + 0.018 * trait["pr"], 0.12), 0.198),
            lead_field=_lead_field(0.35 * trait["electrode_shift"], math.exp(0.10 * trait["chest_gain"]), rng),
            resting_rate=min(max(72 + 10 * trait["resting_rate"], 52.0), 98.0),
            respiratory=math.exp(-3.8 + 0.5 * trait["respiratory"]),
            mayer=math.exp(-4.1 + 0.4 * next(z)),
            breath=min(max(0.25 + 0.04 * next(z), 0.15), 0.40),
            atrial=(-0.2 + 0.15 * next(z), 0.35 + 0.15 * next(z), -0.5 + 0.15 * next(z)),
            atrial_rate=min(max(6.5 + 0.9 * next(z), 4.5), 9.0),
            atrial_amplitude=0.055 * math.exp(0.4 * next(z)),
            habits=Habits(
                wander=0.018 * math.exp(0.5 * next(z)),
                muscle=0.011 * math.exp(0.5 * next(z)),
                mains_frequency=50.0 if next(z) < 0 else 60.0,
                mains=0.004 * math.exp(0.8 * next(z)),
            ),
            years_between=0.3 + abs(1.5 * next(z)),
            history=draw_history(rng),
        )

    def anatomy(self) -> np.ndarray:
        """What stays the same in all visits, float64 (20,), named by ANATOMY; over people of mean 0 and deviation 1.

        0-2 heart_x, heart_y, heart_z: turn of the heart about the axes to the left (12 degrees a unit), to the feet
        (12) and to the back (18; a positive one turns the frontal axis to the right).
        3 qrs_size: logarithm of the QRS dipole's size (0.24 a unit). 4 qrs_duration: of its duration (0.08).
        5-7 t_x, t_y, t_z: turn of the T wave beyond the heart's, about the same axes (10, 12, 12 degrees).
        8 t_size: logarithm of the T dipole's size (0.30). 9 qt: of the times of repolarisation (0.04).
        10-12 p_x, p_y, p_z: turn of the P wave (11.5 degrees). 13 p_size: logarithm of its size (0.22).
        14 pr: PR interval (18 ms a unit around 158, limited to 120..198 ms).
        15 electrode_shift: V1..V6 along their row (0.35 of the distance between neighbours, towards V6).
        16 chest_gain: logarithm of the chest leads' gain (0.10): how near the heart is to the chest.
        17 resting_rate: in sinus rhythm (10 bpm around 72, limited to 52..98).
        18 respiratory: logarithm of the RR interval's respiratory band (0.5). 19 sex: -1 female, 1 male.
        """
        return np.append(self.traits, 1.0 if self.sex == "M" else -1.0)

    def age_at(self, visit: int, part: float = 0.5) -> float:
        """Age in years at a visit (0, 1, ...), `part` (0..1) into the time that lies between it and the next."""
        return min(self.age + self.years_between * (visit + part), OLDEST)

    def heart(self, age: float, sex: str) -> Heart:
        """The patient's heart at an age: smaller in women, turning left with age."""
        decades = (age - 55) / 10
        woman = sex == "F"
        size = (0.90 if woman else 1.06) * min(max(1 - 0.025 * decades, 0.8), 1.15)
        heart = Heart(
            p=self.p.copy(),
            qrs=self.qrs.copy(),
            repolarisation=self.repolarisation.copy(),
            pr=self.pr + 0.003 * decades,
            ectopic=self.ectopic,
            respiratory=self.respiratory * math.exp(-0.15 * decades),
            mayer=self.mayer * math.exp(-0.10 * decades),
            breath=self.breath,
            atrial=self.atrial,
            atrial_rate=self.atrial_rate,
            atrial_amplitude=self.atrial_amplitude,
        )
        turn = rotation([0.0, 0.0, -math.radians(4.0) * decades])
        heart.qrs[:, VECTOR] = size * heart.qrs[:, VECTOR] @ turn.T
        heart.repolarisation[T, VECTOR] *= (0.85 if woman else 1.08) * min(max(1 - 0.03 * decades, 0.8), 1.15)
        if woman:
            heart.qrs[:, : VECTOR.start] *= 0.95
            heart.repolarisation[:, : VECTOR.start] *= 1.025
        return heart


def shifted(field: np.ndarray, shift: np.ndarray | float) -> np.ndarray:
    """Lead field (8, 3) with V1..V6 moved along the chest by `shift` (6,), in distances between neighbours."""
    position = np.minimum(np.maximum(np.arange(6) + shift, 0), 5)
    lower = np.minimum(position.astype(int), 4)
    part = (position - lower)[:, None]
    moved = field.copy()
    moved[2:] = (1 - part) * field[2:][lower] + part * field[2:][lower + 1]
    return moved


_WAVES = np.concatenate([P_WAVES, QRS_WAVES, REPOLARISATION_WAVES])
_PARTS = np.cumsum([len(P_WAVES), len(QRS_WAVES)])
_SPREAD = np.repeat([0.07, 0.11, 0.08], [len(P_WAVES), len(QRS_WAVES), len(REPOLARISATION_WAVES)])[:, None]
_SPREAD = _SPREAD * np.abs(_WAVES[:, VECTOR]).max(1, keepdims=True)


def _varied(rng: np.random.Generator) -> np.ndarray:
    """A patient's own version of the typical waves (10, 6): each a little off in time, width and direction."""
    z = rng.standard_normal((len(_WAVES), 5))
    own = _WAVES.copy()
    own[:, 0] += 0.05 * _WAVES[:, 1] * z[:, 0]
    own[:, 1:3] *= np.exp(0.08 * z[:, 1:2])
    own[:, VECTOR] += _SPREAD * z[:, 2:]
    return own


_ECTOPIC = np.array(
    [
        [-0.010, 0.024, 0.024],
        [0.045, 0.024, 0.028],
        [0.150, 0.050, 0.050],
        [0.310, 0.060, 0.045],
        [0.450, 0.040, 0.040],
    ]
)


def _ectopic(rng: np.random.Generator) -> np.ndarray:
    """A ventricular premature beat: slow spread away from its focus, T against it."""
    z = rng.standard_normal(6)
    direction = 0.6 * z[:3] + [0.2, 0.1, 0.1]
    direction *= rng.uniform(1.2, 1.9) / math.sqrt(direction @ direction)
    bend = rotation(0.5 * z[3:]) @ direction
    waves = np.zeros((5, 6))
    waves[:, : VECTOR.start] = _ECTOPIC
    waves[:, VECTOR] = np.array([0.8, 0.0, -0.12, -0.38, 0.0])[:, None] * direction
    waves[1, VECTOR] = 0.65 * bend
    return waves


def _lead_field(shift: float, gain: float, rng: np.random.Generator) -> np.ndarray:
    """The lead field of a torso of one's own: chest electrodes shifted along their row, nearer or further."""
    z = rng.standard_normal((8, 5))
    field = shifted(LEAD_FIELD, shift + 0.15 * z[2:, 0])
    field[2:] *= gain * np.exp(0.08 * z[2:, 1:2])
    field[2:] += 0.07 * z[2:, 2:]
    field[:2] += 0.04 * z[:2, 2:]
    return field
