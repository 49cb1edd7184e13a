"""Fréchet distance between real and generated features (Heusel et al. 2017, arXiv 1706.08500; FID)."""

from __future__ import annotations

import numpy as np

from ..errors import ECGTwinError


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Fréchet distance of the normal distributions that fit two sets of features (n, d) and (m, d).

    |mean1 - mean2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), covariances over n - 1. It shrinks as n grows: compare only
    distances between equally large sets. Raises ECGTwinError for fewer than two rows or unequal widths.
    """
    first, second = (np.asarray(features, dtype=np.float64) for features in (first, second))
    if min(len(first), len(second)) < 2 or first.shape[1:] != second.shape[1:]:
        raise ECGTwinError(
            f"features have the shapes {first.shape} and {second.shape}, expected (n, d) and (m, d), n and m above 1"
        )
    shift = np.square(first.mean(0) - second.mean(0)).sum()
    roots = [_root(np.cov(features, rowvar=False).reshape(first.shape[1], -1)) for features in (first, second)]
    # tr (C1 C2)^(1/2) is the sum of the singular values of C1^(1/2) C2^(1/2), which rank-deficient covariances, of
    # fewer records than dimensions, leave as exact as any other.
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    spread = sum(np.square(root).sum() for root in roots)
    return float(shift + spread - 2 * overlap)


def relative_frechet_distance(generated: np.ndarray, real: np.ndarray, reference: np.ndarray) -> float:
    """Distance of generated features to `reference` over that of `real` ones to it (DiffuSETS, arXiv 2501.05932).

    `real` and `reference` are two halves of the real records. Generated and `real` have equally many rows, so that the
    distances' bias cancels: 1 where generated records differ from real ones as those do among themselves.
    """
    return frechet_distance(generated, reference) / frechet_distance(real, reference)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
