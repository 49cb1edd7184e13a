"""What the metrics compare, the table that they fill, and how records are parted for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .bootstrap import Estimate
from .ecgs import Ecgs
from .measured import Measured
from .metrics import METRICS, REAL

if TYPE_CHECKING:
    from .personal import Personal


@dataclass(frozen=True)
class Evidence:
    """What is compared.

    real: held-out records, one a person, under their own conditions. generated: one set a column. lessons: real records
    outside the test fold, for classifiers; training: those of them that were measured. gallery: one record of
    each person, and queries: another one of those who have it. Each of the last four is None where there are none.
    anatomy: the true anatomies (n, parameters) of `training` and of `gallery`, on simulated cohorts. device: of the
    classifiers. personal: for personalised diagnosis, by the names of generators that make twins here.
    """

    real: Measured
    generated: list[Measured]
    lessons: Ecgs | None = None
    training: Measured | None = None
    gallery: Measured | None = None
    queries: Measured | None = None
    anatomy: tuple[np.ndarray, np.ndarray] | None = None
    seed: int = 0
    device: Any = "cpu"
    personal: Mapping[str, Personal] = field(default_factory=dict)

    @property
    def columns(self) -> list[tuple[str, Measured]]:
        """Name and records of each generator, then of the real ones in a generator's place."""
        return [*((made.ecgs.name, made) for made in self.generated), (REAL, self.real)]


@dataclass
class Table:
    """Estimates by column and metric, AUROC by finding, and notes on what is missing and why."""

    columns: list[str]
    values: dict[str, dict[str, Estimate | None]] = field(init=False)
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = {column: dict.fromkeys(METRICS) for column in self.columns}

    def put(self, column: str, metric: str, estimate: Estimate | None) -> None:
        """Fill a cell; KeyError for one that the table does not have."""
        if metric not in self.values[column]:
            raise KeyError(metric)
        self.values[column][metric] = estimate

    def note(self, text: str) -> None:
        """Add a sentence, once."""
        if text not in self.notes:
            self.notes.append(text)


class Halves:
    """Real records in two halves by person; a generator's records that are of nobody in the second half.

    What is compared with `second` are `rows` of a column: equally many of each, since distances shrink with numbers.
    """

    def __init__(self, evidence: Evidence):
        rng = np.random.default_rng(evidence.seed)
        real = evidence.real.ecgs
        people = rng.permutation(np.unique(real.groups()))
        self._held = people[(len(people) + 1) // 2 :]
        self.second = np.flatnonzero(np.isin(real.groups(), self._held))
        everyone = {name: self.all_rows(measured.ecgs) for name, measured in evidence.columns}
        self.size = min(map(len, everyone.values()))
        self.rows = {name: np.sort(rng.permutation(rows)[: self.size]) for name, rows in everyone.items()}

    def all_rows(self, ecgs: Ecgs) -> np.ndarray:
        """Rows of nobody in the second half."""
        return np.flatnonzero(~np.isin(ecgs.groups(), self._held))


def derangement(count: int, seed: int) -> np.ndarray:
    """A permutation of 0..count-1 that leaves nothing in place (for count above 1)."""
    cycle = np.random.default_rng(seed).permutation(count)
    others = np.empty_like(cycle)
    others[cycle] = np.roll(cycle, 1)
    return others
