"""Identity: retrieval, verification, plain discriminants, recovered anatomy, and who is compared with whom."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ecgtwin_fast.errors import ECGTwinError
from ecgtwin_fast.evaluation.anatomy import AnatomyRegression
from ecgtwin_fast.evaluation.identity import AMONG, PlainIdentity, equal_error_rate, similarities
from ecgtwin_fast.evaluation.identity_scores import choose_gallery


def test_people_are_found_by_angle():
    angles = np.radians([0, 30, 60, 90, 120, 150])
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    people = np.arange(6)
    found = similarities(5 * gallery, people, gallery, people)
    np.testing.assert_allclose(found.own, 1)
    assert found.others.shape == (6, 5) and found.top(1).all()
    # Each query stands for the person two places on: third to fifth nearest but never first.
    found = similarities(gallery[:4], people[2:], gallery, people)
    assert not found.top(1).any() and found.top(5).all()
    with pytest.raises(ECGTwinError, match="1 records of 1 people in the gallery"):
        similarities(gallery[:1], people[:1], gallery[:1], people[:1])


def test_a_person_is_looked_for_among_a_hundred():
    """Of random vectors one in a hundred is the nearest, one in twenty among the five nearest."""
    gallery, queries = np.random.default_rng(0).normal(size=(2, 1500, 32))
    people = np.arange(1500)
    found = similarities(queries, people, gallery, people)
    assert found.others.shape == (1500, AMONG - 1)
    assert found.top(1).mean() == pytest.approx(0.01, abs=0.008)
    assert found.top(5).mean() == pytest.approx(0.05, abs=0.02)
    assert equal_error_rate(found.own, found.others.ravel()) == pytest.approx(0.5, abs=0.03)
    tied = similarities(np.ones((3, 2)), np.arange(3), np.ones((3, 2)), np.arange(3))
    assert not tied.top(1).any(), "equal vectors find nobody"


def test_equal_error_rate():
    assert equal_error_rate(np.array([0.9, 0.8]), np.array([0.1, 0.2, 0.3])) == 0.0
    assert equal_error_rate(np.array([0.1, 0.2]), np.array([0.8, 0.9])) == 1.0
    # At 0.6 one of four genuine is rejected and one of four impostors accepted.
    genuine, impostor = np.array([0.9, 0.8, 0.7, 0.3]), np.array([0.1, 0.2, 0.25, 0.75])
    assert equal_error_rate(genuine, impostor) == pytest.approx(0.25)
    assert equal_error_rate(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == pytest.approx(0.5)


def people_in_noise(people: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of two visits each: 3 dimensions tell people apart, 9 louder ones do not; persons, and who they are."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), 2)
    truth = rng.normal(size=(people, 3))[person]
    return np.hstack([truth + 0.1 * rng.normal(size=truth.shape), 3 * rng.normal(size=(2 * people, 9))]), person, truth


def test_plain_identity_learns_what_tells_people_apart():
    learnt = PlainIdentity(*people_in_noise(200, seed=1)[:2], width=3)
    features, person, _ = people_in_noise(50, seed=2)
    pairs = [values[side::2] for values in (features, learnt.vectors(features)) for side in (0, 1)]
    plain, found = (similarities(pairs[at], person[::2], pairs[at + 1], person[::2]).top(1).mean() for at in (0, 2))
    assert plain < 0.2 and found > 0.7
    with pytest.raises(ECGTwinError, match="1 people have two records"):
        PlainIdentity(features[:3], person[:3])


def test_few_people_have_few_discriminants():
    """More would be directions in which these people are all alike, drawn by rounding."""
    features, person, _ = people_in_noise(6, seed=7)
    moved = features * (1 + 1e-9 * np.random.default_rng(8).normal(size=features.shape))
    found, again = (PlainIdentity(given, person).vectors(features) for given in (features, moved))
    assert found.shape == (12, 5)
    assert np.allclose(np.abs(found), np.abs(again), rtol=1e-4, atol=1e-4)


def test_anatomy_is_recovered_as_far_as_vectors_tell_it():
    features, person, truth = people_in_noise(200, seed=3)
    anatomy = np.hstack([truth[:, :1], np.random.default_rng(4).normal(size=(200, 1))[person], np.ones((400, 1))])
    regression = AnatomyRegression(features, anatomy, person)
    others, _, known = people_in_noise(200, seed=5)
    untold = np.random.default_rng(6).normal(size=(400, 1))
    # All of the first parameter, nothing of the second; the third, which is the same in everybody, does not count.
    assert regression.r2(others, np.hstack([known[:, :1], untold, np.ones((400, 1))])) == pytest.approx(0.5, abs=0.06)


def test_gallery_prefers_records_that_twins_do_not_know():
    """Person 0 has a third record; 1 has two; 2 has one; 3 has two that are equal."""
    person = np.array([0, 0, 0, 1, 1, 2, 3, 3])
    store = SimpleNamespace(person=person, signal_hash=np.array([0, 1, 2, 3, 4, 5, 6, 6]))
    real = SimpleNamespace(person=np.arange(4), target=np.array([1, 4, 5, 7]))
    twins = SimpleNamespace(person=np.array([0, 1, -1]), reference=np.array([0, 3, -1]), target=np.array([1, 4, -1]))
    gallery, queries = choose_gallery(store, real, [twins])
    assert gallery.tolist() == [2, 3, 5, 6] and queries.tolist() == [1, 4]
