"""Everything that the metrics compare, drawn from the stores and measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..data.store import Store
from .anatomy import true_anatomy
from .ecgs import Ecgs, joined
from .evidence import Evidence
from .identity_scores import choose_gallery
from .measured import Tools, measure

LESSONS = 15_000
"""Real records that the judge of conditions is trained on, at most."""


def collect(
    store: Store,
    real: Ecgs,
    generated: Sequence[Ecgs],
    training: Sequence[Store],
    tools: Tools,
    count: int,
    seed: int,
    device: torch.device,
) -> Evidence:
    """The evidence for generators beside real records of the store's test fold.

    training: stores outside whose test folds the generators were trained; at most `count` records of them are measured.
    """
    gallery, queries = choose_gallery(store, real, generated)
    trained, anatomy = _training(training, count, seed)
    others = {
        "training": trained,
        "gallery": Ecgs.of_store(store, gallery, "gallery"),
        "queries": Ecgs.of_store(store, queries, "queries") if len(queries) else None,
    }
    others = {name: ecgs for name, ecgs in others.items() if ecgs is not None}
    measured = measure([real, *generated, *others.values()], tools)
    own = true_anatomy(store, gallery)
    return Evidence(
        real=measured[0],
        generated=measured[1 : len(generated) + 1],
        lessons=_training(training, LESSONS, seed)[0],
        anatomy=None if anatomy is None or own is None else (anatomy, own),
        seed=seed,
        device=device,
        **dict(zip(others, measured[len(generated) + 1 :], strict=True)),
    )


def _training(stores: Sequence[Store], count: int, seed: int) -> tuple[Ecgs | None, np.ndarray | None]:
    """Records outside the test folds, and their true anatomies (n, parameters) where all are of simulated patients."""
    rows = [(store, _whole_patients(store, count // len(stores), seed)) for store in stores]
    rows = [(store, own) for store, own in rows if len(own)]
    if not rows:
        return None, None
    anatomies = [true_anatomy(store, own) for store, own in rows]
    known = all(anatomy is not None for anatomy in anatomies)
    ecgs = joined([Ecgs.of_store(store, own, "training") for store, own in rows], "training")
    return ecgs, np.concatenate(anatomies) if known else None


def _whole_patients(store: Store, count: int, seed: int) -> np.ndarray:
    """At most `count` records outside the test fold, patient after patient, drawn at random."""
    rows = store.rows(test=False)
    people = np.random.default_rng(seed).permutation(np.unique(store.person[rows]))
    place = np.empty(int(store.person.max(initial=0)) + 1, np.int64)
    place[people] = np.arange(len(people))
    return np.sort(rows[np.argsort(place[store.person[rows]], kind="stable")][:count])
