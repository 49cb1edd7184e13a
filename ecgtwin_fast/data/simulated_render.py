"""From the waves of many hearts to the twelve leads, a batch at a time; a record never depends on its neighbours."""

from __future__ import annotations

import numpy as np

from .leads import MODEL_LEADS
from .simulated_heart import AFTER, BEFORE, TIME, VECTOR

INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
GRID = 2.0**-14
"""Spacing of the amplitudes of leads I and II in mV: on it, Einthoven's sums are exact in float32."""

_REACH = 4.0  # widths of a wave beyond which it is nothing
_NARROWEST = 0.4  # in samples: a narrower wave is widened and keeps its area, as by an anti-aliasing filter
_STEP = 8


def render(waves: list[np.ndarray], sampling_rate: float, samples: int) -> np.ndarray:
    """The dipole float32 (n, samples, 3) of n records, each the sum of its waves (m, 6), evaluated near their peaks."""
    from scipy.sparse import csc_array

    owner = np.repeat(np.arange(len(waves)), [len(own) for own in waves])
    rows = np.concatenate(waves)
    widths = np.maximum(rows[:, BEFORE : AFTER + 1], _NARROWEST / sampling_rate)
    size = rows[:, VECTOR] * (rows[:, BEFORE : AFTER + 1].sum(1) / widths.sum(1))[:, None]
    first = np.ceil((rows[:, TIME] - _REACH * widths[:, 0]) * sampling_rate).astype(np.int32)
    length = np.ceil((_REACH * widths.sum(1) * sampling_rate + 1) / _STEP).astype(np.int32) * _STEP
    length[(first >= samples) | (first + length <= 0)] = 0
    # waves that begin before the record or end after it have room beside it
    room = int(length.max())
    start = (owner * (samples + 2 * room) + first + room).astype(np.int32)
    early = (first / sampling_rate - rows[:, TIME]).astype(np.float32)
    steepness = (1 / widths).astype(np.float32)
    order, places, bumps = [], [], []
    for count in np.unique(length[length > 0]):
        chosen = np.flatnonzero(length == count)
        window = np.arange(count, dtype=np.int32)
        offset = early[chosen, None] + window.astype(np.float32) / np.float32(sampling_rate)
        offset *= np.where(offset < 0, steepness[chosen, 0, None], steepness[chosen, 1, None])
        offset *= offset
        offset *= np.float32(-0.5)
        order.append(chosen)
        bumps.append(np.exp(offset, out=offset).ravel())
        places.append((start[chosen, None] + window).ravel())
    chosen = np.concatenate(order)
    ends = np.concatenate([[0], np.cumsum(length[chosen])]).astype(np.int32)
    shape = (len(waves) * (samples + 2 * room), len(chosen))
    kernels = csc_array((np.concatenate(bumps), np.concatenate(places), ends), shape=shape)
    dipole = kernels @ size[chosen].astype(np.float32)
    return dipole.reshape(len(waves), -1, 3)[:, room : room + samples]


def twelve_leads(independent: np.ndarray) -> np.ndarray:
    """I, II, V1..V6 float32 (n, 8, samples) to the model's twelve leads (n, samples, 12), by Einthoven and Goldberger.

    I + III = II and the augmented leads hold to the last bit.
    """
    count, _, samples = independent.shape
    one, two = np.round(independent[:, :2] * np.float32(1 / GRID)).swapaxes(0, 1) * np.float32(GRID)
    values = dict(zip(INDEPENDENT, independent.swapaxes(0, 1), strict=True))
    values |= {
        "I": one,
        "II": two,
        "III": two - one,
        "aVR": -(one + two) / 2,
        "aVL": one - two / 2,
        "aVF": two - one / 2,
    }
    leads = np.empty((count, samples, len(MODEL_LEADS)), np.float32)
    for column, lead in enumerate(MODEL_LEADS):
        leads[:, :, column] = values[lead]
    return leads
