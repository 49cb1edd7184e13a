"""Does a generator give its training set away? In plain features."""

from __future__ import annotations

import numpy as np

from .bootstrap import bootstrap
from .evidence import Evidence, Halves, Table
from .measured import PlainScale
from .privacy import distance_ratio, membership_auc, nearest

FEWEST = 10


def score_privacy(table: Table, evidence: Evidence, halves: Halves, scale: PlainScale) -> None:
    """Fill the section Privacy. The held-out set is the second half, whose people no generated record is of."""
    training = 0 if evidence.training is None else len(evidence.training)
    size = min(training, len(halves.second))
    if not scale.width or min(size, halves.size) < FEWEST:
        table.note(
            f"privacy is left out: it needs plain features of {FEWEST} training, held-out and generated records each; "
            f"there are {training}, {len(halves.second)} and {halves.size}"
        )
        return
    held_out, people = scale(evidence.real.plain[halves.second]), evidence.real.ecgs.groups()[halves.second]
    trained, members = scale(evidence.training.plain), evidence.training.ecgs.groups()
    rng = np.random.default_rng(evidence.seed)
    some, same = (rng.permutation(count)[:size] for count in (training, len(held_out)))
    for name, made in evidence.columns:
        rows = halves.rows[name]
        generated = scale(made.plain[rows])
        ratio = distance_ratio(generated, trained[some], held_out[same])
        table.put(
            name, "distance_ratio", bootstrap(lambda i, r=ratio: np.median(r[i]), made.ecgs.groups()[rows])
        )
        inside, outside = nearest(trained, generated), nearest(held_out, generated)
        table.put(
            name, "membership", bootstrap(lambda i, j, a=inside, b=outside: membership_auc(a[i], b[j]), members, people)
        )
