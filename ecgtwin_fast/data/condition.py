"""The condition of an ECG: report statements, and heart rate, age and sex as the model's patient vector."""

from __future__ import annotations

import math

import numpy as np

from ..errors import ConditionError

HEART_RATE_RANGE = (20.0, 300.0)
AGE_RANGE = (0.0, 120.0)
_HEART_RATE_MEAN, _HEART_RATE_DEVIATION = 77.95, 20.37
_AGE_MEAN, _AGE_DEVIATION = 64.25, 17.13
_UNKNOWN_SEX = 0.5
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
    return patient_vectors(np.array([heart_rate]), np.array([age]), np.array([_SEX_NUMBER[sex]]))[0]


def patient_vectors(heart_rate: np.ndarray, age: np.ndarray, sex: np.ndarray) -> np.ndarray:
    """Patient vectors float32 (n, 3) of heart rates, ages and sexes (0 F, 1 M), each (n,), not checked.

    NaN stands for an unknown age, which becomes the mean, and for an unknown sex, which becomes the middle.
    """
    columns = (
        (np.asarray(heart_rate, np.float64) - _HEART_RATE_MEAN) / _HEART_RATE_DEVIATION,
        np.nan_to_num((np.asarray(age, np.float64) - _AGE_MEAN) / _AGE_DEVIATION),
        np.nan_to_num(sex, nan=_UNKNOWN_SEX),
    )
    return np.stack(columns, axis=1).astype(np.float32)


def split_report(report: str | None) -> list[str]:
    """The statements of a report, which '|' separates, stripped; ConditionError where none is left."""
    statements = [part.strip() for part in (report or "").split("|") if part.strip()]
    if not statements:
        raise ConditionError(
            f"the report is empty ({report!r}): give a statement, such as 'sinus rhythm'", "empty report"
        )
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
        raise ConditionError(f"sex is {sex!r}: expected 'F' or 'M'", "sex unknown")


def sex_letter(text: str) -> str | None:
    """'F' or 'M' from a word such as 'Female' or 'm', None from any other."""
    return _SEX_WORDS.get(text.strip().lower())


def _check_range(field: str, value: float | None, limits: tuple[float, float], unit: str) -> None:
    low, high = limits
    if value is None:
        raise ConditionError(f"{field} is missing: expected {low:g}..{high:g} {unit}", f"{field} unknown")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConditionError(
            f"{field} is {value!r}: expected a number, {low:g}..{high:g} {unit}", f"{field} out of range"
        ) from None
    if not math.isfinite(number) or not low <= number <= high:
        raise ConditionError(f"{field} is {number:g}: expected {low:g}..{high:g} {unit}", f"{field} out of range")
