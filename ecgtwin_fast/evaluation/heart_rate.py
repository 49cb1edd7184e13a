"""Does a generated ECG beat as asked? XQRS's heart rate against the requested one (DiffuSETS, arXiv 2501.05932)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.leads import MODEL_LEADS
from ..data.preprocess import SAMPLING_RATE, heart_rate_xqrs
from ..errors import RecordError


class HeartRateError(NamedTuple):
    """mean and median: of |measured - requested| in bpm, NaN where nothing was measured. unmeasured: share of records
    in which XQRS finds no heart rate, which the others leave out."""

    mean: float
    median: float
    unmeasured: float


def measured_rates(
    signals: np.ndarray, sampling_rate: float = SAMPLING_RATE, leads: Sequence[str] = MODEL_LEADS
) -> np.ndarray:
    """Heart rates (n,) in bpm of signals (n, samples, leads) in mV; NaN where XQRS finds none."""
    return np.array([_measured(signal, sampling_rate, leads) for signal in signals])


def heart_rate_error(measured: np.ndarray, requested: np.ndarray) -> HeartRateError:
    """Of heart rates (n,) in bpm; NaN among the measured ones means that there was none to measure."""
    error = np.abs(np.asarray(measured) - np.asarray(requested))
    known = error[np.isfinite(error)]
    if not len(known):
        return HeartRateError(np.nan, np.nan, 1.0)
    return HeartRateError(float(known.mean()), float(np.median(known)), 1 - len(known) / len(error))


def _measured(signal: np.ndarray, sampling_rate: float, leads: Sequence[str]) -> float:
    try:
        return heart_rate_xqrs(signal, sampling_rate, leads)
    except RecordError:
        return np.nan
