"""Is a twin its patient? Retrieval and verification against the patient's other records, beside real records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..data.store import Store
from ..errors import ECGTwinError
from .anatomy import FOLDS, AnatomyRegression
from .bootstrap import bootstrap, bootstrap_mean
from .ecgs import Ecgs
from .evidence import Evidence, Table, derangement
from .identity import AMONG, PlainIdentity, equal_error_rate, similarities
from .measured import Measured, PlainScale
from .metrics import REAL, SHUFFLED

FEWEST_PEOPLE = 2


def choose_gallery(store: Store, real: Ecgs, generated: Sequence[Ecgs]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the gallery (people,), one record of each person, and of real queries (paired,), another one where there
    is one.

    The gallery's is one that no twin was made from or asked to look like, where the person has such a record, else one
    that twins were made from; never, if it can be helped, one whose condition they share.
    """
    references = np.concatenate([ecgs.reference for ecgs in generated])
    targets = np.concatenate([real.target, *(ecgs.target for ecgs in generated)])
    people = np.unique(np.concatenate([real.person, *(ecgs.person for ecgs in generated)]))
    by_person: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.isin(store.person, people)):
        by_person.setdefault(int(store.person[row]), []).append(int(row))
    chosen, queries = [], []
    for rows in by_person.values():
        made_from, asked = np.isin(rows, references), np.isin(rows, targets)
        gallery = rows[int(np.argmin(2 * asked + made_from))]
        chosen.append(gallery)
        others = [row for row in rows if store.signal_hash[row] != store.signal_hash[gallery]]
        if others:
            queries.append(others[int(np.argmax(2 * np.isin(others, real.target) - np.isin(others, references)))])
    return np.array(chosen, dtype=np.int64), np.array(queries, dtype=np.int64)


def score_identity(table: Table, evidence: Evidence, scale: PlainScale) -> None:
    """Fill the section Identity."""
    gallery, queries = evidence.gallery, evidence.queries
    if gallery is None or queries is None or len(queries) < FEWEST_PEOPLE:
        count = 0 if queries is None else len(queries)
        table.note(f"{count} people of the test fold have two records: identity, which needs two, is left out")
        return
    table.note(
        f"identity: {len(queries)} people have another record, and are looked for among {min(AMONG, len(gallery))}"
    )
    _note_references(table, evidence)
    others = derangement(len(queries), evidence.seed)
    for space, vectors in _spaces(table, evidence, scale):
        known, people = vectors(gallery), gallery.ecgs.person
        asked = [(REAL, vectors(queries), queries.ecgs.person, queries.ecgs.person)]
        asked.append((SHUFFLED, vectors(queries), queries.ecgs.person[others], queries.ecgs.person))
        for made in evidence.generated:
            linked = np.flatnonzero(np.isin(made.ecgs.person, queries.ecgs.person))
            if len(linked):
                person = made.ecgs.person[linked]
                asked.append((made.ecgs.name, vectors(made)[linked], person, person))
        regression = None
        if evidence.anatomy and len(np.unique(evidence.training.ecgs.person)) >= FOLDS:
            learnt_from = evidence.training
            regression = AnatomyRegression(vectors(learnt_from), evidence.anatomy[0], learnt_from.ecgs.person)
        for name, found, claimed, groups in asked:
            pairs = similarities(found, claimed, known, people, evidence.seed)
            table.put(name, f"top1_{space}", bootstrap_mean(pairs.top(1), groups))
            table.put(name, f"top5_{space}", bootstrap_mean(pairs.top(5), groups))
            table.put(
                name, f"eer_{space}",
                bootstrap(lambda i, p=pairs: equal_error_rate(p.own[i], p.others[i].ravel()), groups),
            )  # fmt: skip
            if regression:
                truth = evidence.anatomy[1][np.searchsorted(people, claimed)]
                value = bootstrap(lambda i, f=found, t=truth, r=regression: r.r2(f[i], t[i]), groups)
                table.put(name, f"anatomy_{space}", value)


def _spaces(
    table: Table, evidence: Evidence, scale: PlainScale
) -> Iterator[tuple[str, Callable[[Measured], np.ndarray]]]:
    if evidence.real.base is None:
        table.note("no model with an extractor was given (--model or --extractor): base vectors are left out")
    else:
        yield "base", lambda measured: measured.base
    if not scale.width:
        return
    try:
        if evidence.training is None:
            raise ECGTwinError("there are no real records outside the test fold")
        learnt = PlainIdentity(scale(evidence.training.plain), evidence.training.ecgs.person)
    except ECGTwinError as error:
        table.note(f"identity by plain features learns from people outside the test fold, and is left out: {error}")
    else:
        yield "plain", lambda measured: learnt.vectors(scale(measured.plain))


def _note_references(table: Table, evidence: Evidence) -> None:
    for made in evidence.generated:
        ecgs = made.ecgs[np.flatnonzero(np.isin(made.ecgs.person, evidence.queries.ecgs.person))]
        if not len(ecgs):
            continue
        own = int(np.isin(ecgs.reference, evidence.gallery.ecgs.target).sum())
        if own:
            table.note(
                f"{made.ecgs.name}: {own} of {len(ecgs)} twins are compared with the record that they were made from, "
                "as their patients have no third one"
            )
