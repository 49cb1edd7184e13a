"""Area under the receiver operating characteristic."""

from __future__ import annotations

import numpy as np


def auroc(positive: np.ndarray, score: np.ndarray) -> float:
    """Chance that a positive scores above a negative, a tie counting half (Mann and Whitney); NaN without both kinds.

    positive: (n,) bool. score: (n,).
    """
    from scipy.stats import rankdata

    positive = np.asarray(positive, dtype=bool)
    count = int(positive.sum())
    if count in (0, len(positive)):
        return np.nan
    above = rankdata(score)[positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(positive) - count)))
