"""More hearts and electrodes than a data set has: what an autoencoder should reconstruct too."""

from __future__ import annotations

import numpy as np

from ..data.leads import LIMB_LEADS, MODEL_LEADS, select_leads

INDEPENDENT = ("I", "II", *MODEL_LEADS[len(LIMB_LEADS) :])
"""Leads from which the others follow."""
_INPUTS = [MODEL_LEADS.index(lead) for lead in INDEPENDENT]
_ALL_LEADS = select_leads(np.eye(len(INDEPENDENT)), INDEPENDENT)[0]


def lead_mixtures(rng: np.random.Generator, count: int, spread: float) -> np.ndarray:
    """Matrices float32 (count, 12, 12) for `signal @ matrix`: every independent lead gets a little of the others, as
    if the heart lay otherwise or electrodes were elsewhere, and limb leads follow from I and II.

    spread: standard deviation of all that a lead of a unit's voltage in every lead is changed by.
    """
    size = len(INDEPENDENT)
    mixture = np.eye(size) + rng.normal(0, spread / np.sqrt(size), (count, size, size))
    matrices = np.zeros((count, len(MODEL_LEADS), len(MODEL_LEADS)), np.float32)
    matrices[:, _INPUTS] = mixture @ _ALL_LEADS
    return matrices


def shifted(signal: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Signals (n, samples, leads) moved on by shifts (n,) samples, their ends following their beginnings."""
    order = (np.arange(signal.shape[1]) - shifts[:, None]) % signal.shape[1]
    return np.take_along_axis(signal, order[:, :, None], axis=1)
