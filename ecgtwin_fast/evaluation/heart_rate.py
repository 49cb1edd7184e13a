"""Does a generated ECG beat as asked? XQRS's heart rate against the requested one (DiffuSETS, arXiv 2501.05932)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.leads import MODEL_LEADS
from ..data.preprocess import SAMPLING_RATE, heart_rate_xqrs
from ..errors import RecordError


def measured_rate(
    signal: np.ndarray, sampling_rate: float = SAMPLING_RATE, leads: Sequence[str] = MODEL_LEADS
) -> float:
    """Heart rate in bpm of a signal (samples, leads) in mV; NaN where XQRS finds none."""
    try:
        return heart_rate_xqrs(signal, sampling_rate, leads)
    except RecordError:
        return np.nan


def heart_rate_error(measured: np.ndarray, requested: np.ndarray) -> np.ndarray:
    """|measured - requested| (n,) of heart rates in bpm, NaN where either is: where XQRS finds no beats."""
    return np.abs(np.asarray(measured, dtype=np.float64) - np.asarray(requested, dtype=np.float64))
