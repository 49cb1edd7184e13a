"""Are intervals spread as real ones are? Wasserstein's distance of two samples of a number."""

from __future__ import annotations

import numpy as np


def wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """Mean distance in the numbers' unit that one sample must be moved to become the other; NaNs are left out."""
    from scipy.stats import wasserstein_distance

    first, second = (values[np.isfinite(values)] for values in (first, second))
    return float(wasserstein_distance(first, second)) if len(first) and len(second) else np.nan
