"""Does a twin still look like its patient? Retrieval and verification by cosines of base vectors.

As in face recognition (Huang et al. 2008, Labeled Faces in the Wild): find the person among many, and tell pairs of
one person from pairs of two. The base vectors come from the Individual Base Extractor of arXiv 2508.02720, which also
conditioned the twins: compare with what real records of the same people reach, not with an ideal of 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import ECGTwinError
from .clip_score import unit


class Identity(NamedTuple):
    """top1, top5: share of queries with a record of the same person among the 1 or 5 nearest of the gallery.
    equal_error_rate: where as many pairs of one person are rejected as pairs of two are accepted.
    people: in the gallery."""

    top1: float
    top5: float
    equal_error_rate: float
    people: int


def identity(
    queries: np.ndarray, query_person: np.ndarray, gallery: np.ndarray, gallery_person: np.ndarray
) -> Identity:
    """Of base vectors: queries (n, d) and gallery (m, d), with the number of each one's person (n,) and (m,).

    Raises ECGTwinError unless the gallery has two people and holds every query's.
    """
    people = len(np.unique(gallery_person))
    if people < 2 or not np.isin(query_person, gallery_person).all():
        raise ECGTwinError(f"{people} people in the gallery: expected at least 2, and the person of every query")
    similarity = unit(queries) @ unit(gallery).T
    same = np.asarray(query_person)[:, None] == np.asarray(gallery_person)
    nearest = np.take_along_axis(same, np.argsort(-similarity, axis=1, kind="stable"), axis=1)
    top1, top5 = (float(nearest[:, :k].any(1).mean()) for k in (1, 5))
    return Identity(top1, top5, equal_error_rate(similarity[same], similarity[~same]), people)


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
