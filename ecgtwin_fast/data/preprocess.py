"""From any 12-lead record to the model's input: leads by name, 1024 samples at 102.4 Hz, heart rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from ..errors import LeadError, RecordError
from .condition import HEART_RATE_RANGE
from .leads import model_name, select_leads
from .record import Record

SECONDS = 10.0
SAMPLES = 1024
SAMPLING_RATE = 102.4

FLAT_MILLIVOLT = 0.01
LARGEST_MILLIVOLT = 20.0
LOWEST_SAMPLING_RATE = 50.0
SHORTFALL_SECONDS = 0.05

_BEAT_RATE = 500.0  # XQRS's windows and thresholds were tuned on signals of a few hundred Hz
_BEAT_LEADS = ("II", "V5", "V2", "I", "V6", "V4", "V3", "V1", "aVF", "aVR", "III", "aVL")
_ENOUGH_BEATS = 4


def prepare(record: Record) -> Record:
    """The model's input of a record: its first 10 s, (1024, 12) float32 in mV at 102.4 Hz, MODEL_LEADS.

    The heart rate is found by XQRS where the record has none; age, sex, report and source stay. A record up
    to 0.05 s short is continued with its last sample. Raises LeadError for missing or doubled leads; RecordError
    for NaNs, a flat lead, more than 20 mV, less than 10 s or 50 Hz, and where no beats give a heart rate.
    """
    rate = record.sampling_rate
    if rate < LOWEST_SAMPLING_RATE:
        raise RecordError(
            f"{record.name}: sampling rate {rate:g} Hz, expected {LOWEST_SAMPLING_RATE:g} Hz or more",
            "low sampling rate",
        )
    if record.duration < SECONDS - SHORTFALL_SECONDS:
        raise RecordError(f"{record.name}: {record.duration:.4g} s long, expected at least {SECONDS:g} s", "too short")
    try:
        signal, leads = select_leads(record.signal, record.leads)
    except LeadError as error:
        raise LeadError(f"{record.name}: {error}", error.reason) from None
    signal = _first_ten_seconds(signal, rate)
    check_signal(signal, leads, record.name)
    heart_rate = record.heart_rate
    if heart_rate is None:
        try:
            heart_rate = heart_rate_xqrs(signal, rate, leads)
        except RecordError as error:
            raise RecordError(f"{record.name}: {error}", error.reason) from None
    signal = _fit_length(resample(signal, rate, SAMPLING_RATE), SAMPLES)
    return replace(record, signal=signal, sampling_rate=SAMPLING_RATE, leads=leads, heart_rate=heart_rate)


def check_signal(signal: np.ndarray, leads: Sequence[str], name: str) -> None:
    """RecordError where a lead of (samples, leads) in mV holds NaNs, is flat, or exceeds 20 mV."""
    for lead, column in zip(leads, signal.T, strict=True):
        bad = int(np.sum(~np.isfinite(column)))
        if bad:
            raise RecordError(f"{name}: lead {lead} holds {bad} missing or infinite samples of {len(column)}", "NaN")
        if np.ptp(column) < FLAT_MILLIVOLT:
            raise RecordError(
                f"{name}: lead {lead} is flat: {np.ptp(column):.4f} mV peak to peak, expected at least "
                f"{FLAT_MILLIVOLT} mV (are the units mV?)",
                "flat lead",
            )
        if np.abs(column).max() > LARGEST_MILLIVOLT:
            raise RecordError(
                f"{name}: lead {lead} reaches {np.abs(column).max():.1f} mV, expected at most "
                f"{LARGEST_MILLIVOLT:g} mV (are the units mV?)",
                "large amplitude",
            )


def resample(signal: np.ndarray, rate: float, new_rate: float) -> np.ndarray:
    """Anti-aliased polyphase resampling of (samples, ...) along the first axis; rates in Hz; float32."""
    from scipy.signal import resample_poly

    ratio = Fraction(new_rate / rate).limit_denominator(10_000)
    if ratio == 1:
        return signal.astype(np.float32)
    # A line through both ends continues the signal beyond them, so an offset leaves no step at the ends.
    exact = signal.astype(np.float64)
    return resample_poly(exact, ratio.numerator, ratio.denominator, padtype="line").astype(np.float32)


def heart_rate_xqrs(signal: np.ndarray, sampling_rate: float, leads: Sequence[str]) -> float:
    """Heart rate in beats per minute from the median RR interval of XQRS's beats (wfdb).

    signal: (samples, leads) in mV. Lead II is tried first, then the others, until one has four beats; else the lead
    with most beats counts. Raises RecordError where no lead has two beats or the rate is outside 20..300.
    """
    by_name = {model_name(name): column for name, column in zip(leads, signal.T, strict=True)}
    best = np.zeros(0)
    for lead in _BEAT_LEADS:
        if lead not in by_name:
            continue
        beats = _beats(by_name[lead], sampling_rate)
        if len(beats) > len(best):
            best = beats
        if len(best) >= _ENOUGH_BEATS:
            break
    if len(best) < 2:
        raise RecordError("no heartbeats found by XQRS in any lead; give the heart rate", "no heart rate")
    rate = 60.0 / float(np.median(np.diff(best)))
    low, high = HEART_RATE_RANGE
    if not low <= rate <= high:
        raise RecordError(f"XQRS finds {rate:.0f} bpm, outside {low:g}..{high:g}; give the heart rate", "no heart rate")
    return rate


def _beats(column: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Times of XQRS's beats in seconds."""
    from .xqrs import xqrs_detect

    fast = resample(column, sampling_rate, _BEAT_RATE).astype(np.float64)
    return xqrs_detect(fast, _BEAT_RATE) / _BEAT_RATE


def _first_ten_seconds(signal: np.ndarray, rate: float) -> np.ndarray:
    return _fit_length(signal, int(np.ceil(SECONDS * rate - 1e-6)))


def _fit_length(signal: np.ndarray, samples: int) -> np.ndarray:
    missing = max(0, samples - len(signal))
    return np.pad(signal[:samples], ((0, missing), (0, 0)), mode="edge") if missing else signal[:samples]
