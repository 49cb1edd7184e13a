"""Records on ECG paper as SVG, in millimetres: 25 mm/s and 10 mm/mV, to be zoomed and measured on the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from ..data.leads import select_leads
from ..data.record import Record
from ..plot import MM_PER_MILLIVOLT, MM_PER_SECOND, RHYTHM_LEAD, ROWS, SECONDS
from .model import Findings, Trace

CLINICAL = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
FORMATS = {"3 × 4 + II": (*ROWS, (RHYTHM_LEAD,)), "12 × 10 s": tuple((lead,) for lead in CLINICAL)}
"""Rows of leads; those of a row follow one another."""

# Millimetres on paper.
_LEFT, _RIGHT = 10.0, 5.0
_WIDTH = _LEFT + SECONDS * MM_PER_SECOND + _RIGHT
_TOP, _BOTTOM = 4.0, 4.0
_STRIP, _STRIP_GAP = 5.0, 1.0
_ROW_HEIGHTS = {4: 22.0, 12: 16.0}

_GRID = """<defs>
<pattern id="mm1" width="1" height="1" patternUnits="userSpaceOnUse"><path d="M1 0H0V1" class="minor"/></pattern>
<pattern id="mm5" width="5" height="5" patternUnits="userSpaceOnUse"><rect width="5" height="5" fill="url(#mm1)"/>
<path d="M5 0H0V5" class="major"/></pattern></defs>"""


def paper(
    records: Sequence[Record], rows: Sequence[Sequence[str]], attention: Sequence[tuple[str, Sequence[float]]] = ()
) -> str:
    """An `<svg class="ecg">` of one record, or of several over each other, with `data-width` and `data-height` in mm.

    records: the first is drawn by class "first", the others by "second"; each lead's median is its baseline. rows: a
    value of FORMATS. attention: a strip for each statement over the 10 s, darker where its number (any count, evenly
    spaced) is larger, from its smallest to its largest.
    """
    height = _ROW_HEIGHTS[len(rows)]
    strips_top = _TOP + height * len(rows)
    # A whole number of large squares.
    total = 5 * np.ceil((strips_top + len(attention) * (_STRIP + _STRIP_GAP) + _BOTTOM) / 5)
    parts = [f'<rect width="{_WIDTH:g}" height="{total:g}" class="ground"/>', _GRID]
    parts.append(f'<rect width="{_WIDTH:g}" height="{total:g}" fill="url(#mm5)"/>')
    for place, record in enumerate(records):
        parts.append(f'<g class="{"second" if place else "first"}">{_traces(record, rows, height)}</g>')
    parts += [_labels(row, _TOP + (index + 0.5) * height) for index, row in enumerate(rows)]
    parts += [
        _strip(statement, weights, strips_top + index * (_STRIP + _STRIP_GAP))
        for index, (statement, weights) in enumerate(attention)
    ]
    parts.append(f'<text x="2" y="{total - 1.5:g}" class="scale">25 mm/s  10 mm/mV</text>')
    size = f'viewBox="0 0 {_WIDTH:g} {total:g}" data-width="{_WIDTH:g}" data-height="{total:g}"'
    return f'<svg class="ecg" {size} xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'


def rhythm_table(findings: Findings | None, shown: Sequence[str]) -> str:
    """An HTML table: a row for each record with its measurements and lead II over 10 s; those `shown` are marked."""
    if findings is None:
        return ""
    heads = "<th>ECG</th><th>asked</th><th>XQRS</th><th>similarity</th><th>lead II, 10 s</th>"
    rows = "".join(_table_row(trace, trace.label in shown) for trace in findings.traces.values())
    return f"<table class='measured'><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def beats_per_minute(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.0f} bpm"


def _table_row(trace: Trace, shown: bool) -> str:
    record = trace.record
    cells = (
        f"<td class='label'>{escape(trace.label)}</td><td>{beats_per_minute(record.heart_rate)}</td>"
        f"<td><b>{beats_per_minute(trace.heart_rate)}</b></td><td>{trace.similarity:.3f}</td>"
    )
    y = 8 - _column(record, RHYTHM_LEAD) * 5
    x = np.arange(len(y)) / record.sampling_rate * MM_PER_SECOND
    strip = f'<svg viewBox="0 0 250 16" preserveAspectRatio="none">{_polyline(x, y)}</svg>'
    row = f"<tr class='{'shown' if shown else ''}' data-label='{escape(trace.label)}'>"
    return f"{row}{cells}<td class='strip'>{strip}</td></tr>"


def _traces(record: Record, rows: Sequence[Sequence[str]], height: float) -> str:
    x = _LEFT + np.arange(int(SECONDS * record.sampling_rate)) / record.sampling_rate * MM_PER_SECOND
    lines = []
    for index, row in enumerate(rows):
        baseline = _TOP + (index + 0.5) * height
        width = SECONDS * MM_PER_SECOND / len(row)
        pulse = f"M1 {baseline:g}h1v{-MM_PER_MILLIVOLT:g}h{0.2 * MM_PER_SECOND:g}v{MM_PER_MILLIVOLT:g}h1"
        lines.append(f'<path d="{pulse}"/>')
        for position, lead in enumerate(row):
            start = _LEFT + position * width
            column = _column(record, lead)[: len(x)]
            inside = (x[: len(column)] >= start) & (x[: len(column)] <= start + width)
            lines.append(_polyline(x[: len(column)][inside], baseline - column[inside] * MM_PER_MILLIVOLT))
    return "".join(lines)


def _column(record: Record, lead: str) -> np.ndarray:
    """A lead (samples,) in mV above its median."""
    signal, names = select_leads(record.signal, record.leads)
    column = signal[:, names.index(lead)]
    return column - np.median(column)


def _polyline(x: np.ndarray, y: np.ndarray) -> str:
    return f'<polyline points="{" ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))}"/>'


def _labels(row: Sequence[str], baseline: float) -> str:
    """Names of leads, and a tick where one follows another."""
    parts = []
    for position, lead in enumerate(row):
        start = _LEFT + position * SECONDS * MM_PER_SECOND / len(row)
        parts.append(f'<text x="{start + 1:g}" y="{baseline - 5.5:g}" class="lead">{lead}</text>')
        if position:
            parts.append(f'<path d="M{start:g} {baseline - 3:g}v6" class="tick"/>')
    return "".join(parts)


def _strip(statement: str, weights: Sequence[float], top: float) -> str:
    low, high = min(weights), max(weights)
    width = SECONDS * MM_PER_SECOND / len(weights)
    cells = "".join(
        f'<rect x="{_LEFT + index * width:.2f}" y="{top:g}" width="{width + 0.05:.2f}" height="{_STRIP:g}" '
        f'fill-opacity="{(weight - low) / max(high - low, 1e-9):.2f}"/>'
        for index, weight in enumerate(weights)
    )
    label = f"{escape(statement)}  {low:.2f}–{high:.2f}"
    return (
        f'<g class="attention"><rect x="{_LEFT:g}" y="{top:g}" width="{SECONDS * MM_PER_SECOND:g}" height="{_STRIP:g}" '
        f'class="bed"/>{cells}<text x="{_LEFT + 1:g}" y="{top + 3.6:g}">{label}</text></g>'
    )
