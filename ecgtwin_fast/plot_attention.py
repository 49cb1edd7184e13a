"""What the denoiser looks at: a record's rhythm lead above its attention to each statement of its report."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .plot import RHYTHM_LEAD, SYNTHETIC, condition_text
from .staging import staged_folder

if TYPE_CHECKING:
    from .data.record import Record
    from .editing import Attention

_INK = "#12306e"


def plot_attention(record: Record, attention: Attention, path: str | Path) -> Path:
    """Draw lead II over the record's length and below it one strip a statement, darker where attention is larger.

    Each strip is scaled from its smallest to its largest weight, which stand beside it. A PNG, written whole or not at
    all; returns the path. Raises RecordError where the record has no lead II.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(attention.statements)
    figure = Figure(figsize=(13, 2.6 + 0.42 * count), dpi=110, facecolor="white", layout="constrained")
    grid = figure.subplots(count + 1, 1, sharex=True, height_ratios=[4, *[1] * count], squeeze=False)[:, 0]
    lead = record.lead(RHYTHM_LEAD)
    time = np.arange(len(lead)) / record.sampling_rate
    grid[0].plot(time, lead, color=_INK, lw=1)
    grid[0].set(ylabel="mV", xlim=(0, record.duration), title=f"Lead {RHYTHM_LEAD}: {condition_text(record)}")
    grid[0].grid(alpha=0.3)
    for axes, statement, weights in zip(grid[1:], attention.statements, attention.weights, strict=True):
        low, high = weights.min(), weights.max()
        axes.imshow(
            weights[None], aspect="auto", cmap="Blues", vmin=low, vmax=max(high, low + 1e-6),
            extent=(0, record.duration, 0, 1), interpolation="nearest",
        )  # fmt: skip
        axes.set_yticks([])
        label = textwrap.shorten(statement, 34, placeholder=" …")
        axes.set_ylabel(label, rotation=0, ha="right", va="center", parse_math=False)
        axes.annotate(f"{low:.2f}..{high:.2f}", (1.004, 0.5), xycoords="axes fraction", va="center", fontsize=8)
    grid[-1].set_xlabel(f"seconds; {SYNTHETIC}")
    path = Path(path)
    FigureCanvasAgg(figure)
    with staged_folder(path.parent) as scratch:
        figure.savefig(scratch / path.name, format="png", metadata={"Comment": SYNTHETIC})
    return path
