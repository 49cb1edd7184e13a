"""Patient vector and report statements."""

from __future__ import annotations

import numpy as np
import pytest

from ecgtwin_fast.data.condition import patient_vector, sex_letter, split_report
from ecgtwin_fast.errors import ConditionError


def test_patient_vector_is_normalised_in_the_order_rate_age_sex():
    np.testing.assert_array_equal(patient_vector(77.95, 64.25, "F"), np.float32([0, 0, 0]))
    vector = patient_vector(77.95 + 20.37, 64.25 - 17.13, "M")
    np.testing.assert_allclose(vector, [1, -1, 1], rtol=1e-6)
    assert vector.dtype == np.float32


@pytest.mark.parametrize("heart_rate, age", [(20, 0), (300, 120)])
def test_limits_of_the_ranges_are_allowed(heart_rate, age):
    assert np.isfinite(patient_vector(heart_rate, age, "F")).all()


@pytest.mark.parametrize(
    "heart_rate, age, sex, message",
    [
        (19.9, 60, "F", "heart rate is 19.9: expected 20..300 bpm"),
        (301, 60, "F", "heart rate is 301: expected 20..300 bpm"),
        (float("nan"), 60, "F", "heart rate is nan"),
        ("fast", 60, "F", "heart rate is 'fast': expected a number"),
        (None, 60, "F", "heart rate is missing"),
        (70, 400, "F", "age is 400: expected 0..120 years"),
        (70, -1, "M", "age is -1: expected 0..120 years"),
        (70, None, "M", "age is missing"),
        (70, 60, "f", "sex is 'f': expected 'F' or 'M'"),
        (70, 60, None, "sex is None"),
        (70, 60, 1, "sex is 1"),
    ],
)
def test_values_outside_human_range_are_refused(heart_rate, age, sex, message):
    with pytest.raises(ConditionError) as error:
        patient_vector(heart_rate, age, sex)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "report, statements",
    [
        ("sinus rhythm", ["sinus rhythm"]),
        (
            " Atrial fibrillation |rapid ventricular response",
            ["Atrial fibrillation", "rapid ventricular response"],
        ),
        ("a||b|", ["a", "b"]),
    ],
)
def test_reports_split_at_bars(report, statements):
    assert split_report(report) == statements


@pytest.mark.parametrize("report", ["", "  ", "|", " | ", None])
def test_empty_reports_are_refused(report):
    with pytest.raises(ConditionError, match="the report is empty"):
        split_report(report)


@pytest.mark.parametrize(
    "word, letter", [("Female", "F"), (" m ", "M"), ("M", "M"), ("diverse", None), ("", None)]
)
def test_sex_words(word, letter):
    assert sex_letter(word) == letter
