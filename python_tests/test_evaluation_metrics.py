"""Every metric on arrays small enough to know its value."""

from __future__ import annotations

import numpy as np
import pytest
from ecg_samples import sample_record

from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.preprocess import prepare
from ecgtwin_fast.errors import ECGTwinError
from ecgtwin_fast.evaluation import manifold
from ecgtwin_fast.evaluation.clip_score import clip_score
from ecgtwin_fast.evaluation.einthoven import einthoven_residual
from ecgtwin_fast.evaluation.frechet import frechet_distance, relative_frechet_distance
from ecgtwin_fast.evaluation.heart_rate import heart_rate_error, measured_rates
from ecgtwin_fast.evaluation.identity import equal_error_rate, identity
from ecgtwin_fast.evaluation.manifold import manifold_scores


def features_of(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """`count` rows with exactly this mean and covariance."""
    draws = np.random.default_rng(seed).normal(size=(count, len(mean)))
    draws -= draws.mean(0)
    whitened = draws @ np.linalg.inv(np.linalg.cholesky(np.cov(draws, rowvar=False))).T
    return whitened @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_commuting_covariances():
    """|mean|^2 + sum of (deviation1 - deviation2)^2, in a common rotation."""
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    first_deviation, second_deviation = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.25, 0.5])
    shift = np.array([0.5, -1.0, 2.0])
    first = features_of(np.zeros(3), turn * first_deviation**2 @ turn.T, 40, seed=2)
    second = features_of(shift, turn * second_deviation**2 @ turn.T, 50, seed=3)
    expected = np.square(shift).sum() + np.square(first_deviation - second_deviation).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_fewer_records_than_dimensions():
    features = np.random.default_rng(4).normal(size=(6, 64))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(features, features + 0.1) == pytest.approx(0.64, rel=1e-6)


def test_frechet_distance_of_scalars_and_of_wrong_shapes():
    values = np.array([[0.0], [2.0]])
    assert frechet_distance(values, 3 * values) == pytest.approx((3 - 1) ** 2 + 2 * (3 - 1) ** 2)
    with pytest.raises(ECGTwinError, match=r"shapes \(1, 4\) and \(5, 4\)"):
        frechet_distance(np.zeros((1, 4)), np.zeros((5, 4)))


def test_relative_frechet_distance_is_one_for_other_real_records():
    real, reference = np.random.default_rng(5).normal(size=(2, 20, 4))
    assert relative_frechet_distance(real, real, reference) == 1
    shifted = reference + 2
    expected = 16 / frechet_distance(real, reference)
    assert relative_frechet_distance(shifted, real, reference) == pytest.approx(expected)


@pytest.mark.parametrize("rows", [2, 1024])
def test_manifold_scores_on_a_line(rows, monkeypatch):
    """k = 1. Real 0 1 4 9 have radii 1 1 3 5, generated 0.5 6 20 radii 5.5 5.5 14."""
    monkeypatch.setattr(manifold, "ROWS", rows)
    real, generated = (np.array(values)[:, None] for values in ([0.0, 1, 4, 9], [0.5, 6, 20]))
    found = manifold_scores(generated, real, k=1)
    # 0.5 lies in the balls of 0 and 1; 6 in those of 4 (1..7) and 9 (4..14); 20 in none.
    assert found.precision == pytest.approx(2 / 3)
    assert found.density == pytest.approx(4 / 3)
    assert found.coverage == 1.0
    assert found.recall == 1.0  # 0, 1, 4 within -5..6, 9 within 0.5..11.5
    assert found.f1 == pytest.approx(0.8)


def test_manifold_scores_of_sets_apart():
    real = np.random.default_rng(7).normal(size=(20, 3))
    assert manifold_scores(real + 100, real) == (0, 0, 0, 0, 0)
    same = manifold_scores(real, real)
    assert same.precision == same.recall == same.f1 == same.coverage == 1.0
    with pytest.raises(ECGTwinError, match="3 generated and 20 real features, expected more than k = 3"):
        manifold_scores(real[:3], real)


def test_heart_rate_error():
    found = heart_rate_error(np.array([60.0, np.nan, 72.0, 90.0]), np.array([61.0, 80.0, 70.0, 60.0]))
    assert found == pytest.approx((11.0, 2.0, 0.25))
    nothing = heart_rate_error(np.array([np.nan]), np.array([60.0]))
    assert np.isnan(nothing.mean) and np.isnan(nothing.median) and nothing.unmeasured == 1


def test_measured_rates_finds_known_ones_and_says_where_there_are_none():
    signals = np.stack([prepare(sample_record(bpm=bpm, heart_rate=bpm)).signal for bpm in (55.0, 96.0)])
    rates = measured_rates(np.concatenate([signals, np.zeros_like(signals[:1])]))
    np.testing.assert_allclose(rates[:2], [55, 96], atol=1.5)
    assert np.isnan(rates[2])


def test_clip_score_is_the_mean_cosine():
    assert clip_score(np.array([[2.0, 0], [0, 3]]), np.array([[5.0, 0], [4, 3]])) == pytest.approx((1 + 0.6) / 2)


def test_identity_finds_people_by_angle():
    angles = np.radians([0, 30, 60, 90, 120, 150])
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    people = np.arange(6)
    found = identity(5 * gallery, people, gallery, people)
    assert found == (1.0, 1.0, 0.0, 6)
    # Each query stands for the person two places on: third or fourth nearest but for the ends.
    found = identity(gallery[:4], people[2:], gallery, people)
    assert found.top1 == 0.0 and found.top5 == 1.0 and found.equal_error_rate > 0.3
    with pytest.raises(ECGTwinError, match="1 people in the gallery"):
        identity(gallery[:1], people[:1], gallery[:1], people[:1])


def test_equal_error_rate():
    assert equal_error_rate(np.array([0.9, 0.8]), np.array([0.1, 0.2, 0.3])) == 0.0
    assert equal_error_rate(np.array([0.1, 0.2]), np.array([0.8, 0.9])) == 1.0
    # At 0.6 one of four genuine is rejected and one of four impostors accepted.
    genuine, impostor = np.array([0.9, 0.8, 0.7, 0.3]), np.array([0.1, 0.2, 0.25, 0.75])
    assert equal_error_rate(genuine, impostor) == pytest.approx(0.25)
    assert equal_error_rate(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == pytest.approx(0.5)


def test_einthoven_residual():
    signals = np.zeros((2, 100, 12), np.float32)
    first, second, third = (MODEL_LEADS.index(lead) for lead in ("I", "II", "III"))
    signals[:, :, first], signals[:, :, second], signals[:, :, third] = 0.5, 1.25, 0.75
    signals[1, ::2, third] += 0.3
    np.testing.assert_allclose(einthoven_residual(signals), [0, 0.3 / np.sqrt(2)], atol=1e-7)
