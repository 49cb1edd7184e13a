"""Do generated features lie where real ones do, and everywhere they do? Manifolds of nearest neighbours.

Precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991). Density and coverage: Naeem et al. 2020
(arXiv 2002.09797).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import ECGTwinError

ROWS = 1024
"""Rows of a matrix of distances in memory at a time."""


class ManifoldScores(NamedTuple):
    """precision: share of generated features inside some real one's ball. recall: share of real ones inside some
    generated one's ball. f1: their harmonic mean. density: balls of real ones around a generated one, over k.
    coverage: share of real ones whose ball holds a generated one. A ball reaches to the k-th nearest neighbour in
    its own set."""

    precision: float
    recall: float
    f1: float
    density: float
    coverage: float


class Manifold(NamedTuple):
    """balls: (n,) number of real ones' balls around each generated feature, over k. For each real one (m,): whether it
    is inside some generated one's ball (`inside`), and whether its ball holds a generated one (`covered`)."""

    balls: np.ndarray
    inside: np.ndarray
    covered: np.ndarray

    def scores(self, generated: np.ndarray | slice = slice(None), real: np.ndarray | slice = slice(None)):
        """ManifoldScores of these rows, the balls being those of all."""
        balls = self.balls[generated]
        precision, recall = float((balls > 0).mean()), float(self.inside[real].mean())
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        return ManifoldScores(precision, recall, f1, float(balls.mean()), float(self.covered[real].mean()))


def manifold(generated: np.ndarray, real: np.ndarray, k: int = 3) -> Manifold:
    """Of features (n, d) and (m, d). Raises ECGTwinError unless both have more than k rows."""
    if min(len(generated), len(real)) <= k:
        raise ECGTwinError(
            f"{len(generated)} generated and {len(real)} real features, expected more than k = {k} of each"
        )
    made, true = (torch.as_tensor(np.asarray(features), dtype=torch.float64) for features in (generated, real))
    made_radius, true_radius = _radii(made, k), _radii(true, k)
    balls = torch.zeros(len(made), dtype=torch.float64)
    inside, covered = torch.zeros(len(true), dtype=torch.bool), torch.zeros(len(true), dtype=torch.bool)
    for start in range(0, len(made), ROWS):
        block = slice(start, start + ROWS)
        distances = _distances(made[block], true)
        held = distances <= true_radius
        balls[block] = held.sum(1).double() / k
        covered |= held.any(0)
        inside |= (distances <= made_radius[block, None]).any(0)
    return Manifold(balls.numpy(), inside.numpy(), covered.numpy())


def _radii(features: Tensor, k: int) -> Tensor:
    """Distance of each row to its k-th nearest neighbour, itself not counted."""
    # Of the k + 1 nearest, one is the row itself.
    return torch.cat([_distances(block, features).kthvalue(k + 1).values for block in features.split(ROWS)])


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # Differences, not products: equal rows are at distance zero.
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
