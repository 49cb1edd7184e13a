"""Do the limb leads of an ECG fit one another? Einthoven's law: lead I + lead III = lead II at every instant."""

from __future__ import annotations

import numpy as np

from ..data.leads import MODEL_LEADS

_I, _II, _III = (MODEL_LEADS.index(lead) for lead in ("I", "II", "III"))


def einthoven_residual(signals: np.ndarray) -> np.ndarray:
    """Root mean square (n,) in mV of I + III - II over time, of signals (n, samples, 12) in mV in MODEL_LEADS' order.

    A recorder derives III from I and II, so that real records have none but rounding: 0.0002 mV in PTB-XL.
    """
    residual = signals[..., _I] + signals[..., _III] - signals[..., _II]
    return np.sqrt(np.square(residual, dtype=np.float64).mean(axis=-1))
