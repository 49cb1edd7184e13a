"""Intervals and morphology of an ECG, without any trained network: what a reader would measure.

Beats and their waves are delineated by neurokit2 (Makowski et al. 2021) in leads II, V5 and I, by its method of
prominence (Emrich et al. 2024), which comes nearer to the truth about simulated records than its wavelets do. An
interval is the median over beats, then over leads; amplitudes are those of the median beat in eight independent leads.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

import numpy as np

from ..data.leads import MODEL_LEADS
from ..data.prepare import worker_pool
from ..data.preprocess import SAMPLING_RATE, resample
from .heart_rate import measured_rate

RATE = 500.0
"""Hz, at which beats are delineated."""
DELINEATED = ("II", "V5", "I")
CHUNK = 16
FEWEST_POOLED = 64

INTERVALS = ("RR", "PR", "QRS", "QT", "axis")
"""Milliseconds, the axis in degrees."""
LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
WAVES = {"P": (-0.22, -0.08), "R": (-0.07, 0.08), "S": (-0.07, 0.08), "ST": (0.10, 0.13), "T": (0.14, 0.42)}
"""Seconds around the R peak in which a wave's amplitude is looked for in the median beat."""
BANDS = ((0.5, 5.0), (5.0, 15.0), (15.0, 40.0))
"""Hz; shares of a signal's power."""
FEATURES = (
    "RR", "RR deviation", "PR", "QRS", "QT", "axis, cosine", "axis, sine",
    *(f"{lead} {wave}" for lead in LEADS for wave in WAVES),
    *(f"power {low:g}-{high:g} Hz" for low, high in BANDS), "amplitude",
)  # fmt: skip

_LIMITS = {"max_r_basepoint_interval": 180, "max_pr_interval": 400}
"""Milliseconds; neurokit2's own limits cut the QRS of a bundle branch block and the PR of a first degree block."""
_ENDS = (
    ("ECG_P_Onsets", "ECG_R_Onsets"), ("ECG_R_Onsets", "ECG_R_Offsets"), ("ECG_R_Onsets", "ECG_T_Offsets"),
)  # fmt: skip
_BEFORE, _AFTER = 0.25, 0.45
_PQ = (-0.11, -0.08)
_COLUMNS = [MODEL_LEADS.index(lead) for lead in LEADS]


def available() -> bool:
    """Whether neurokit2, an optional dependency, is there."""
    return find_spec("neurokit2") is not None


def measured_beats(signals: Sequence[np.ndarray], workers: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """XQRS's heart rates (n,) in bpm, intervals (n, 5) (INTERVALS) and features (n, 51) (FEATURES) of n signals
    (1024, 12) in mV; NaN for what is not found, and for intervals and features where neurokit2 is not installed.

    workers: processes that share the work.
    """
    from tqdm import tqdm

    chunks = [signals[start : start + CHUNK] for start in range(0, len(signals), CHUNK)]
    work = partial(_measure, delineate=available())
    processes = workers if len(signals) >= FEWEST_POOLED else 1
    bar = tqdm(desc="beats", total=len(signals), unit="record", mininterval=1)
    with bar, worker_pool(processes) as pool:
        parts = []
        jobs = (pool.submit(work, chunk) for chunk in chunks)
        # In this process a job is done when submitted: one after the other, so that the bar moves.
        for job in jobs if processes == 1 else list(jobs):
            parts.append(job.result())
            bar.update(len(parts[-1][0]))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def delineated(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intervals (5,) and features (51,) of a signal (samples, 12) in mV at 102.4 Hz; NaN for what is not found."""
    fast = resample(signal, SAMPLING_RATE, RATE).astype(np.float64)
    features = np.full(len(FEATURES), np.nan)
    features[-len(BANDS) - 1 :] = _power(signal)
    intervals = np.full(len(INTERVALS), np.nan)
    leads = [_waves(fast[:, MODEL_LEADS.index(lead)]) for lead in DELINEATED]
    leads = [(peaks, waves) for peaks, waves in leads if len(peaks) > 1]
    if not leads:
        return intervals, features
    intervals[0] = np.median([np.median(np.diff(peaks)) for peaks, _ in leads]) / RATE * 1e3
    for place, ends in enumerate(_ENDS, start=1):
        found = [length for _, waves in leads if (length := _typical(waves, *ends)) is not None]
        intervals[place] = np.median(found) if found else np.nan
    peaks = leads[0][0]
    beat = _median_beat(fast, peaks)
    if beat is not None:
        angle = _axis(beat)
        intervals[4] = np.degrees(angle)
        features[5:7] = np.cos(angle), np.sin(angle)
        features[7 : 7 + len(LEADS) * len(WAVES)] = _amplitudes(beat[:, _COLUMNS])
    features[:5] = intervals[0], np.std(np.diff(peaks)) / RATE * 1e3, *intervals[1:4]
    return intervals, features


def _measure(signals: np.ndarray, delineate: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rates = np.array([measured_rate(signal, SAMPLING_RATE, MODEL_LEADS) for signal in signals])
    if not delineate:
        return rates, np.full((len(signals), len(INTERVALS)), np.nan), np.full((len(signals), len(FEATURES)), np.nan)
    intervals, features = zip(*(delineated(signal) for signal in signals), strict=True)
    return rates, np.stack(intervals), np.stack(features)


def _waves(lead: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Samples of R peaks, and of the other waves' ends beat by beat (NaN where not found)."""
    import neurokit2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            clean = neurokit2.ecg_clean(lead, sampling_rate=int(RATE))
            peaks = neurokit2.ecg_peaks(clean, sampling_rate=int(RATE))[1]["ECG_R_Peaks"]
            waves = neurokit2.ecg_delineate(clean, peaks, sampling_rate=int(RATE), method="prominence", **_LIMITS)[1]
        except (ValueError, IndexError, ZeroDivisionError, KeyError, TypeError):
            # It raises one or another of them where a lead has too few beats.
            return np.zeros(0), {}
    return np.asarray(peaks), {name: np.asarray(places, dtype=np.float64) for name, places in waves.items()}


def _typical(waves: dict[str, np.ndarray], begin: str, end: str) -> float | None:
    """Median over beats in milliseconds, None where there is no such wave."""
    first, last = (waves.get(name, np.zeros(0)) for name in (begin, end))
    count = min(len(first), len(last))
    lengths = (last[:count] - first[:count]) / RATE * 1e3
    lengths = lengths[np.isfinite(lengths) & (lengths > 0)]
    return float(np.median(lengths)) if len(lengths) else None


def _median_beat(signal: np.ndarray, peaks: np.ndarray) -> np.ndarray | None:
    """(samples, leads) around the R peak, the PQ segment at zero."""
    before, after = int(_BEFORE * RATE), int(_AFTER * RATE)
    whole = peaks[(peaks >= before) & (peaks + after < len(signal))].astype(int)
    if not len(whole):
        return None
    beat = np.median([signal[peak - before : peak + after] for peak in whole], axis=0)
    return beat - np.median(_span(beat, _PQ), axis=0)


def _span(beat: np.ndarray, seconds: Sequence[float]) -> np.ndarray:
    first, last = (int(round((_BEFORE + end) * RATE)) for end in seconds)
    return beat[first:last]


def _axis(beat: np.ndarray) -> float:
    """Frontal QRS axis in radians, from the areas of leads I and aVF."""
    area = _span(beat, WAVES["R"]).sum(0)
    return float(np.arctan2(area[MODEL_LEADS.index("aVF")] * 2 / np.sqrt(3), area[MODEL_LEADS.index("I")]))


def _amplitudes(beat: np.ndarray) -> np.ndarray:
    """mV of every lead's waves; P and T are whichever of peak and trough is the larger."""
    values = []
    for wave, seconds in WAVES.items():
        part = _span(beat, seconds)
        high, low = part.max(0), part.min(0)
        if wave == "ST":
            values.append(np.median(part, axis=0))
        elif wave in ("R", "S"):
            values.append(high if wave == "R" else low)
        else:
            values.append(np.where(high > -low, high, low))
    return np.stack(values, axis=1).ravel()


def _power(signal: np.ndarray) -> list[float]:
    """Logarithms of the bands' shares of power over all leads, and of the root mean square in mV."""
    centred = signal - signal.mean(0)
    power = np.square(np.abs(np.fft.rfft(centred, axis=0))).sum(1)
    frequency = np.fft.rfftfreq(len(signal), 1 / SAMPLING_RATE)
    total = power[1:].sum()
    if total <= 0:
        return [np.nan] * (len(BANDS) + 1)
    shares = [power[(frequency >= low) & (frequency < high)].sum() / total for low, high in BANDS]
    return [*np.log(np.maximum(shares, 1e-6)), np.log(np.sqrt(np.square(centred).mean()))]
