"""Leads by name: the model's order, spelling variants, and limb leads derived from two others."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ..errors import LeadError

MODEL_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
"""The model's leads in the model's order (MIMIC-IV-ECG's: aVF before aVL)."""

LIMB_LEADS = MODEL_LEADS[:6]

# Einthoven and Goldberger: every limb lead as (a, b) in a * I + b * II. Any two rows are independent.
_LIMB_ROWS = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVF": (-0.5, 1.0),
    "aVL": (1.0, -0.5),
}
_BY_LOWER = {name.lower(): name for name in MODEL_LEADS}
_PREFIX = re.compile(r"^(mdc_ecg_lead_|ecg[ _-]?lead[ _-]?|lead[ _-]?|ecg[ _-])")
_UNIT = re.compile(r"\s*[(\[]\s*[uµμm]?v\s*[)\]]$")


def model_name(name: str) -> str | None:
    """The model's spelling of a lead name ('AVR', 'Lead I', 'MDC_ECG_LEAD_V1', 'v2 (mV)'), else None."""
    bare = _PREFIX.sub("", _UNIT.sub("", name.strip().lower()))
    return _BY_LOWER.get(bare.strip(" _-"))


def select_leads(signal: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pick the model's 12 leads by name, deriving missing limb leads from two that are there.

    signal: (samples, leads). Returns (samples, 12) float32 in the order of MODEL_LEADS, and MODEL_LEADS. Other
    leads (Frank's, for example) are ignored. Missing limb leads follow from Einthoven's and Goldberger's equations.
    Raises LeadError where leads are missing and not derivable, or where a lead occurs twice.
    """
    columns: dict[str, np.ndarray] = {}
    for index, name in enumerate(names):
        lead = model_name(name)
        if lead is None:
            continue
        if lead in columns:
            raise LeadError(f"lead {lead} occurs twice among {', '.join(names)}", "doubled lead")
        columns[lead] = signal[:, index]
    columns |= _derived_limb_leads(columns)
    missing = [lead for lead in MODEL_LEADS if lead not in columns]
    if missing:
        raise LeadError(
            f"missing leads {', '.join(missing)} (there are {', '.join(names) or 'none'}); needed are V1..V6 and "
            "at least two limb leads, from which the other four are derived",
            "missing leads",
        )
    return np.stack([columns[lead] for lead in MODEL_LEADS], axis=1).astype(np.float32), MODEL_LEADS


def _derived_limb_leads(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    present = [lead for lead in LIMB_LEADS if lead in columns][:2]
    if len(present) < 2:
        return {}
    first, second = (columns[lead].astype(np.float64) for lead in present)
    basis = np.array([_LIMB_ROWS[lead] for lead in present])
    derived = {}
    for lead in LIMB_LEADS:
        if lead not in columns:
            weight = np.linalg.solve(basis.T, np.array(_LIMB_ROWS[lead]))
            derived[lead] = weight[0] * first + weight[1] * second
    return derived
