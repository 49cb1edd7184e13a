"""Rhythms of the simulated heart: when its chambers beat, and the waves that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .simulated_heart import AFTER, BEFORE, QRS_ONSET, TIME, VECTOR, Heart

MARGIN = 2
"""Beats made before the first one in the window, so that their T waves reach into it."""


@dataclass
class Beats:
    """Ventricular beats: times and preceding RR intervals in seconds, and which of them are premature."""

    times: np.ndarray
    intervals: np.ndarray
    premature: np.ndarray


def draw_beats(heart: Heart, heart_rate: float, duration: float, rng: np.random.Generator) -> Beats:
    """Beats around a window of `duration` seconds whose mean rate inside it is `heart_rate` per minute."""
    mean = 60 / heart_rate
    first = rng.uniform(0.05, 0.95) * mean
    inside = max(int((duration - first) / mean), 1)
    count = MARGIN + inside + 3
    relative = _relative_intervals(heart, mean, count, rng)
    relative /= relative[MARGIN : MARGIN + inside].mean()
    # interval i leads from beat i to beat i + 1; beat MARGIN is the first in the window
    times = np.concatenate([[0.0], np.cumsum(relative[:-1])]) * mean
    times += first - times[MARGIN]
    premature = _premature(heart, count, rng)
    preceding = np.diff(times, prepend=times[0] - mean)
    early = 0.36 if heart.premature_kind == "ventricular" else 0.25
    times = times - premature * early * preceding * rng.uniform(0.85, 1.15, count)
    return Beats(times, np.diff(times, prepend=times[0] - mean), premature)


def _relative_intervals(heart: Heart, mean: float, count: int, rng: np.random.Generator) -> np.ndarray:
    if heart.rhythm == "fibrillation":
        return np.maximum(rng.gamma(1 / 0.22**2, 0.22**2, count), 0.55)
    if heart.rhythm != "sinus":
        return 1 + 0.004 * rng.standard_normal(count)
    breath = 2 * np.pi * rng.uniform(0.17, 0.3) * mean * np.arange(count) + rng.uniform(0, 2 * np.pi)
    return 1 + heart.respiratory * np.sin(breath) + 0.008 * rng.standard_normal(count)


def _premature(heart: Heart, count: int, rng: np.random.Generator) -> np.ndarray:
    """Which beats come early, never two in a row and at least one in the window where there are any."""
    premature = np.zeros(count, dtype=bool)
    if heart.premature <= 0:
        return premature
    if heart.premature >= 1 / 3:
        premature[rng.integers(2) :: round(1 / heart.premature)] = True
        return premature
    premature[1:] = rng.random(count - 1) < heart.premature
    if count > MARGIN + 5:
        premature[rng.integers(MARGIN + 1, count - 4)] = True
    premature[1:] &= ~premature[:-1]
    return premature


def waves_of(heart: Heart, beats: Beats, duration: float, rng: np.random.Generator) -> np.ndarray:
    """All waves (n, 6) of a record: atrial, ventricular and premature ones, each beat a little different."""
    normal = (
        ~beats.premature if heart.premature_kind == "ventricular" else np.ones(len(beats.times), dtype=bool)
    )
    parts = [
        _ventricular(heart.qrs, heart.repolarisation, beats, normal, heart.rhythm, rng),
        _atrial(heart, beats, normal, duration, rng),
    ]
    if not normal.all():
        parts.append(_ventricular(heart.ectopic[:2], heart.ectopic[2:], beats, ~normal, heart.rhythm, rng))
    return np.concatenate(parts)


def repolarisation_scale(interval: np.ndarray | float) -> np.ndarray:
    """Factor on the times of repolarisation after an RR interval in seconds (Fridericia's cube root)."""
    return np.cbrt(np.clip(interval, 0.25, 2.0))


def _ventricular(
    qrs: np.ndarray,
    repolarisation: np.ndarray,
    beats: Beats,
    chosen: np.ndarray,
    rhythm: str,
    rng: np.random.Generator,
) -> np.ndarray:
    times = beats.times[chosen]
    # repolarisation follows the rate over several beats, hence mostly the mean interval
    scale = repolarisation_scale(0.3 * beats.intervals[chosen] + 0.7 * beats.intervals.mean())[:, None]
    depolarised = np.tile(qrs, (len(times), 1, 1))
    recovering = np.tile(repolarisation, (len(times), 1, 1))
    recovering[:, :, TIME] *= scale
    recovering[:, :, BEFORE : AFTER + 1] *= scale[:, :, None]
    waves = np.concatenate([depolarised, recovering], axis=1)
    waves[:, :, TIME] += times[:, None]
    variation = 0.06 if rhythm == "fibrillation" else 0.03
    waves[:, :, VECTOR] *= 1 + variation * rng.standard_normal((len(times), 1, 1))
    return waves.reshape(-1, 6)


def _atrial(
    heart: Heart, beats: Beats, normal: np.ndarray, duration: float, rng: np.random.Generator
) -> np.ndarray:
    interval = float(beats.intervals.mean())
    # conduction through the AV node shortens a little with the rate
    lag = heart.pr * min(interval, 1.0) ** 0.3 - QRS_ONSET
    if heart.rhythm == "sinus":
        onsets = beats.times[normal] - lag
    elif heart.rhythm == "two to one block":
        onsets = np.concatenate([beats.times - lag, beats.times - lag + interval / 2])
    elif heart.rhythm == "complete block":
        spacing = 60 / rng.uniform(70, 95)
        onsets = np.arange(-rng.random(), duration / spacing + 1) * spacing
    elif heart.rhythm == "flutter":
        ratio = max(round(300 * interval / 60), 1)
        onsets = (beats.times[:, None] + interval / ratio * np.arange(ratio)).ravel()
    else:
        return np.empty((0, 6))
    waves = np.tile(heart.p, (len(onsets), 1, 1))
    waves[:, :, TIME] += onsets[:, None]
    if heart.premature_kind == "atrial" and heart.rhythm == "sinus":
        # a premature P starts elsewhere in the atria
        waves[beats.premature, :, 4] *= -0.6
    waves[:, :, VECTOR] *= 1 + 0.05 * rng.standard_normal((len(onsets), 1, 1))
    return waves.reshape(-1, 6)


def fibrillation(heart: Heart, sampling_rate: float, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Fibrillatory dipole (samples, 3): oscillations of 4 to 9 Hz whose frequency and size wander."""
    time = np.arange(samples) / sampling_rate
    wave = np.zeros(samples)
    for frequency, share in zip(rng.uniform(4, 9, 3), (1.0, 0.6, 0.4), strict=True):
        wander = rng.uniform(0.2, 0.8) * np.sin(
            2 * np.pi * rng.uniform(0.1, 0.5) * time + rng.uniform(0, 6.3)
        )
        swell = 1 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.1, 0.6) * time + rng.uniform(0, 6.3))
        wave += (
            share
            * swell
            * np.sin(2 * np.pi * frequency * time + wander * frequency / 2 + rng.uniform(0, 6.3))
        )
    direction = heart.atrial / np.linalg.norm(heart.atrial)
    return heart.atrial_amplitude * wave[:, None] * direction
