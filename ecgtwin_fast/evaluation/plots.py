"""The plots of the report, as SVG bytes: intervals, features in two dimensions, precision and recall."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from .beats import INTERVALS
from .evidence import Evidence, Table
from .feature_scores import features_of
from .measured import PlainScale
from .metrics import REAL, SPACES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 400
"""Records of each set in a scatter plot, at most."""
_REAL_COLOUR = "#888888"
COLOURS = ("#12306e", "#c05a00", "#2a7d2e", "#8a2b8f", "#b01030", "#007c89")
_UNITS = {"axis": "°"}


def plots(evidence: Evidence, table: Table) -> dict[str, bytes]:
    """SVG by caption; what there is nothing to draw of is left out."""
    drawn = {}
    palette = _palette(evidence)
    if not np.isnan(evidence.real.intervals).all():
        drawn["Intervals"] = _distributions(evidence, palette)
    spaces = {}
    scale = PlainScale(evidence.real.plain)
    if evidence.real.clip is not None:
        spaces["clip"] = {name: made.clip for name, made in evidence.columns}
    if scale.width:
        spaces["plain"] = {name: features_of(made, "plain", scale) for name, made in evidence.columns}
    spaces = {space: features for space, features in spaces.items() if min(features[REAL].shape) > 2}
    if spaces:
        drawn["Principal components of features"] = _components(spaces, palette)
    if any(table.values[REAL][f"precision_{space}"] for space in SPACES):
        drawn["Precision and recall"] = _precision_recall(table, palette)
    return drawn


def _palette(evidence: Evidence) -> dict[str, str]:
    """Colours by column, in the order of drawing: the real records lie below."""
    made = (name for name, _ in evidence.columns if name != REAL)
    return {REAL: _REAL_COLOUR, **dict(zip(made, cycle(COLOURS), strict=False))}


def _distributions(evidence: Evidence, palette: Mapping[str, str]) -> bytes:
    figure = figure_of(16, 2.8)
    measured = dict(evidence.columns)
    for axes, (column, interval) in zip(figure.subplots(1, len(INTERVALS)), enumerate(INTERVALS), strict=True):
        samples = {name: measured[name].intervals[:, column] for name in palette}
        samples = {name: values[np.isfinite(values)] for name, values in samples.items()}
        known = np.concatenate(list(samples.values()))
        if len(known) < 2:
            axes.axis("off")
            continue
        edges = np.linspace(*np.quantile(known, [0.005, 0.995]), 31)
        for name, values in samples.items():
            style = {"histtype": "stepfilled", "alpha": 0.4} if name == REAL else {"histtype": "step", "lw": 1.5}
            if len(values):
                # Shares, not counts: the sets may differ in size.
                shares = np.full(len(values), 1 / len(values))
                axes.hist(values, edges, weights=shares, color=palette[name], label=name, **style)
        axes.set(title=f"{interval} ({_UNITS.get(interval, 'ms')})", yticks=[])
    legend(figure)
    return svg(figure)


def _components(spaces: Mapping[str, Mapping[str, np.ndarray]], palette: Mapping[str, str]) -> bytes:
    from sklearn.decomposition import PCA

    figure = figure_of(5.5 * len(spaces), 4)
    for axes, (space, features) in zip(figure.subplots(1, len(spaces), squeeze=False)[0], spaces.items(), strict=True):
        projection = PCA(2, random_state=0).fit(features[REAL])
        for name, colour in palette.items():
            x, y = projection.transform(features[name][:POINTS]).T
            axes.scatter(x, y, s=16, color=colour, alpha=0.6, lw=0, label=name)
        first, second = 100 * projection.explained_variance_ratio_
        axes.set(
            title=f"{SPACES[space]} features, axes of the real records", xlabel=f"{first:.0f} % of variance",
            ylabel=f"{second:.0f} %",
        )  # fmt: skip
    legend(figure)
    return svg(figure)


def _precision_recall(table: Table, palette: Mapping[str, str]) -> bytes:
    found = {space: label for space, label in SPACES.items() if table.values[REAL][f"precision_{space}"]}
    figure = figure_of(5 * len(found), 4)
    for axes, (space, label) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for name, colour in palette.items():
            _cross(axes, table.values[name], space, colour, name)
        axes.set(title=f"{label} features", xlabel="recall", ylabel="precision", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.grid(color="#dddddd", lw=0.5)
    legend(figure)
    return svg(figure)


def _cross(axes: Axes, values: Mapping, space: str, colour: str, name: str) -> None:
    recall, precision = values[f"recall_{space}"], values[f"precision_{space}"]
    if recall and precision:
        errors = [[[max(0, one.value - one.low)], [max(0, one.high - one.value)]] for one in (recall, precision)]
        axes.errorbar(
            recall.value, precision.value, xerr=errors[0], yerr=errors[1], fmt="o", color=colour, label=name, capsize=3
        )


def figure_of(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white", layout="constrained")


def legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)


def svg(figure: Figure) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "ecgtwin_fast", "svg.fonttype": "none"}):
        FigureCanvasSVG(figure)
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()
