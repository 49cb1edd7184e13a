"""Distances and manifolds, in the ECG-text encoder's features and in plain ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .bootstrap import Estimate, bootstrap
from .evidence import Evidence, Halves, Table
from .frechet import frechet_distance, relative_frechet_distance
from .manifold import ManifoldScores, manifold
from .measured import Measured, PlainScale
from .metrics import REAL

NEIGHBOURS = 3


def score_features(table: Table, evidence: Evidence, halves: Halves, scale: PlainScale) -> None:
    """Fill the section Features."""
    if evidence.real.clip is None:
        table.note("no CLIP encoder was given (--clip): its features and the CLIP score are left out")
    if min(halves.size, len(halves.second)) <= NEIGHBOURS:
        table.note(f"{halves.size} records are too few for distances and manifolds: they need {NEIGHBOURS + 1}")
        return
    table.note(f"distances compare {halves.size} records of each column with {len(halves.second)} other real ones")
    for space, width in _spaces(evidence.real, scale):
        if halves.size < 10 * width:
            table.note(
                f"{halves.size} records are few for features of {width} dimensions: Fréchet distances are biased "
                "upwards; compare them within this report or with runs of equal size"
            )
        for name, made in evidence.columns:
            _score_space(table, name, space, made, evidence.real, halves, scale)


def _score_space(
    table: Table, name: str, space: str, made: Measured, real: Measured, halves: Halves, scale: PlainScale
) -> None:
    own, first, second = halves.rows[name], halves.rows[REAL], halves.second
    generated = features_of(made, space, scale)[own]
    halved = features_of(real, space, scale)
    here, there = halved[first], halved[second]
    groups, here_groups, there_groups = made.ecgs.groups()[own], real.ecgs.groups()[first], real.ecgs.groups()[second]

    fid = bootstrap(lambda i, j: frechet_distance(generated[i], there[j]), groups, there_groups, centred=True)
    # Real records over themselves are 1 by definition.
    relative = Estimate(1.0, 1.0, 1.0) if name == REAL else bootstrap(
        lambda i, j, k: relative_frechet_distance(generated[i], here[k], there[j]),
        groups, there_groups, here_groups, centred=True,
    )  # fmt: skip
    table.put(name, f"fid_{space}", fid)
    table.put(name, f"relative_fid_{space}", relative)
    found = manifold(generated, there, NEIGHBOURS)
    for place, metric in enumerate(ManifoldScores._fields):
        value = bootstrap(lambda i, j, p=place: found.scores(i, j)[p], groups, there_groups)
        table.put(name, f"{metric}_{space}", value)


def features_of(measured: Measured, space: str, scale: PlainScale) -> np.ndarray:
    """(n, d) in a space of metrics.SPACES."""
    return measured.clip if space == "clip" else scale(measured.plain)


def _spaces(real: Measured, scale: PlainScale) -> Iterator[tuple[str, int]]:
    if real.clip is not None:
        yield "clip", real.clip.shape[1]
    if scale.width:
        yield "plain", scale.width
