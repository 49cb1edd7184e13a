"""What stands on the page for a choice of records: sheets of ECG paper, captions, the status line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ..errors import ECGTwinError
from ..plot import condition_text
from .model import REFERENCE, Findings, Trace
from .paper import FORMATS, beats_per_minute, paper

LAYOUTS = STACKED, SIDE_BY_SIDE, OVERLAID = "stacked", "side by side", "overlaid"
ZOOM = (
    "<div class='zoom'><button data-zoom='1.6'>+</button><button data-zoom='0.625'>−</button>"
    "<button data-zoom='0'>whole</button><span>drag: measure · Ctrl + wheel: zoom · Shift + drag: move</span></div>"
)

Attention = Sequence[tuple[str, Sequence[float]]]


@dataclass(frozen=True)
class View:
    """Two records by label (the second "" for none), how they lie, their rows of leads, and whether attention shows."""

    first: str = REFERENCE
    second: str = ""
    layout: str = STACKED
    rows: str = next(iter(FORMATS))
    attention: bool = False

    def shown(self, findings: Findings) -> list[Trace]:
        """The chosen records that there are, each once."""
        labels = dict.fromkeys((self.first, self.second))
        return [findings.traces[label] for label in labels if label in findings.traces]


def sheets(findings: Findings, view: View, attention: Callable[[Trace], Attention]) -> str:
    """HTML of the chosen records on ECG paper. attention: called for the records under which it is drawn."""
    traces = view.shown(findings)
    groups = [traces] if view.layout == OVERLAID else [[trace] for trace in traces]
    columns = "two" if view.layout == SIDE_BY_SIDE and len(groups) > 1 else "one"
    drawn = "".join(_sheet(group, view, attention) for group in groups)
    return f"{ZOOM}<div class='sheets {columns}'>{drawn}</div>"


def status(findings: Findings) -> str:
    """The status line: what was done, and how long it took."""
    if not findings.twins:
        return f"{escape(findings.patient.record.name)}: {escape(condition_text(findings.patient.record))}"
    # An edit is sampled together with its source.
    count = 2 if findings.edits else len(findings.twins)
    made = "an edit and its source" if findings.edits else f"{count} twin{'s' if count > 1 else ''}"
    return (
        f"{made} in {findings.seconds:.2f} s: <b>{1000 * findings.seconds / count:.0f} ms each</b> "
        f"({findings.wish.steps} steps, backend {escape(findings.backend)}), measured in {findings.measuring:.2f} s"
    )


def problem(error: Exception) -> str:
    """The status line of an error."""
    return f"<span class='error'>{escape(' '.join(str(error).split()))}</span>"


def _sheet(traces: Sequence[Trace], view: View, attention: Callable[[Trace], Attention]) -> str:
    captions = [
        f"<span class='{'second' if place else 'first'}'>{_caption(trace)}</span>" for place, trace in enumerate(traces)
    ]
    strips: Attention = ()
    if view.attention:
        try:
            strips = attention(traces[-1])
        except ECGTwinError as error:
            captions.append(escape(str(error)))
    kind = "sheet generated" if traces[0].label != REFERENCE and len(traces) == 1 else "sheet"
    records = [trace.record for trace in traces]
    return (
        f"<div class='{kind}'><div class='caption'>{'<br>'.join(captions)}</div>"
        f"{paper(records, FORMATS[view.rows], strips)}</div>"
    )


def _caption(trace: Trace) -> str:
    label = trace.label if trace.label != REFERENCE else f"{REFERENCE}: {trace.record.name}"
    similarity = "" if trace.label == REFERENCE else f" · similarity {trace.similarity:.3f}"
    return (
        f"<b>{escape(label)}</b> · XQRS {beats_per_minute(trace.heart_rate)}{similarity} · "
        f"{escape(condition_text(trace.record))}"
    )
