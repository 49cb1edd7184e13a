"""A real patient's own beats at another heart rate: augmentation where a data set has one ECG of most patients.

The median beat of a regular sinus rhythm is laid down again at new RR intervals. P wave, PR interval and QRS keep
their shape; ST and T are compressed with the square root of the RR interval (Bazett); diastole takes the rest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..data.preprocess import SAMPLES, SAMPLING_RATE
from ..data.record import Record
from ..data.xqrs import xqrs_detect

SINUS = ("sinus rhythm", "sinus tachycardia", "sinus bradycardia", "sinus arrhythmia")
BEFORE_R, RIGID_AFTER_R = 0.28, 0.08
LARGEST_IRREGULARITY = 0.12
ALIGNED_SOURCE = "beats laid down"
FIRST_R = 0.36
"""Time in s of the first R wave: records that all begin at one phase of the cycle need far less training."""


def beat_times(record: Record) -> np.ndarray:
    """Times in s of the R waves that XQRS finds in a prepared record's lead II."""
    from scipy.signal import resample_poly

    lead = resample_poly(record.lead("II").astype(np.float64), 625, 128)
    beats = xqrs_detect(lead, 500)
    # XQRS marks some point of the QRS complex: move to the steepest-energy sample so that beats align.
    energy = np.convolve(np.gradient(lead) ** 2, np.ones(25), mode="same")
    return np.array([b - 30 + np.argmax(energy[b - 30 : b + 30]) for b in beats if 30 <= b < len(lead) - 30]) / 500


def median_beat(record: Record) -> tuple[np.ndarray, np.ndarray, float] | None:
    """(time from R in s (n,), median beat in mV (n, 12), RR in s) of a regular sinus rhythm, else None."""
    statements = (record.report or "").split("|")
    if not any(s in SINUS for s in statements):
        return None
    beats = beat_times(record)
    rr = np.diff(beats)
    if len(beats) < 5 or rr.std() > LARGEST_IRREGULARITY * rr.mean():
        return None
    interval = float(np.median(rr))
    time = np.arange(-min(BEFORE_R, 0.42 * interval), min(0.62 * interval, 0.55), 1 / 500)
    grid = np.arange(SAMPLES) / SAMPLING_RATE
    inside = [b for b in beats if b + time[0] > 0 and b + time[-1] < grid[-1]]
    if len(inside) < 4:
        return None
    windows = np.stack(
        [np.stack([np.interp(b + time, grid, column) for column in record.signal.T], axis=1) for b in inside]
    )
    beat = np.median(windows, axis=0)
    # Both ends lie on the isoelectric line: take the line through them away and let the edges fade.
    edge = max(2, len(time) // 40)
    first, last = beat[:edge].mean(0), beat[-edge:].mean(0)
    beat -= first + (last - first) * np.linspace(0, 1, len(time))[:, None]
    fade = np.clip(np.minimum(np.arange(len(time)), np.arange(len(time))[::-1]) / 15, 0, 1)
    return time, beat * fade[:, None], interval


def rate_variant(record: Record, beat: tuple[np.ndarray, np.ndarray, float], rng: np.random.Generator) -> Record:
    """The prepared record's patient at a drawn rate between 45 and 140 beats per minute, rhythm statement included."""
    time, template, interval = beat
    rate = float(np.clip(rng.normal(60 / interval, 28), 45, 140))
    new_interval = 60 / rate
    stretch = np.sqrt(new_interval / interval)
    pr_stretch = min(1.0, stretch**0.5)
    grid = np.arange(SAMPLES) / SAMPLING_RATE
    signal = np.zeros((SAMPLES, template.shape[1]))
    sway = (
        0.02 * rng.random() * np.sin(2 * np.pi * rng.uniform(0.15, 0.35) * grid[:: SAMPLES // 64] + rng.uniform(0, 6.3))
    )
    r = FIRST_R - new_interval
    while r < grid[-1] + BEFORE_R:
        from_r = grid - r
        after = RIGID_AFTER_R + (from_r - RIGID_AFTER_R) / stretch
        before = np.where(from_r < -0.06, -0.06 + (from_r + 0.06) / pr_stretch, from_r)
        source = np.where(from_r > RIGID_AFTER_R, after, before)
        touched = (source > time[0]) & (source < time[-1])
        size = 1 + 0.03 * rng.standard_normal()
        position = (source[touched] - time[0]) * 500
        low = np.minimum(position.astype(int), len(time) - 2)
        part = (position - low)[:, None]
        signal[touched] += size * ((1 - part) * template[low] + part * template[low + 1])
        r += new_interval * (1 + 0.01 * rng.standard_normal() + np.interp(r, grid[:: SAMPLES // 64], sway))
    rhythm = "sinus tachycardia" if rate > 100 else "sinus bradycardia" if rate < 60 else "sinus rhythm"
    statements = [rhythm if s in SINUS else s for s in record.report.split("|")]
    return replace(
        record,
        signal=signal.astype(np.float32),
        heart_rate=rate,
        report="|".join(dict.fromkeys(statements)),
        source=f"{record.source}, {ALIGNED_SOURCE} at {rate:.0f} per minute",
    )
