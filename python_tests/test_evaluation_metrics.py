"""Every metric on arrays small enough to know its value."""

from __future__ import annotations

import numpy as np
import pytest
from ecg_samples import sample_record

from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.preprocess import SAMPLING_RATE, prepare
from ecgtwin_fast.errors import ECGTwinError
from ecgtwin_fast.evaluation import manifold as manifolds
from ecgtwin_fast.evaluation.auroc import auroc
from ecgtwin_fast.evaluation.clip_score import cosines
from ecgtwin_fast.evaluation.einthoven import einthoven_residual
from ecgtwin_fast.evaluation.frechet import frechet_distance, relative_frechet_distance
from ecgtwin_fast.evaluation.heart_rate import heart_rate_error, measured_rate
from ecgtwin_fast.evaluation.manifold import manifold
from ecgtwin_fast.evaluation.spectra import log_spectra, spectral_distance
from ecgtwin_fast.evaluation.wasserstein import wasserstein


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
    monkeypatch.setattr(manifolds, "ROWS", rows)
    real, generated = (np.array(values)[:, None] for values in ([0.0, 1, 4, 9], [0.5, 6, 20]))
    parts = manifold(generated, real, k=1)
    found = parts.scores()
    # 0.5 lies in the balls of 0 and 1; 6 in those of 4 (1..7) and 9 (4..14); 20 in none.
    assert found.precision == pytest.approx(2 / 3)
    assert found.density == pytest.approx(4 / 3)
    assert found.coverage == 1.0
    assert found.recall == 1.0  # 0, 1, 4 within -5..6, 9 within 0.5..11.5
    assert found.f1 == pytest.approx(0.8)
    some = parts.scores(np.array([2, 2, 1]), np.array([0, 3]))
    assert some == pytest.approx((1 / 3, 1, 0.5, 2 / 3, 1))


def test_manifold_scores_of_sets_apart():
    real = np.random.default_rng(7).normal(size=(20, 3))
    assert manifold(real + 100, real).scores() == (0, 0, 0, 0, 0)
    same = manifold(real, real).scores()
    assert same.precision == same.recall == same.f1 == same.coverage == 1.0
    with pytest.raises(ECGTwinError, match="3 generated and 20 real features, expected more than k = 3"):
        manifold(real[:3], real)


def test_heart_rate_error():
    found = heart_rate_error(np.array([60.0, np.nan, 72.0, 90.0]), np.array([61.0, 80.0, np.nan, 60.0]))
    np.testing.assert_array_equal(found, [1, np.nan, np.nan, 30])


def test_measured_rate_finds_known_ones_and_says_where_there_is_none():
    for bpm in (55.0, 96.0):
        assert measured_rate(prepare(sample_record(bpm=bpm, heart_rate=bpm)).signal) == pytest.approx(bpm, abs=1.5)
    assert np.isnan(measured_rate(np.zeros((1024, 12), np.float32)))


def test_cosines():
    np.testing.assert_allclose(cosines(np.array([[2.0, 0], [0, 3]]), np.array([[5.0, 0], [4, 3]])), [1, 0.6])


def test_wasserstein_of_shifted_samples_is_the_shift():
    values = np.random.default_rng(9).normal(size=50)
    assert wasserstein(values, values + 3.5) == pytest.approx(3.5)
    assert wasserstein(np.append(values, np.nan), values) == pytest.approx(0)
    # Halves at 0 and 1 against all at 1/4: mean of 1/4 and 3/4.
    assert wasserstein(np.array([0.0, 1.0]), np.array([0.25])) == pytest.approx(0.5)
    assert np.isnan(wasserstein(np.array([np.nan]), values))


def test_auroc():
    positive = np.array([False, False, True, True])
    assert auroc(positive, np.array([0.1, 0.2, 0.3, 0.4])) == 1
    assert auroc(positive, np.array([0.4, 0.3, 0.2, 0.1])) == 0
    assert auroc(positive, np.ones(4)) == 0.5
    assert auroc(positive, np.array([0.1, 0.3, 0.2, 0.4])) == 0.75
    assert np.isnan(auroc(np.ones(4, bool), np.arange(4.0)))
    rng = np.random.default_rng(10)
    assert auroc(rng.random(20000) < 0.3, rng.random(20000)) == pytest.approx(0.5, abs=0.02)


def test_spectra_of_noise_twice_as_large_are_six_decibels_apart():
    noise = np.random.default_rng(11).normal(size=(4, 1024, 12)).astype(np.float32)
    spectra = log_spectra(noise)
    assert spectra.shape[:2] == (4, 12)
    # White noise of variance 1 has the density 2 / sampling rate.
    assert spectra.mean() == pytest.approx(10 * np.log10(2 / SAMPLING_RATE), abs=0.6)
    assert spectral_distance(log_spectra(2 * noise), spectra) == pytest.approx(20 * np.log10(2), rel=1e-3)
    assert np.isfinite(log_spectra(np.zeros((1, 1024, 12)))).all()


def test_einthoven_residual():
    signals = np.zeros((2, 100, 12), np.float32)
    first, second, third = (MODEL_LEADS.index(lead) for lead in ("I", "II", "III"))
    signals[:, :, first], signals[:, :, second], signals[:, :, third] = 0.5, 1.25, 0.75
    signals[1, ::2, third] += 0.3
    np.testing.assert_allclose(einthoven_residual(signals), [0, 0.3 / np.sqrt(2)], atol=1e-7)
