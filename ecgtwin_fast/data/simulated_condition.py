"""Under what a simulated ECG is taken: report, heart rate, age and sex, as asked for or as a population shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .condition import patient_vector, split_report
from .simulated_heart import Heart
from .simulated_patient import Patient
from .simulated_reports import draw_effects, effects_of, worded
from .simulated_vocabulary import RHYTHMS, Effect


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
    def draw(cls, rng: np.random.Generator, patient: Patient, visit: int | None = None) -> Condition:
        """A condition that `patient` might be found in at a visit (0, 1, ...; None: any), older at each.

        Chronic findings come with age and stay; rhythm, ischaemia and ectopy change from visit to visit.
        """
        part, which, uniform = rng.random(3)
        age = patient.age_at(int(4 * which) if visit is None else visit, part)
        effects = draw_effects(rng, patient.history, age)
        low, high = effects[0].rates
        rate = low + (high - low) * uniform
        if effects[0] is RHYTHMS[0]:
            rate = min(max(patient.resting_rate + 7 * rng.standard_normal(), low), high)
        return cls(worded(effects, rate, rng), round(float(rate), 1), float(round(age)), patient.sex)

    @property
    def effects(self) -> list[Effect]:
        """The effects of the report's statements, rhythm first."""
        return effects_of(split_report(self.report))


def heart_of(patient: Patient, condition: Condition, rng: np.random.Generator | None) -> Heart:
    """The patient's heart under a condition; `rng` draws how strong each effect is (None: all as usual)."""
    heart = patient.heart(condition.age, condition.sex)
    effects = condition.effects
    amounts = [1.0] * len(effects) if rng is None else (0.75 + 0.5 * rng.random(len(effects))).tolist()
    for effect, amount in zip(effects, amounts, strict=True):
        effect.apply(heart, amount)
    return heart
