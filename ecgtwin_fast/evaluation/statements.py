"""Which statements ECGs are judged by: wordings of one finding count as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.condition import split_report
from ..data.simulated_reports import effects_of
from ..data.simulated_vocabulary import ABNORMAL, HEALTHY
from ..data.text import normalise_statement

VERDICTS = {normalise_statement(text) for text in (*ABNORMAL, *HEALTHY)} - {"normal ecg"}
"""Summaries such as 'Abnormal ECG', which name no finding."""


def findings(report: str) -> set[str]:
    """What a report states. Wordings that the vocabulary of PTB-XL and of ECG carts knows become its first; any other
    statement stands for itself, in lower case without punctuation."""
    found = set()
    for statement in split_report(report):
        known = effects_of([statement])
        found |= {effect.names[0] for effect in known} if known else {normalise_statement(statement)}
    return found - VERDICTS


def label_table(reports: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """(n, names) bool: which findings each report states."""
    place = {name: column for column, name in enumerate(names)}
    table = np.zeros((len(reports), len(names)), dtype=bool)
    for row, report in enumerate(reports):
        table[row, [place[name] for name in findings(report) if name in place]] = True
    return table


def common_findings(reports: Sequence[str], fewest: int) -> list[str]:
    """Findings that at least `fewest` reports state and as many do not, most frequent first."""
    counts: dict[str, int] = {}
    for report in reports:
        for name in findings(report):
            counts[name] = counts.get(name, 0) + 1
    kept = [name for name, count in counts.items() if fewest <= count <= len(reports) - fewest]
    return sorted(kept, key=lambda name: (-counts[name], name))
