"""Privacy metrics: copies are seen, independent records are not."""

from __future__ import annotations

import numpy as np
import pytest

from ecgtwin_fast.evaluation.privacy import distance_ratio, membership_auc, nearest


def test_nearest_distances_on_a_line():
    first, second = (np.array(values)[:, None] for values in ([0.0, 5, 11], [1.0, 9]))
    np.testing.assert_allclose(nearest(first, second), [1, 4, 2])
    held_out = np.array([[2.0], [6.0]])
    np.testing.assert_allclose(distance_ratio(first, second, held_out), [1 / 2, 4 / 1, 2 / 5])


def test_alike_sets_give_nothing_away():
    generated, training, held_out = np.random.default_rng(0).normal(size=(3, 1500, 4))
    assert np.median(distance_ratio(generated, training, held_out)) == pytest.approx(1, abs=0.08)
    found = membership_auc(nearest(training, generated), nearest(held_out, generated))
    assert found == pytest.approx(0.5, abs=0.03)
    assert membership_auc(np.ones(3), np.ones(5)) == 0.5


def test_copies_give_the_training_set_away():
    training, held_out = np.random.default_rng(1).normal(size=(2, 100, 4))
    copies = training + 1e-6
    assert distance_ratio(copies, training, held_out).max() < 1e-3
    assert membership_auc(nearest(training, copies), nearest(held_out, copies)) == 1
