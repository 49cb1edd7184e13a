"""A simulated cohort: patients, their conditions and 12-lead ECGs from a moving dipole.

ECGSYN-style (McSharry et al., 2003): a patient is a set of Gaussian waves of the heart's dipole and a
lead field; a condition (report, heart rate, age, sex) chooses rhythm, conduction and ST-T. Limb leads
obey I + III = II to the last bit. Signals are synthetic, not for diagnosis.

`python -m ecgtwin_fast.data.simulated OUT` writes the package's simulated patient as WFDB into folder OUT.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .condition import patient_vector, split_report
from .leads import MODEL_LEADS
from .record import Record, write_wfdb
from .simulated_heart import (
    LEAD_FIELD,
    P_WAVES,
    QRS_WAVES,
    REPOLARISATION_WAVES,
    VECTOR,
    Heart,
    T,
    render,
    rotation,
)
from .simulated_rhythms import draw_beats, fibrillation, waves_of
from .simulated_vocabulary import (
    ABNORMAL,
    HEALTHY,
    NORMAL,
    RAPID,
    RHYTHMS,
    SLOW,
    Effect,
    draw_effects,
    effects_of,
)

INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
GRID = 2.0**-14
"""Spacing of the amplitudes of leads I and II in mV: on it, Einthoven's sums are exact in float32."""


@dataclass(frozen=True)
class Patient:
    """What one person's ECGs share: age and sex, waves of the dipole, lead field, resting rate.

    p (2, 6), qrs (5, 6), repolarisation (3, 6), ectopic (5, 6): waves as in simulated_heart, ectopic the
    QRS (2) and repolarisation (3) of a premature ventricular beat. pr: PR interval in seconds.
    lead_field (8, 3): leads I, II, V1..V6 from the dipole. resting_rate: beats per minute in sinus rhythm.
    respiratory: sinus arrhythmia as a share of the RR interval. atrial (3,): dipole of the fibrillating
    atria, of which only the direction counts.
    """

    age: float
    sex: str
    p: np.ndarray
    qrs: np.ndarray
    repolarisation: np.ndarray
    ectopic: np.ndarray
    pr: float
    lead_field: np.ndarray
    resting_rate: float
    respiratory: float
    atrial: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Patient:
        """A random adult."""
        turn = rotation(rng.normal(0, np.radians([12, 12, 18])))
        t_turn = turn @ rotation(rng.normal(0, np.radians([14, 16, 16])))
        size, t_size = np.exp(rng.normal(0, [0.24, 0.28]))
        qrs = _varied(QRS_WAVES, turn, rng, size, 0.18)
        qrs[:, 0:3] *= np.exp(rng.normal(0, 0.07))
        repolarisation = _varied(REPOLARISATION_WAVES, t_turn, rng, t_size, 0.15)
        repolarisation[:, 0:3] *= np.exp(rng.normal(0, 0.04))
        return cls(
            age=float(np.clip(rng.normal(61, 17), 18, 95)),
            sex=str(rng.choice(["F", "M"])),
            p=_varied(P_WAVES, rotation(rng.normal(0, 0.2, 3)), rng, np.exp(rng.normal(0, 0.22)), 0.15),
            qrs=qrs,
            repolarisation=repolarisation,
            ectopic=_ectopic(rng),
            pr=float(np.clip(rng.normal(0.158, 0.018), 0.12, 0.198)),
            lead_field=_lead_field(rng),
            resting_rate=float(np.clip(rng.normal(72, 10), 52, 98)),
            respiratory=float(np.exp(rng.normal(-3.8, 0.5))),
            atrial=rng.normal([-0.2, 0.35, -0.5], 0.15),
        )


@dataclass(frozen=True)
class Condition:
    """What an ECG is taken under: report (joined by "|"), heart rate per minute, age in years, sex F or M."""

    report: str
    heart_rate: float
    age: float
    sex: str

    @classmethod
    def from_report(cls, report: str, heart_rate: float, age: float, sex: str) -> Condition:
        """A condition as asked for; statements that the simulation does not know have no effect.

        Raises ConditionError for an empty report, a heart rate or an age out of range, or an unknown sex.
        """
        patient_vector(heart_rate, age, sex)
        return cls("|".join(split_report(report)), float(heart_rate), float(age), sex)

    @classmethod
    def draw(cls, rng: np.random.Generator, patient: Patient) -> Condition:
        """A random condition that `patient` might be found in, within some years of the patient's age."""
        effects = draw_effects(rng)
        low, high = effects[0].rates
        rate = rng.uniform(low, high)
        if effects[0] is RHYTHMS[0]:
            rate = np.clip(rng.normal(patient.resting_rate, 7), low, high)
        age = np.clip(patient.age + rng.normal(0, 3), 18, 95)
        return cls(_worded(effects, rate, rng), round(float(rate), 1), float(round(age)), patient.sex)

    @property
    def effects(self) -> list[Effect]:
        """The effects of the report's statements, rhythm first."""
        return effects_of(split_report(self.report))


def simulate(
    patient: Patient,
    condition: Condition,
    rng: np.random.Generator,
    sampling_rate: float = 102.4,
    samples: int = 1024,
    noise: float = 1.0,
) -> np.ndarray:
    """One ECG as float32 (samples, 12) in mV, leads in the model's order.

    `noise` scales baseline wander and muscle noise. The same arguments and generator state give the same ECG.
    """
    heart = _heart(patient, condition)
    for effect in condition.effects:
        effect.apply(heart, rng.uniform(0.75, 1.25))
    duration = samples / sampling_rate
    beats = draw_beats(heart, condition.heart_rate, duration, rng)
    dipole = render(waves_of(heart, beats, duration, rng), sampling_rate, samples)
    if heart.rhythm == "fibrillation":
        dipole += fibrillation(heart, sampling_rate, samples, rng)
    # electrodes never sit twice in the same place
    field = _shifted(patient.lead_field, rng.normal(0, 0.08, 6))
    leads = dipole @ field.T + noise * _noise(sampling_rate, samples, rng)
    return _twelve(leads)


def simulate_pair(rng: np.random.Generator) -> tuple[Record, Record]:
    """Reference and target: one patient's ECGs under two conditions, 1024 samples at 102.4 Hz."""
    patient = Patient.draw(rng)
    return simulate_record(patient, rng), simulate_record(patient, rng)


def simulate_record(
    patient: Patient,
    rng: np.random.Generator,
    condition: Condition | None = None,
    sampling_rate: float = 102.4,
    samples: int = 1024,
) -> Record:
    """A patient's ECG as a Record, under a condition that is drawn where none is given."""
    condition = condition or Condition.draw(rng, patient)
    return Record(
        signal=simulate(patient, condition, rng, sampling_rate, samples),
        sampling_rate=sampling_rate,
        leads=MODEL_LEADS,
        age=condition.age,
        sex=condition.sex,
        report=condition.report,
        heart_rate=condition.heart_rate,
        source="simulated",
    )


def _varied(
    waves: np.ndarray, turn: np.ndarray, rng: np.random.Generator, size: float, spread: float
) -> np.ndarray:
    """A patient's own version of typical waves: turned, scaled, each a little off in time, width and size."""
    own = waves.copy()
    own[:, 0] += 0.05 * waves[:, 1] * rng.standard_normal(len(waves))
    own[:, 1:3] *= np.exp(rng.normal(0, 0.08, (len(waves), 1)))
    own[:, VECTOR] += (
        spread * np.abs(waves[:, VECTOR]).max(1, keepdims=True) * rng.standard_normal((len(waves), 3)) * 0.6
    )
    own[:, VECTOR] = size * own[:, VECTOR] @ turn.T
    return own


def _ectopic(rng: np.random.Generator) -> np.ndarray:
    """A ventricular premature beat: slow spread away from its focus, T against it."""
    direction = rng.normal([0.2, 0.1, 0.1], 0.6)
    direction *= rng.uniform(1.1, 1.9) / np.linalg.norm(direction)
    bend = rotation(rng.normal(0, 0.5, 3)) @ direction
    waves = np.empty((5, 6))
    waves[:, 0] = -0.01, 0.045, 0.15, 0.31, 0.45
    waves[:, 1] = 0.024, 0.024, 0.05, 0.06, 0.04
    waves[:, 2] = 0.024, 0.028, 0.05, 0.045, 0.04
    waves[:, VECTOR] = np.outer([0.8, 0.0, -0.12, -0.38, 0.0], direction) + np.outer(
        [0.0, 0.65, 0.0, 0.0, 0.0], bend
    )
    return waves


def _lead_field(rng: np.random.Generator) -> np.ndarray:
    """The lead field of a torso of one's own: chest electrodes shifted along their row, nearer or further."""
    field = _shifted(LEAD_FIELD, rng.normal(0, 0.35) + rng.normal(0, 0.15, 6))
    field[2:] *= np.exp(rng.normal(0, 0.10, (6, 1)))
    field[2:] += rng.normal(0, 0.07, (6, 3))
    field[:2] += rng.normal(0, 0.04, (2, 3))
    return field


def _shifted(field: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Lead field with V1..V6 moved along the chest by `shift` (6,), in distances between neighbours."""
    position = (np.arange(6) + shift).clip(0, 5)
    lower = np.minimum(position.astype(int), 4)
    part = (position - lower)[:, None]
    moved = field.copy()
    moved[2:] = (1 - part) * field[2:][lower] + part * field[2:][lower + 1]
    return moved


def _heart(patient: Patient, condition: Condition) -> Heart:
    """The patient's heart at a condition's age and sex: smaller in women, turning left with age."""
    decades = (condition.age - 55) / 10
    size = (0.90 if condition.sex == "F" else 1.06) * np.clip(1 - 0.025 * decades, 0.8, 1.15)
    turn = rotation(np.array([0.0, 0.0, -np.radians(4.0) * decades]))
    heart = Heart(
        p=patient.p.copy(),
        qrs=patient.qrs.copy(),
        repolarisation=patient.repolarisation.copy(),
        pr=patient.pr + 0.003 * decades,
        ectopic=patient.ectopic,
        respiratory=patient.respiratory * float(np.exp(-0.15 * decades)),
        atrial=patient.atrial,
    )
    heart.qrs[:, VECTOR] = size * heart.qrs[:, VECTOR] @ turn.T
    heart.repolarisation[T, VECTOR] *= (0.85 if condition.sex == "F" else 1.08) * np.clip(
        1 - 0.03 * decades, 0.8, 1.15
    )
    if condition.sex == "F":
        heart.qrs[:, 0:3] *= 0.95
        heart.repolarisation[:, 0:3] *= 1.025
    return heart


def _noise(sampling_rate: float, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Baseline wander and muscle noise of the eight independent leads (samples, 8) in mV."""
    time = np.arange(samples)[:, None] / sampling_rate
    wander = np.zeros((samples, 8))
    for frequency in rng.uniform(0.08, 0.45, 2):
        angle = 2 * np.pi * frequency * time
        sine, cosine = rng.normal(0, 0.014, (2, 8))
        wander += sine * np.sin(angle) + cosine * np.cos(angle)
    return wander + rng.uniform(0.002, 0.011) * rng.standard_normal((samples, 8))


def _twelve(independent: np.ndarray) -> np.ndarray:
    """I, II, V1..V6 (samples, 8) to the model's twelve leads, the others by Einthoven and Goldberger."""
    one, two = (np.round(independent[:, :2] / GRID) * GRID).T
    values = dict(zip(INDEPENDENT, independent.T, strict=True))
    values |= {
        "I": one,
        "II": two,
        "III": two - one,
        "aVR": -(one + two) / 2,
        "aVL": one - two / 2,
        "aVF": two - one / 2,
    }
    return np.stack([values[lead] for lead in MODEL_LEADS], axis=1).astype(np.float32)


def _worded(effects: list[Effect], rate: float, rng: np.random.Generator) -> str:
    """A report of these effects: PTB-XL's words, the rhythm last, or an ECG cart's, the rhythm first."""
    cart = rng.random() < 0.5
    healthy = len(effects) == 1 and effects[0].names[0].startswith("sinus")
    statements = [effect.names[rng.integers(len(effect.names)) if cart else 0] for effect in effects]
    if effects[0].names[0] == "atrial fibrillation" and rng.random() < 0.6 and not 60 <= rate <= 100:
        statements.insert(1, RAPID if rate > 100 else SLOW)
    if cart:
        if rng.random() < 0.5:
            statements.append(str(rng.choice(HEALTHY if healthy else ABNORMAL)))
        return "|".join(statements)
    if healthy:
        return "|".join([NORMAL, *statements])
    return "|".join(statements[1:] + statements[:1])


def main() -> None:
    """Writes the simulated patient, 500 Hz WFDB, into the folder given on the command line."""
    import sys

    rng = np.random.default_rng(118)
    patient = Patient.draw(rng)
    condition = Condition.from_report("normal ECG|sinus rhythm", 68, 63, patient.sex)
    record = simulate_record(patient, rng, condition, sampling_rate=500, samples=5000)
    write_wfdb(record, sys.argv[1], "patient", comments=["simulated"])


if __name__ == "__main__":
    main()
