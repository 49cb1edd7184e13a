"""Personalised diagnosis: a classifier of real records adapted to one patient by the patient's twins.

Our reading of auto-diagnosis in arXiv 2508.02720: the patient's twins show findings that the patient's records do not
have yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.store import Store
from .classifier import Classifier
from .ecgs import Ecgs
from .evidence import derangement
from .statements import label_table

PEOPLE, TWINS = 30, 12
"""Patients, at most, and twins of each."""


class Personal(NamedTuple):
    """Twins of patients under other people's conditions, and real records of the same patients: not those that the
    twins were made from."""

    twins: Ecgs
    visits: Ecgs


def references(store: Store, gallery: Ecgs, queries: Ecgs) -> tuple[Ecgs, Ecgs]:
    """TWINS times the gallery's record of each of PEOPLE patients of the queries, and all other records of theirs."""
    known = gallery[np.flatnonzero(np.isin(gallery.person, queries.person))[:PEOPLE]]
    rows = np.flatnonzero(np.isin(store.person, known.person) & ~np.isin(np.arange(len(store)), known.target))
    return known[np.repeat(np.arange(len(known)), TWINS)], Ecgs.of_store(store, rows, "visits")


def conditions(lessons: Ecgs, count: int, seed: int) -> Ecgs:
    """The conditions of `count` training records, drawn at random."""
    return lessons[np.random.default_rng(seed).integers(len(lessons), size=count)]


def adapted_scores(
    judge: Classifier, names: Sequence[str], lessons: Ecgs, personal: Personal, seed: int, swapped: bool = False
) -> np.ndarray:
    """Logits (visits, findings) of the judge, which learnt from `lessons`, adapted to each patient by the patient's
    twins, or by another patient's."""
    people = np.unique(personal.visits.person)
    others = derangement(len(people), seed) if swapped else np.arange(len(people))
    known = lessons.signals, label_table(lessons.reports, names)
    scores = np.empty((len(personal.visits), len(names)), np.float32)
    for person, other in zip(people, people[others], strict=True):
        twins = personal.twins[np.flatnonzero(personal.twins.person == other)]
        adapted = judge.adapted(twins.signals, label_table(twins.reports, names), *known, seed)
        rows = np.flatnonzero(personal.visits.person == person)
        scores[rows] = adapted.scores(personal.visits.signals[rows])
    return scores
