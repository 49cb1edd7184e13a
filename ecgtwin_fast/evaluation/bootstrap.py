"""Confidence intervals by the bootstrap over people (Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

DRAWS = 200
LEVEL = 0.95


class Estimate(NamedTuple):
    """A number and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[..., float],
    *groups: np.ndarray,
    centred: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate | None:
    """The percentile interval of `statistic(rows, ...)`, which takes an array of row numbers for each sample.

    Args:
        groups: one array (n,) a sample: rows of one group, such as one person's records, are drawn together.
        centred: for distances between samples, which repeated rows make larger (or smaller) than they are: the spread
            of the draws around their own mean is put around the value, and ends at 0.

    Returns:
        None where the statistic is not finite. Draws that are not are left out.
    """
    value = float(statistic(*(np.arange(len(sample)) for sample in groups)))
    if not np.isfinite(value):
        return None
    rng = np.random.default_rng(seed)
    members = [_members(sample) for sample in groups]
    drawn = np.array([statistic(*(_resampled(rows, rng) for rows in members)) for _ in range(draws)], dtype=np.float64)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Estimate(value, value, value)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if centred:
        shift = value - drawn.mean()
        low, high = max(0.0, low + shift), high + shift
    return Estimate(value, float(low), float(high))


def bootstrap_mean(values: np.ndarray, groups: np.ndarray, seed: int = 0) -> Estimate | None:
    """Mean of values (n,), those that are NaN left out."""
    return bootstrap(lambda rows: mean(values[rows]), groups, seed=seed)


def mean(values: np.ndarray) -> float:
    """Mean of those that are not NaN; NaN where all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def _members(sample: np.ndarray) -> list[np.ndarray] | int:
    """Rows of each group, or the number of rows where each is a group of its own."""
    _, group, size = np.unique(sample, return_inverse=True, return_counts=True)
    if (size == 1).all():
        return len(sample)
    return np.split(np.argsort(group, kind="stable"), np.cumsum(size)[:-1])


def _resampled(members: list[np.ndarray] | int, rng: np.random.Generator) -> np.ndarray:
    if isinstance(members, int):
        return rng.integers(members, size=members)
    return np.concatenate([members[number] for number in rng.integers(len(members), size=len(members))])
