"""Do generated ECGs have real ones' frequencies? Distance of mean log power spectral densities."""

from __future__ import annotations

import numpy as np

from ..data.preprocess import SAMPLING_RATE

BAND = (0.5, 40.0)
"""Hz: what an ECG is read in."""
_SEGMENT = 256
_SMALLEST = 1e-12


def log_spectra(signals: np.ndarray) -> np.ndarray:
    """Power spectral densities (n, 12, frequencies) in dB, by Welch's method with segments of 2.5 s, of signals
    (n, 1024, 12) in mV."""
    from scipy.signal import welch

    frequency, density = welch(signals.astype(np.float64), SAMPLING_RATE, nperseg=_SEGMENT, axis=1)
    kept = (frequency >= BAND[0]) & (frequency <= BAND[1])
    return 10 * np.log10(np.maximum(density[:, kept], _SMALLEST)).transpose(0, 2, 1)


def spectral_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean square in dB, over leads and frequencies, between the mean log spectra of two sets."""
    return float(np.sqrt(np.square(first.mean(0) - second.mean(0)).mean()))
