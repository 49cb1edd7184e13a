"""Are generated ECGs copies of the training set's? Distances to it against those to records that training never saw."""

from __future__ import annotations

import numpy as np

from .auroc import auroc

_ROWS = 1024


def nearest(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distance (n,) of each row of features (n, d) to the nearest of (m, d)."""
    from scipy.spatial.distance import cdist

    return np.concatenate(
        [cdist(first[start : start + _ROWS], second).min(1) for start in range(0, len(first), _ROWS)]
    )


def distance_ratio(generated: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Distance (n,) of each generated ECG to the training set over that to a held-out set, the nearest-neighbour
    distance ratio: around 1 where nothing is copied, towards 0 for copies.

    Features (n, d), (m, d) and (m, d): a larger set would be nearer without any copying.
    """
    return nearest(generated, training) / np.maximum(nearest(generated, held_out), np.finfo(np.float64).tiny)


def membership_auc(to_training: np.ndarray, to_held_out: np.ndarray) -> float:
    """How well an attacker tells records of the training set from others by their nearest generated ECG.

    Distances (m,) and (h,) of training and held-out records to it. 0.5: not at all. Chen et al. 2020 (GAN-Leaks).
    """
    member = np.repeat([True, False], [len(to_training), len(to_held_out)])
    return auroc(member, -np.concatenate([to_training, to_held_out]))
