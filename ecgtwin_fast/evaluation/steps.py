"""Quality against the number of a sampler's steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..generator import Generator
from .bootstrap import Estimate, bootstrap
from .ecgs import Ecgs
from .encoders import Statements
from .evidence import Evidence, Halves, Table
from .feature_scores import features_of, score_features
from .frechet import frechet_distance
from .identity_scores import score_identity
from .measured import Measured, PlainScale, Tools, measure
from .metrics import SHUFFLED, SPACES
from .signal_scores import score_signals
from .twins import Sampling, make_ecgs

METRICS = ("heart_rate_median", "fid_clip", "fid_plain", "top1_base", "top1_plain")
"""Keys of `metrics.METRICS` that are followed over the steps."""
LIMIT = 1.05
"""A FID up to so many times the yardstick's counts as equal to it."""


class Point(NamedTuple):
    """A sampler and its number of steps."""

    sampler: str
    steps: int

    def __str__(self) -> str:
        return f"{self.sampler}, {self.steps} steps"


def step_curve(
    model: Generator,
    name: str,
    statements: Statements,
    cases: tuple[Ecgs, Ecgs],
    evidence: Evidence,
    tools: Tools,
    points: Sequence[Point],
    seed: int,
    batch: int,
) -> list[dict[str, Any]]:
    """What METRICS are at each of the points, the first of which is the yardstick.

    Args:
        name: of the model. cases: references and targets of its ECGs. evidence: what they are compared with, and how.

    Returns:
        For each point its sampler, steps and "metrics": an Estimate or None for each of METRICS, and "ratio_clip" and
        "ratio_plain", of its FID to the yardstick's, whose intervals come of the same people for both.
    """
    made = [
        make_ecgs(model, statements, *cases, Sampling(*point, seed, batch), f"{name}, {point}")[0] for point in points
    ]
    evidence = replace(evidence, generated=measure(made, tools), anatomy=None)
    halves, scale = Halves(evidence), PlainScale(evidence.real.plain)
    table = Table([*(column for column, _ in evidence.columns), SHUFFLED])
    score_signals(table, evidence, halves)
    score_features(table, evidence, halves, scale)
    score_identity(table, evidence, scale)
    rows = []
    for point, measured in zip(points, evidence.generated, strict=True):
        values = table.values[measured.ecgs.name]
        found = {metric: values[metric] for metric in METRICS}
        for space in SPACES:
            ratio = None
            if values[f"fid_{space}"] is not None:
                ratio = _ratio(measured, evidence.generated[0], evidence.real, space, halves, scale)
            found[f"ratio_{space}"] = ratio
        rows.append({**point._asdict(), "metrics": found})
    return rows


def fewest_steps(rows: Sequence[dict[str, Any]], space: str) -> dict[str, int]:
    """For each sampler the fewest steps from which on its FID stays within LIMIT of the yardstick's."""
    found: dict[str, int] = {}
    failed: set[str] = set()
    for row in sorted(rows, key=lambda row: -row["steps"]):
        ratio = row["metrics"][f"ratio_{space}"]
        if ratio is None or ratio[0] > LIMIT:
            failed.add(row["sampler"])
        elif row["sampler"] not in failed:
            found[row["sampler"]] = row["steps"]
    return found


def _ratio(
    one: Measured, yardstick: Measured, real: Measured, space: str, halves: Halves, scale: PlainScale
) -> Estimate | None:
    rows = halves.all_rows(one.ecgs)  # of the same cases at every point
    own, base = (features_of(measured, space, scale)[rows] for measured in (one, yardstick))
    there = features_of(real, space, scale)[halves.second]
    groups = one.ecgs.groups()[rows], real.ecgs.groups()[halves.second]
    return bootstrap(
        lambda i, j: frechet_distance(own[i], there[j]) / frechet_distance(base[i], there[j]), *groups, centred=True
    )
