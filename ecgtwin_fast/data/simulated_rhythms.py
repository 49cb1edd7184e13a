"""Rhythms of the simulated heart: when its chambers beat, and the waves that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .simulated_heart import AFTER, BEFORE, QRS_ONSET, TIME, VECTOR, Heart, repolarisation_scale

MARGIN = 2
"""Beats made before the first one in the window, so that their T waves reach into it."""

MAYER_FREQUENCY = 0.1
"""Middle of the low-frequency band of heart-rate variability in Hz (McSharry et al., 2003)."""

BAND_WIDTH = 0.01
LINES = 3  # sines that make up a band


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
    # interval i leads from beat i to beat i + 1; beat MARGIN is the first in the window
    relative = _relative_intervals(heart, mean, count, rng)
    premature = _premature(heart, count, rng)
    _couple(heart, relative, premature, mean, rng)
    relative /= relative[MARGIN : MARGIN + inside].mean()
    times = np.concatenate([[0.0], np.cumsum(relative[:-1])]) * mean
    times += first - times[MARGIN]
    return Beats(times, np.diff(times, prepend=times[0] - mean), premature)


def _relative_intervals(heart: Heart, mean: float, count: int, rng: np.random.Generator) -> np.ndarray:
    if heart.rhythm == "fibrillation":
        return np.maximum(rng.gamma(1 / 0.22**2, 0.22**2, count), 0.55)
    if heart.rhythm != "sinus":
        return 1 + 0.004 * rng.standard_normal(count)
    time = mean * np.arange(count)
    # each band is the sum of a few sines whose frequencies and phases are near each other
    z = rng.standard_normal((2, 2, LINES))
    frequencies = np.array([[heart.breath], [MAYER_FREQUENCY]]) + BAND_WIDTH * z[0]
    phases = 2 * np.pi * rng.random((2, 1)) + z[1]
    lines = np.sin(2 * np.pi * frequencies[:, :, None] * time + phases[:, :, None]).sum(1)
    amplitudes = np.array([heart.respiratory, heart.mayer]) * (1.3 / LINES)
    return np.maximum(1 + (amplitudes[:, None] * lines).sum(0) + 0.005 * rng.standard_normal(count), 0.5)


def _premature(heart: Heart, count: int, rng: np.random.Generator) -> np.ndarray:
    """Which beats come early, never two in a row and at least one in the window where there are any."""
    premature = np.zeros(count, dtype=bool)
    if heart.premature <= 0:
        return premature
    if heart.premature >= 1 / 3:
        premature[1 + rng.integers(2) :: round(1 / heart.premature)] = True
        return premature
    premature[1:] = rng.random(count - 1) < heart.premature
    if count > MARGIN + 5:
        premature[rng.integers(MARGIN + 1, count - 4)] = True
    premature[1:] &= ~premature[:-1]
    return premature


def _couple(
    heart: Heart, relative: np.ndarray, premature: np.ndarray, mean: float, rng: np.random.Generator
) -> None:
    """Shortens intervals before premature beats, in place; the pause after a ventricular one makes up for it."""
    early = np.flatnonzero(premature)
    if not len(early):
        return
    usual = 0.62 if heart.premature_kind == "ventricular" else 0.70
    # not before the ventricles can answer again
    coupling = np.maximum(usual * rng.uniform(0.9, 1.1, len(early)), min(0.30 / mean, 0.9))
    relative[early - 1] *= coupling
    relative[early] *= 2 - coupling if heart.premature_kind == "ventricular" else 1.08


def waves_of(heart: Heart, beats: Beats, duration: float, rng: np.random.Generator) -> np.ndarray:
    """All waves (n, 6) of a record: atrial, ventricular and premature ones, each beat a little different."""
    # the heart lies and fills differently in each phase of breathing
    breath = 2 * np.pi * (heart.breath * beats.times + rng.random())
    size = 1 + 0.025 * np.sin(breath) + 0.012 * rng.standard_normal(len(breath))
    if heart.rhythm == "fibrillation":
        size *= np.minimum(beats.intervals / beats.intervals.mean(), 1.2) ** 0.15
    ectopic = beats.premature & (heart.premature_kind == "ventricular")
    normal = np.flatnonzero(~ectopic)
    parts = [
        _ventricular(heart.qrs, heart.repolarisation, beats, normal, size),
        _atrial(heart, beats, normal, duration, rng),
    ]
    if len(normal) < len(ectopic):
        early = np.flatnonzero(ectopic)
        parts.append(_ventricular(heart.ectopic[:2], heart.ectopic[2:], beats, early, size))
    return np.concatenate(parts)


def _ventricular(
    qrs: np.ndarray, repolarisation: np.ndarray, beats: Beats, chosen: np.ndarray, size: np.ndarray
) -> np.ndarray:
    # repolarisation follows the rate over several beats, hence mostly the mean interval
    scale = repolarisation_scale(0.3 * beats.intervals[chosen] + 0.7 * beats.intervals.mean())[:, None]
    waves = np.empty((len(chosen), len(qrs) + len(repolarisation), 6))
    waves[:, : len(qrs)] = qrs
    waves[:, len(qrs) :] = repolarisation
    waves[:, len(qrs) :, :VECTOR.start] *= scale[:, :, None]
    waves[:, :, TIME] += beats.times[chosen, None]
    waves[:, :, VECTOR] *= size[chosen, None, None]
    return waves.reshape(-1, 6)


def _atrial(heart: Heart, beats: Beats, normal: np.ndarray, duration: float, rng: np.random.Generator) -> np.ndarray:
    interval = float(beats.intervals.mean())
    lag = heart.pr_at(interval) - QRS_ONSET
    turned = np.zeros(0, dtype=bool)
    if heart.rhythm in ("sinus", "paced atria"):
        onsets = beats.times[normal] - lag
        # a premature P starts elsewhere in the atria
        turned = beats.premature[normal]
    elif heart.rhythm == "two to one block":
        onsets = np.concatenate([beats.times - lag, beats.times - lag + interval / 2])
    elif heart.rhythm == "complete block":
        spacing = 60 / rng.uniform(70, 95)
        onsets = np.arange(-rng.random(), duration / spacing + 1) * spacing
    elif heart.rhythm == "flutter":
        ratio = flutter_ratio(interval)
        onsets = (beats.times[:, None] + interval / ratio * np.arange(ratio)).ravel()
    elif heart.rhythm == "fibrillation":
        return _fibrillation(heart, duration, rng)
    else:
        return np.empty((0, 6))
    waves = np.empty((len(onsets), len(heart.p), 6))
    waves[:] = heart.p
    waves[:, :, TIME] += onsets[:, None]
    waves[np.flatnonzero(turned), :, 4] *= -0.6
    waves[:, :, VECTOR] *= 1 + 0.04 * rng.standard_normal((len(onsets), 1, 1))
    return waves.reshape(-1, 6)


def flutter_ratio(interval: float) -> int:
    """Flutter waves for each beat at an RR interval in seconds, of which there are about 300 a minute."""
    return max(round(300 * interval / 60), 1)


def _fibrillation(heart: Heart, duration: float, rng: np.random.Generator) -> np.ndarray:
    """Fibrillatory waves (n, 6): bumps up and down at irregular times, whose size and direction wander."""
    count = int(1.3 * duration * heart.atrial_rate) + 8
    gaps = (1 + 0.16 * rng.standard_normal(count)).clip(0.5, 1.6) / heart.atrial_rate
    waves = np.empty((count, 2, 6))
    waves[:, 0, TIME] = np.cumsum(gaps) - 0.5
    waves[:, 1, TIME] = waves[:, 0, TIME] + 0.45 * gaps
    waves[:, :, BEFORE : AFTER + 1] = 0.19 * gaps[:, None, None]
    slow = np.sin(2 * np.pi * (rng.uniform(0.2, 0.7) * waves[:, 0, TIME] + rng.random()))
    size = heart.atrial_amplitude * (1 + 0.35 * slow + 0.25 * rng.standard_normal(count))
    length = math.hypot(*heart.atrial)
    direction = np.array(heart.atrial) / length + 0.2 * rng.standard_normal((count, 3))
    waves[:, 0, VECTOR] = size[:, None] * direction
    waves[:, 1, VECTOR] = -waves[:, 0, VECTOR]
    return waves.reshape(-1, 6)
