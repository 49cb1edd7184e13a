"""Does a twin still look like its patient? Retrieval and verification by cosines of vectors of identity.

As in face recognition (Huang et al. 2008, Labeled Faces in the Wild): find the person among many, and tell pairs of
one person from pairs of two. Base vectors come from the Individual Base Extractor of arXiv 2508.02720, which also
conditioned the twins: compare with what real records of the same people reach, not with an ideal of 1, and with
`PlainIdentity`, which no generator was trained with.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import ECGTwinError
from .clip_score import unit

AMONG = 100
"""People among whom a person is looked for."""
_SHRINKAGE = 0.01


class Similarities(NamedTuple):
    """Cosines of q queries with the gallery's record of their own person, own (q,), and of others (q, N - 1)."""

    own: np.ndarray
    others: np.ndarray

    def top(self, k: int) -> np.ndarray:
        """(q,) 1 where the own record is among the k nearest of N, else 0; a tie counts as further away."""
        return ((self.others >= self.own[:, None]).sum(1) < k).astype(np.float64)


def similarities(
    queries: np.ndarray, person: np.ndarray, gallery: np.ndarray, gallery_person: np.ndarray, seed: int = 0
) -> Similarities:
    """Of vectors (q, d) and (m, d); the gallery has one record a person, of whom every query meets its own and
    AMONG - 1 others drawn at random, or all where they are fewer.

    Raises ECGTwinError unless the gallery has two people, each once, and holds every query's.
    """
    people, place = np.unique(gallery_person, return_index=True)
    if len(people) < 2 or len(people) < len(gallery_person) or not np.isin(person, people).all():
        raise ECGTwinError(
            f"{len(gallery_person)} records of {len(people)} people in the gallery: expected one of each of at least 2 "
            "people, and the person of every query"
        )
    cosine = unit(queries) @ unit(gallery[place]).T
    own = np.searchsorted(people, person)
    rng = np.random.default_rng(seed)
    others = rng.permuted(np.tile(np.arange(1, len(people)), (len(own), 1)), axis=1)[:, : AMONG - 1]
    others = (own[:, None] + others) % len(people)
    return Similarities(cosine[np.arange(len(own)), own], np.take_along_axis(cosine, others, axis=1))


def equal_error_rate(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Error where false rejection of genuine (n,) and false acceptance of impostor (m,) similarities are equal.

    A similarity at or above the threshold is accepted; between two thresholds both rates are interpolated linearly.
    """
    thresholds = np.append(np.unique(np.concatenate([genuine, impostor])), np.inf)
    rejected = np.searchsorted(np.sort(genuine), thresholds, side="left") / len(genuine)
    accepted = 1 - np.searchsorted(np.sort(impostor), thresholds, side="left") / len(impostor)
    # `rejected` rises from 0 to 1 and `accepted` falls from 1 to 0: they cross once.
    after = int(np.argmax(rejected >= accepted))
    gap_before, gap_after = accepted[after - 1] - rejected[after - 1], rejected[after] - accepted[after]
    share = gap_before / (gap_before + gap_after)
    return float(rejected[after - 1] + share * (rejected[after] - rejected[after - 1]))


class PlainIdentity:
    """Linear discriminants (Fisher 1936) of plain features that tell people apart, learnt from real records of others;
    n people have at most n - 1 of them.

    features: (n, d) of at least two people with two records each (person: (n,)), else ECGTwinError.
    """

    def __init__(self, features: np.ndarray, person: np.ndarray, width: int = 16):
        from scipy.linalg import eigh

        _, group, size = np.unique(person, return_inverse=True, return_counts=True)
        if (size > 1).sum() < 2:
            raise ECGTwinError(f"{(size > 1).sum()} people have two records, expected at least 2")
        several = (size > 1)[group]
        features, group = features[several], np.unique(group[several], return_inverse=True)[1]
        means = np.stack([features[group == number].mean(0) for number in range(group.max() + 1)])
        self._centre = means.mean(0)
        within = np.cov(features - means[group], rowvar=False)
        within += _SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within)) + 1e-9 * np.eye(len(within))
        _, vectors = eigh(np.cov(means, rowvar=False), within)
        self._directions = vectors[:, ::-1][:, : min(width, len(means) - 1)]

    def vectors(self, features: np.ndarray) -> np.ndarray:
        """Features (n, d) to (n, width)."""
        return (features - self._centre) @ self._directions
