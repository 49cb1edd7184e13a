"""wfdb's XQRS detector with its slowest part, a search for local peaks, done by NumPy: the same beats, sooner."""

from __future__ import annotations

from functools import cache
from importlib import util

import numpy as np


def xqrs_detect(signal: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Samples of the QRS complexes that wfdb.processing.xqrs_detect finds in one lead (samples,)."""
    return np.asarray(_qrs().xqrs_detect(signal, sampling_rate, verbose=False))


def local_peaks(sig: np.ndarray, radius: int) -> np.ndarray:
    """What wfdb.processing.peaks.find_local_peaks gives: samples that are the largest of sig[i - radius : i + radius],
    each at least `radius` after the one before."""
    if sig.min() == sig.max():
        return np.empty(0)
    padded = np.pad(np.asarray(sig, dtype=np.float64), radius, constant_values=-np.inf)
    largest = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius)[: len(sig)].max(1)
    peaks, free = [], 0
    for place in np.flatnonzero(sig == largest):
        if place >= free:
            peaks.append(place)
            free = place + radius
    return np.array(peaks)


@cache
def _qrs():
    """A module of our own from wfdb's source, so that the one that others import stays as it is."""
    spec = util.find_spec("wfdb.processing.qrs")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.find_local_peaks = local_peaks
    return module
