"""Does an ECG show what its report says? The CLIP score of DiffuSETS's benchmark (arXiv 2501.05932)."""

from __future__ import annotations

import numpy as np


def clip_score(signal_features: np.ndarray, text_features: np.ndarray) -> float:
    """Mean cosine between ECGs' and their reports' features, both (n, d), from an ECG-text encoder (`clip`)."""
    return float(cosines(signal_features, text_features).mean())


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine (n,) between the rows of two arrays (n, d)."""
    return (unit(first) * unit(second)).sum(1)


def unit(features: np.ndarray) -> np.ndarray:
    """Rows (n, d) of length 1, float64."""
    features = np.asarray(features, dtype=np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)
