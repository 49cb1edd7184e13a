"""Bootstrap intervals against theory."""

from __future__ import annotations

import numpy as np
import pytest

from ecgtwin_fast.evaluation.bootstrap import bootstrap, bootstrap_mean
from ecgtwin_fast.evaluation.frechet import frechet_distance


def test_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = bootstrap(lambda rows: values[rows].mean(), np.arange(400), draws=2000)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.05 * half)


def test_records_of_one_person_are_drawn_together():
    """Four equal records a person count as one: the interval is that of the persons' mean, twice as wide."""
    person = np.repeat(np.arange(100), 4)
    values = np.random.default_rng(1).normal(size=100)[person]
    together, apart = (bootstrap_mean(values, groups) for groups in (person, np.arange(400)))
    assert together.value == apart.value
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(2, rel=0.15)


def test_interval_of_a_distance_is_put_around_it():
    """Repeated rows make a distance between two samples of one distribution larger than it is."""
    first, second = np.random.default_rng(2).normal(size=(2, 60, 8))
    groups = np.arange(60)

    def distance(rows, others):
        return frechet_distance(first[rows], second[others])

    assert bootstrap(distance, groups, groups).low > distance(groups, groups)
    found = bootstrap(distance, groups, groups, centred=True)
    assert found.low < found.value < found.high


def test_missing_values():
    found = bootstrap_mean(np.array([1.0, np.nan, 1.0]), np.arange(3))
    assert found == (1, 1, 1)
    assert bootstrap_mean(np.full(3, np.nan), np.arange(3)) is None
