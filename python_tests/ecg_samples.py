"""Small 12-lead records with known heart rate, and where the real ones are."""

from __future__ import annotations

import numpy as np
import pytest

from ecgtwin_fast.data.ptbxl import PTBXL, ptbxl_root
from ecgtwin_fast.data.record import Record

CHEST = ("V1", "V2", "V3", "V4", "V5", "V6")
CLINICAL = ("I", "II", "III", "aVR", "aVL", "aVF", *CHEST)
_HEIGHTS = {"V1": 0.4, "V2": 0.8, "V3": 1.0, "V4": 1.6, "V5": 1.4, "V6": 1.1}


def limb_leads(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "I": first,
        "II": second,
        "III": second - first,
        "aVR": -(first + second) / 2,
        "aVL": first - second / 2,
        "aVF": second - first / 2,
    }


def sample_record(
    sampling_rate: float = 500.0, seconds: float = 10.0, bpm: float = 72.0, leads=CLINICAL, **fields
) -> Record:
    """P, QRS and T as Gaussians: lead I follows them, lead II a little later, so that no two limb leads are equal."""
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    beat = heartbeat(time, bpm)
    table = limb_leads(0.7 * beat, heartbeat(time - 0.008, bpm))
    table |= {lead: height * beat for lead, height in _HEIGHTS.items()}
    extra = {lead: 0.3 * beat for lead in leads if lead not in table}
    signal = np.stack([(table | extra)[lead] for lead in leads], axis=1)
    return Record(signal, sampling_rate, tuple(leads), **fields)


def heartbeat(time: np.ndarray, bpm: float) -> np.ndarray:
    period = 60.0 / bpm
    phase = (time - 0.3 + period / 2) % period - period / 2
    waves = (
        (0.12, -0.16, 0.02),
        (-0.1, -0.025, 0.008),
        (1.0, 0.0, 0.01),
        (-0.2, 0.025, 0.008),
        (0.3, 0.22, 0.04),
    )
    return sum(height * np.exp(-0.5 * ((phase - at) / width) ** 2) for height, at, width in waves)


def real_records() -> PTBXL:
    root = ptbxl_root()
    if root is None:
        pytest.skip("no PTB-XL records: set ECGTWIN_PTBXL to the data set's folder")
    return PTBXL(root)
