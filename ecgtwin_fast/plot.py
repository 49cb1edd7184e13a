"""A patient's ECG and its twins on 12-lead ECG paper, true to scale: 25 mm/s and 10 mm/mV."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .data.leads import select_leads
from .staging import staged_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .data.record import Record

MM_PER_SECOND = 25.0
MM_PER_MILLIVOLT = 10.0
DOTS_PER_INCH = 127.0
"""5 pixels per millimetre, so that the paper's lines fall on whole pixels."""

ROWS = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
RHYTHM_LEAD = "II"
SECONDS = 10.0
SYNTHETIC = "synthetic, not for diagnosis"

# All lengths below are millimetres on paper.
_TRACE_LEFT = 10.0
_BLOCK_WIDTH = _TRACE_LEFT + SECONDS * MM_PER_SECOND + 5.0
_ROW_HEIGHT = 25.0
_BLOCK_TOP, _BLOCK_BOTTOM = 10.0, 5.0
_BLOCK_HEIGHT = _BLOCK_TOP + (len(ROWS) + 1) * _ROW_HEIGHT + _BLOCK_BOTTOM
_CAPTION = 17.0
_PAGE_MARGIN = 10.0
_COLUMN_GAP = 12.0
_TITLE = 14.0

_PAPER, _MINOR, _MAJOR = "#fffafa", "#f8dcdc", "#eeb0b0"
_REFERENCE_INK, _TWIN_INK = "#101010", "#12306e"
_LABEL = {"boxstyle": "square,pad=0.1", "facecolor": _PAPER, "edgecolor": "none", "alpha": 0.75}


def plot_twins(
    reference: Record | None,
    twins: Sequence[Record],
    path: str | Path,
    title: str = "",
    headings: Sequence[str] | None = None,
) -> Path:
    """Draw the reference, where there is one, and below it its twins, each as 3 x 4 leads of 2.5 s and lead II over
    10 s, as a PNG.

    Signals (samples, leads) in mV at any rate; the first 10 s are drawn, leads found by name, each lead's median as
    its baseline. Several twins stand in two columns; what was asked for stands beside the reference. headings: of the
    reference and of each twin. Written whole or not at all; returns the path. Raises LeadError where a record's leads
    cannot make up 12.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    columns = 1 if len(twins) < 2 else 2
    cells = _cells(len(twins), columns, 0 if reference is None else 1)
    page = _page_size(cells, columns)
    figure = _page(page)
    title = title or ("Generated ECGs" if reference is None else "ECG and its generated twins")
    _text(figure, page, _PAGE_MARGIN, page[1] - _PAGE_MARGIN - 2, title, size=20, weight="bold")
    own, what = (f"{headings[0]}, generated too", "edits") if headings else ("Patient's own ECG", "twins")
    one = "ECG" if reference is None else "Twin"
    headings = headings or ["Reference", *(f"{one} {number + 1} of {len(twins)}" for number in range(len(twins)))]
    if reference is not None:
        _draw(figure, page, cells[0], reference, headings[0], _REFERENCE_INK)
    for cell, twin, heading in zip(cells[1:], twins, headings[1:], strict=True):
        _draw(figure, page, cell, twin, f"{heading}: {SYNTHETIC}", _TWIN_INK, note=SYNTHETIC)
    if columns == 2 and reference is not None:
        _panel(figure, page, reference, twins, own, what)
    path = Path(path)
    FigureCanvasAgg(figure)
    with staged_folder(path.parent) as scratch:
        about = {"Title": title, "Comment": SYNTHETIC}
        figure.savefig(scratch / path.name, format="png", dpi=DOTS_PER_INCH, metadata=about)
    return path


def condition_text(record: Record) -> str:
    """One line: report, heart rate, age and sex, as far as known."""
    parts = [", ".join(part.strip() for part in record.report.split("|"))] if record.report else []
    if record.heart_rate is not None:
        parts.append(f"{record.heart_rate:.0f} bpm")
    if record.age is not None:
        parts.append(f"{record.age:.0f} years")
    if record.sex is not None:
        parts.append({"F": "female", "M": "male"}.get(record.sex, record.sex))
    return "  ·  ".join(parts) or "condition not stated"


def _cells(twins: int, columns: int, first_row: int) -> list[tuple[int, int]]:
    """(row, column) of the reference, which has the rows before `first_row` for itself, and of each twin."""
    return [(0, 0), *((first_row + index // columns, index % columns) for index in range(twins))]


def _page_size(cells: list[tuple[int, int]], columns: int) -> tuple[float, float]:
    rows = 1 + max(row for row, _ in cells)
    width = 2 * _PAGE_MARGIN + columns * _BLOCK_WIDTH + (columns - 1) * _COLUMN_GAP
    return width, 2 * _PAGE_MARGIN + _TITLE + rows * (_BLOCK_HEIGHT + _CAPTION)


def _corner(page: tuple[float, float], cell: tuple[int, int]) -> tuple[float, float]:
    """Left and bottom of a block on the page."""
    row, column = cell
    left = _PAGE_MARGIN + column * (_BLOCK_WIDTH + _COLUMN_GAP)
    return left, page[1] - _PAGE_MARGIN - _TITLE - (row + 1) * (_BLOCK_HEIGHT + _CAPTION)


def _page(page: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(page[0] / 25.4, page[1] / 25.4), dpi=DOTS_PER_INCH, facecolor="white")


def _text(figure: Figure, page: tuple[float, float], x: float, y: float, text: str, **style) -> None:
    # parse_math=False: a report may hold '$'.
    figure.text(x / page[0], y / page[1], text, parse_math=False, **({"va": "top", "ha": "left"} | style))


def _draw(
    figure: Figure,
    page: tuple[float, float],
    cell: tuple[int, int],
    record: Record,
    heading: str,
    ink: str,
    note: str = "",
) -> None:
    left, bottom = _corner(page, cell)
    if record.source and not note:
        heading = f"{heading}: {record.source}"
    top = bottom + _BLOCK_HEIGHT + _CAPTION - 4
    _text(figure, page, left, top, _shortened(heading, 110), size=13, weight="bold", color=ink)
    _text(figure, page, left, top - 6.5, _shortened(condition_text(record), 125), size=12)
    axes = figure.add_axes(
        (left / page[0], bottom / page[1], _BLOCK_WIDTH / page[0], _BLOCK_HEIGHT / page[1]),
        xlim=(0, _BLOCK_WIDTH),
        ylim=(0, _BLOCK_HEIGHT),
        xticks=[],
        yticks=[],
        facecolor=_PAPER,
    )
    for spine in axes.spines.values():
        spine.set_color(_MAJOR)
    _paper(axes)
    _traces(axes, record, ink)
    scale = f"{MM_PER_SECOND:g} mm/s   {MM_PER_MILLIVOLT:g} mm/mV"
    axes.text(_TRACE_LEFT, 1.2, scale, size=8, va="bottom")
    axes.text(_BLOCK_WIDTH - 2, 1.2, note, size=8, va="bottom", ha="right", color=ink)


def _paper(axes: Axes) -> None:
    from matplotlib.collections import LineCollection

    for step, color in ((1, _MINOR), (5, _MAJOR)):
        lines = [((x, 0), (x, _BLOCK_HEIGHT)) for x in np.arange(step, _BLOCK_WIDTH, step)]
        lines += [((0, y), (_BLOCK_WIDTH, y)) for y in np.arange(step, _BLOCK_HEIGHT, step)]
        # One pixel wide, so that no line is wider than its neighbours.
        axes.add_collection(
            LineCollection(lines, colors=color, linewidths=72 / DOTS_PER_INCH, zorder=step / 5)
        )


def _traces(axes: Axes, record: Record, ink: str) -> None:
    signal, names = select_leads(record.signal, record.leads)
    signal = signal[: int(SECONDS * record.sampling_rate)]
    x = _TRACE_LEFT + np.arange(len(signal)) / record.sampling_rate * MM_PER_SECOND
    for index, row in enumerate((*ROWS, (RHYTHM_LEAD,))):
        baseline = _BLOCK_HEIGHT - _BLOCK_TOP - (index + 0.5) * _ROW_HEIGHT
        _calibration(axes, baseline, ink)
        width = SECONDS * MM_PER_SECOND / len(row)
        for position, lead in enumerate(row):
            start = _TRACE_LEFT + position * width
            shown = (x >= start) & (x <= start + width)
            column = signal[:, names.index(lead)]
            y = baseline + (column - np.nanmedian(column)) * MM_PER_MILLIVOLT
            axes.plot(x[shown], y[shown], color=ink, lw=1.1, zorder=3, solid_joinstyle="round")
            axes.text(start + 1, baseline + 8, lead, size=10, weight="bold", zorder=2, color=ink, bbox=_LABEL)
            if position:
                axes.plot([start, start], [baseline - 3, baseline + 3], color=ink, lw=1.1, zorder=3)


def _calibration(axes: Axes, baseline: float, ink: str) -> None:
    """A pulse of 1 mV and 0.2 s."""
    right = 2 + 0.2 * MM_PER_SECOND
    top = baseline + MM_PER_MILLIVOLT
    x, y = (1, 2, 2, right, right, right + 1), (baseline, baseline, top, top, baseline, baseline)
    axes.plot(x, y, color=ink, lw=1.1, zorder=3)


def _panel(
    figure: Figure, page: tuple[float, float], reference: Record, twins: Sequence[Record], own: str, what: str
) -> None:
    """What was asked for, beside the reference."""
    left, bottom = _corner(page, (0, 1))
    asked = dict.fromkeys(condition_text(twin) for twin in twins)
    lines = [f"{own} (left)", *_wrapped(condition_text(reference)), ""]
    lines += [
        f"{len(twins)} generated {what} (below)",
        *(line for text in asked for line in _wrapped(text)),
        "",
    ]
    lines += [f"Generated ECGs are {SYNTHETIC}."]
    _text(figure, page, left, bottom + _BLOCK_HEIGHT, "\n".join(lines), size=16, linespacing=1.5)


def _shortened(text: str, characters: int) -> str:
    return textwrap.shorten(text, characters, placeholder=" …")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 92, initial_indent="    ", subsequent_indent="    ")
