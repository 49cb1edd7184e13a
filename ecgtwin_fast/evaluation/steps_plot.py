"""The plot of quality against the number of a sampler's steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .metrics import METRICS
from .plots import COLOURS, figure_of, legend, svg
from .steps import METRICS as FOLLOWED

_MARKS = "osD^v"


def steps_plot(followed: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """SVG: a panel a metric, a line a sampler of each model; dashed, the yardstick, which is the first point.

    followed: what `steps.step_curve` returns, by names of models.
    """
    keys = [key for key in FOLLOWED if any(row["metrics"][key] for rows in followed.values() for row in rows)]
    figure = figure_of(4 * len(keys), 3.6)
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        for colour, (name, rows) in zip(COLOURS, followed.items(), strict=False):
            yardstick = rows[0]["metrics"][key]
            if yardstick is not None:
                axes.axhline(yardstick.value, color=colour, lw=0.8, ls="--")
            samplers = dict.fromkeys(row["sampler"] for row in rows)
            for mark, sampler in zip(_MARKS, samplers, strict=False):
                points = [(row["steps"], row["metrics"][key]) for row in rows if row["sampler"] == sampler]
                points = sorted((steps, found.value) for steps, found in points if found is not None)
                if points:
                    label = f"{name}, {sampler}"
                    axes.plot(
                        *zip(*points, strict=True),
                        marker=mark,
                        ms=4,
                        color=colour,
                        label=label,
                        alpha=1 - 0.25 * list(samplers).index(sampler),
                    )
        steps = sorted({row["steps"] for rows in followed.values() for row in rows})
        metric = METRICS[key]
        axes.set(title=metric.name, xscale="log", xlabel="steps", ylabel=metric.unit, xticks=steps)
        axes.set_xticks([], minor=True)
        axes.set_xticklabels(steps, fontsize=7)
        axes.set_ylim(bottom=0)
    legend(figure)
    return svg(figure)
