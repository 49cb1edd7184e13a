"""The gallery of the report, of references, generated ECGs and real targets, and training curves, as PNG bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..data.record import Record
from ..plot import SYNTHETIC, condition_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEADS = ("I", "II", "V2", "V5")
SPACING = 2.0
"""Millivolts between the baselines of two leads."""
_REAL_INK, _TWIN_INK, _GRID = "#101010", "#12306e", "#f0c8c8"
_LABEL = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}


class Shown(NamedTuple):
    """A row of the gallery: the patient's reference, the ECG that `name` generated, and the patient's own record under
    its condition; None where there is none."""

    name: str
    reference: Record | None
    generated: Record
    target: Record | None


def gallery(rows: Sequence[Shown]) -> bytes:
    """Four leads over 10 s of each record of the rows, on a grid of 0.2 s and 0.5 mV."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 4.2 * len(rows)), dpi=80, facecolor="white", layout="constrained")
    all_axes = figure.subplots(len(rows), 3, squeeze=False)
    for axes, row in zip(all_axes, rows, strict=True):
        _draw(axes[0], row.reference, "reference", _REAL_INK)
        _draw(axes[1], row.generated, f"{row.name}: {SYNTHETIC}", _TWIN_INK)
        _draw(axes[2], row.target, "the patient's own record under this condition", _REAL_INK)
    return _png(figure)


def curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """Loss against step of each stage, from the rows of its history.csv; a line of means over a fiftieth of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(histories), 3.4), dpi=80, facecolor="white", layout="constrained")
    all_axes = figure.subplots(1, len(histories), squeeze=False)[0]
    for axes, (stage, rows) in zip(all_axes, histories.items(), strict=True):
        step, loss = (np.array([row[name] for row in rows]) for name in ("step", "loss"))
        width = max(1, len(loss) // 50)
        axes.plot(step, loss, color=_TWIN_INK, alpha=0.35 if width > 1 else 1, lw=1)
        if width > 1:
            axes.plot(step[width - 1 :], np.convolve(loss, np.full(width, 1 / width), mode="valid"), color=_TWIN_INK)
        if loss.min() > 0 and loss.max() > 20 * loss.min():
            axes.set_yscale("log")
        axes.set(title=f"{stage}: loss {loss[-1]:.4g}", xlabel="step")
        axes.grid(color="#dddddd", which="both", lw=0.5)
    return _png(figure)


def _draw(axes: Axes, record: Record | None, heading: str, ink: str) -> None:
    if record is None:
        axes.axis("off")
        axes.text(0.5, 0.5, f"{heading}: none", ha="center", transform=axes.transAxes)
        return
    seconds = np.arange(len(record.signal)) / record.sampling_rate
    for place, lead in enumerate(LEADS):
        column = record.lead(lead)
        # Waves beyond the neighbouring lead's baseline are cut.
        height = np.clip(column - np.median(column), -0.9 * SPACING, 0.9 * SPACING) - SPACING * place
        axes.plot(seconds, height, color=ink, lw=0.8)
        axes.text(0.05, 0.55 - SPACING * place, lead, color=ink, weight="bold", fontsize=9, bbox=_LABEL)
    axes.set_xticks(np.arange(0, seconds[-1], 0.2), labels=[])
    axes.set_yticks(np.arange(-SPACING * len(LEADS) + 0.5, SPACING, 0.5), labels=[])
    axes.tick_params(length=0)
    axes.grid(color=_GRID, lw=0.5)
    axes.set(xlim=(0, seconds[-1]), ylim=(-SPACING * len(LEADS) + 0.5, SPACING - 0.3))
    axes.set_axisbelow(True)
    about = textwrap.shorten(condition_text(record), 75, placeholder=" …")
    # parse_math=False: a report may hold '$'.
    axes.set_title(f"{heading}\n{about}", fontsize=10, loc="left", color=ink, parse_math=False)


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Comment": f"generated ECGs are {SYNTHETIC}"})
    return content.getvalue()
