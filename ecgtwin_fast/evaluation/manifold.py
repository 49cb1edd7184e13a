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


def manifold_scores(generated: np.ndarray, real: np.ndarray, k: int = 3) -> ManifoldScores:
    """Of features (n, d) and (m, d). Raises ECGTwinError unless both have more than k rows."""
    if min(len(generated), len(real)) <= k:
        raise ECGTwinError(
            f"{len(generated)} generated and {len(real)} real features, expected more than k = {k} of each"
        )
    made, true = (torch.as_tensor(np.asarray(features), dtype=torch.float64) for features in (generated, real))
    made_radius, true_radius = _radii(made, k), _radii(true, k)
    true_balls = torch.zeros(len(made))
    made_balls, covered = torch.zeros(len(true)), torch.zeros(len(true), dtype=torch.bool)
    for start in range(0, len(made), ROWS):
        block = slice(start, start + ROWS)
        distances = _distances(made[block], true)
        inside = distances <= true_radius
        true_balls[block] = inside.sum(1).float()
        covered |= inside.any(0)
        made_balls += (distances <= made_radius[block, None]).sum(0)
    precision = float((true_balls > 0).double().mean())
    recall = float((made_balls > 0).double().mean())
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return ManifoldScores(precision, recall, f1, float(true_balls.double().mean() / k), float(covered.double().mean()))


def _radii(features: Tensor, k: int) -> Tensor:
    """Distance of each row to its k-th nearest neighbour, itself not counted."""
    # Of the k + 1 nearest, one is the row itself.
    return torch.cat([_distances(block, features).kthvalue(k + 1).values for block in features.split(ROWS)])


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # Differences, not products: equal rows are at distance zero.
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
