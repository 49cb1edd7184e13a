"""What disturbs a simulated ECG: baseline wander, muscle noise and mains hum, by the habits of the patient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

_FREQUENCIES = 4  # two slow drifts, breathing, mains
CARRIERS = 2 * _FREQUENCIES
"""Sines and cosines that the disturbances of a record are made of, beside its white noise."""

_RECORDER_RATE = 500.0
_BYTES_DEVIATION = (4 * (256**2 - 1) / 12) ** 0.5
_MUSCLE_BAND = 150.0  # Hz, which muscle noise fills evenly


@dataclass(frozen=True)
class Habits:
    """Noise of one person's records, standard deviations in mV: wander, muscle (to 150 Hz) and mains (Hz, mV)."""

    wander: float
    muscle: float
    mains_frequency: float
    mains: float


@dataclass(frozen=True)
class Disturbance:
    """One record's: frequencies (4,) in Hz, weights (8, 8) of their sines and cosines in the independent leads in mV,
    muscle (8,) standard deviation in each lead, and a burst (time in seconds, width in seconds, size)."""

    frequencies: np.ndarray
    weights: np.ndarray
    muscle: np.ndarray
    burst: tuple[float, float, float]


def draw_disturbance(
    habits: Habits, breath: float, sampling_rate: float, duration: float, rng: np.random.Generator
) -> Disturbance:
    """A record's disturbances, for a person who breathes at `breath` Hz."""
    slow, fast, where, width, bursting, tension = rng.random(6)
    normal = rng.standard_normal((8, CARRIERS + 1))
    hum = habits.mains * preparation_gain(habits.mains_frequency, sampling_rate)
    drift = habits.wander * math.exp(0.35 * normal[0, -1])
    deviations = np.array([0.8 * drift, 0.5 * drift, 0.7 * drift, hum] * 2)
    band = min(1.0, sampling_rate / (2 * _MUSCLE_BAND)) ** 0.5
    return Disturbance(
        np.array([0.05 + 0.1 * slow, 0.15 + 0.2 * fast, breath, habits.mains_frequency]),
        normal[:, :CARRIERS] * deviations,
        habits.muscle * band * (0.5 + tension) * np.exp(0.3 * normal[:, -1]),
        (where * duration, 0.3 + 1.2 * width, max(0.0, 8 * bursting - 6.5)),
    )


def carriers(disturbances: list[Disturbance], sampling_rate: float, out: np.ndarray) -> None:
    """Sines and cosines of the records' frequencies, into `out` float32 (n, 8, samples)."""
    cycles = np.array([own.frequencies for own in disturbances]) / sampling_rate
    angle = (2 * np.pi * cycles).astype(np.float32)[:, :, None] * np.arange(out.shape[2], dtype=np.float32)
    np.sin(angle, out=out[:, :_FREQUENCIES])
    np.cos(angle, out=out[:, _FREQUENCIES:])


def draw_muscle(disturbance: Disturbance, sampling_rate: float, rng: np.random.Generator, out: np.ndarray) -> None:
    """A record's muscle noise in mV, into `out` float32 (8, samples): nearly normal, stronger in a burst of tension."""
    # the sum of a random word's four bytes costs a quarter of a normal number
    words = rng.integers(0, 1 << 32, out.shape, np.uint32)
    pairs = words & 0x00FF00FF
    words >>= 8
    words &= 0x00FF00FF
    pairs += words
    np.subtract((pairs & 0xFFFF) + (pairs >> 16), np.float32(2 * 255), out=out, casting="unsafe", dtype=np.float32)
    out *= (disturbance.muscle / _BYTES_DEVIATION).astype(np.float32)[:, None]
    where, width, size = disturbance.burst
    if size:
        time = np.arange(out.shape[1], dtype=np.float32) / np.float32(sampling_rate)
        out *= 1 + np.float32(size) * np.exp(-0.5 * ((time - np.float32(where)) / np.float32(width)) ** 2)


@lru_cache
def preparation_gain(frequency: float, sampling_rate: float) -> float:
    """What resampling of a 500 Hz recording, as in preprocess.resample, leaves of a sine of `frequency` Hz.

    1 at 500 Hz and above. What is left above half the sampling rate is folded, as a sampled sine is by itself.
    """
    from scipy.signal import firwin

    ratio = Fraction(sampling_rate / _RECORDER_RATE).limit_denominator(10_000)
    if ratio >= 1:
        return 1.0
    # resample_poly's own filter
    taps = firwin(20 * ratio.denominator + 1, 1 / ratio.denominator, window=("kaiser", 5.0))
    phase = 2j * np.pi * frequency / (_RECORDER_RATE * ratio.numerator) * np.arange(len(taps))
    return float(abs(np.sum(taps * np.exp(phase))))
