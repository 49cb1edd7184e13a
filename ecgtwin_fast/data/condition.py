"""The condition of an ECG: report statements, and heart rate, age and sex as the model's patient vector."""

from __future__ import annotations

import math

import numpy as np

from ..errors import ConditionError

HEART_RATE_RANGE = (20.0, 300.0)
AGE_RANGE = (0.0, 120.0)
_SEX_NUMBER = {"F": 0.0, "M": 1.0}
_SEX_WORDS = {"f": "F", "female": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}


def patient_vector(heart_rate: float | None, age: float | None, sex: str | None) -> np.ndarray:
    """The patient vector [(hr - 77.95)/20.37, (age - 64.25)/17.13, sex], float32 (3,).

    heart_rate in beats per minute (20..300), age in years (0..120), sex "F" (0) or "M" (1). Means and deviations
    are those of ECGTwin's training set (arXiv 2508.02720).
    Raises ConditionError for a missing value or one outside its range.
    """
    check_heart_rate(heart_rate)
    check_age(age)
    check_sex(sex)
    return np.array([(heart_rate - 77.95) / 20.37, (age - 64.25) / 17.13, _SEX_NUMBER[sex]], dtype=np.float32)


def split_report(report: str | None) -> list[str]:
    """The statements of a report, which '|' separates, stripped; ConditionError where none is left."""
    statements = [part.strip() for part in (report or "").split("|") if part.strip()]
    if not statements:
        raise ConditionError(f"the report is empty ({report!r}): give a statement, such as 'sinus rhythm'")
    return statements


def check_heart_rate(heart_rate: float | None) -> None:
    """ConditionError unless the heart rate lies in 20..300 bpm."""
    _check_range("heart rate", heart_rate, HEART_RATE_RANGE, "bpm")


def check_age(age: float | None) -> None:
    """ConditionError unless the age lies in 0..120 years."""
    _check_range("age", age, AGE_RANGE, "years")


def check_sex(sex: str | None) -> None:
    """ConditionError unless the sex is "F" or "M"."""
    if sex not in _SEX_NUMBER:
        raise ConditionError(f"sex is {sex!r}: expected 'F' or 'M'")


def sex_letter(text: str) -> str | None:
    """'F' or 'M' from a word such as 'Female' or 'm', None from any other."""
    return _SEX_WORDS.get(text.strip().lower())


def _check_range(field: str, value: float | None, limits: tuple[float, float], unit: str) -> None:
    low, high = limits
    if value is None:
        raise ConditionError(f"{field} is missing: expected {low:g}..{high:g} {unit}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConditionError(f"{field} is {value!r}: expected a number, {low:g}..{high:g} {unit}") from None
    if not math.isfinite(number) or not low <= number <= high:
        raise ConditionError(f"{field} is {number:g}: expected {low:g}..{high:g} {unit}")
