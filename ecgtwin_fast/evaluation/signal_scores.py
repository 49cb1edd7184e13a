"""Metrics of the signals themselves: heart rate, intervals, Einthoven's law, spectra."""

from __future__ import annotations

import numpy as np

from .beats import INTERVALS
from .bootstrap import bootstrap, bootstrap_mean
from .evidence import Evidence, Halves, Table, derangement
from .heart_rate import heart_rate_error
from .metrics import REAL, SHUFFLED
from .spectra import spectral_distance
from .wasserstein import wasserstein


def score_signals(table: Table, evidence: Evidence, halves: Halves) -> None:
    """Fill the section Signal."""
    real = evidence.real
    asked = [(name, made, made.ecgs.heart_rate) for name, made in evidence.columns]
    if len(real) > 1:
        others = derangement(len(real), evidence.seed)
        asked.append((SHUFFLED, real, real.ecgs.heart_rate[others]))
    for name, made, rates in asked:
        error, groups = heart_rate_error(made.rates, rates), made.ecgs.groups()
        table.put(name, "heart_rate_median", bootstrap(lambda rows, e=error: _median(e[rows]), groups))
        table.put(name, "heart_rate_mean", bootstrap_mean(error, groups))
    for name, made in evidence.columns:
        groups = made.ecgs.groups()
        table.put(name, "heart_rate_unmeasured", bootstrap_mean(np.isnan(made.rates).astype(float), groups))
        table.put(name, "einthoven", bootstrap_mean(made.einthoven, groups))
        if not np.isnan(real.intervals).all():
            missing = np.isnan(made.intervals[:, INTERVALS.index("QRS")])
            table.put(name, "undelineated", bootstrap_mean(missing.astype(float), groups))
        if halves.size and len(halves.second):
            _score_distributions(table, name, evidence, halves)
    found = table.values[REAL]["heart_rate_mean"]
    if found is not None and found.value < 0.01:
        table.note("the store's heart rates are XQRS's own, so that real records have no heart-rate error")


def _score_distributions(table: Table, name: str, evidence: Evidence, halves: Halves) -> None:
    made = dict(evidence.columns)[name]
    own, other = halves.rows[name], halves.second
    groups = made.ecgs.groups()[own], evidence.real.ecgs.groups()[other]
    for column, interval in enumerate(INTERVALS):
        first, second = made.intervals[own, column], evidence.real.intervals[other, column]
        distance = bootstrap(lambda i, j, f=first, s=second: wasserstein(f[i], s[j]), *groups, centred=True)
        table.put(name, f"wasserstein_{interval.lower()}", distance)
    first, second = made.spectra[own], evidence.real.spectra[other]
    distance = bootstrap(lambda i, j: spectral_distance(first[i], second[j]), *groups, centred=True)
    table.put(name, "spectra", distance)


def _median(error: np.ndarray) -> float:
    return float(np.nanmedian(error)) if not np.isnan(error).all() else np.nan
