"""The report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .metrics import HEADLINE, METRICS, REAL, SHUFFLED, SPACES
from .steps import METRICS as STEP_METRICS

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1250px; padding: 0 1em; color: #1a1a1a }
.notice { background: #fff4e0; border-left: 4px solid #d08000; padding: .6em 1em }
figure { display: inline-block; margin: 0 1.5em 1em 0; vertical-align: top; max-width: 100% }
figcaption { font-size: 1.3em; font-weight: 600; margin: .8em 0 .4em }
table { border-collapse: collapse; margin: 1em 0 } img { max-width: 100% }
th, td { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
td.generated { font-weight: 600 } td.number small { display: block; color: #666; font-weight: 400 }
.meaning, .scale { color: #666 }
"""
_MEANING = {
    REAL: "held-out real records in a generator's place: as good as can be",
    SHUFFLED: "the same records against another record's condition, or patient: as bad as chance",
}


def page(report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """HTML of a report (as report.json holds it) and its PNG and SVG pictures by their captions."""
    sections: dict[str, list[str]] = {}
    for key, metric in METRICS.items():
        sections.setdefault(metric.section, []).append(key)
    parts = [
        f"<p class='notice'>{escape(report['notice'])}</p>",
        f"<p>{escape(report['summary'])}</p>",
        "<h2>In short</h2>",
        _metrics(report["metrics"], HEADLINE),
        "<p class='meaning'>Small numbers: 95 % intervals by the bootstrap over people. "
        + " ".join(f"<b>{name}</b>: {meaning}." for name, meaning in _MEANING.items())
        + " Distances and manifolds compare with the records of other people, equally many of each column.</p>",
        *(_picture(caption, content) for caption, content in pictures.items()),
        *(f"<h2>{section}</h2>{_metrics(report['metrics'], keys)}" for section, keys in sections.items()),
        *(["<h2>Steps</h2>", _steps(report)] if report["steps"] else []),
        *(["<h2>AUROC of each finding asked for</h2>", _findings(report)] if report["findings"] else []),
        *(["<h2>Notes</h2>", _listed(report["notes"])] if report["notes"] else []),
        *(["<h2>Training</h2>", _training(report["training"])] if report["training"] else []),
        "<h2>Settings</h2>",
        _table((name, str(value)) for name, value in report["settings"].items()),
    ]
    title = "Generated ECGs: evaluation"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
        f"</head><body><h1>{title}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _metrics(values: Mapping[str, Mapping[str, Any]], keys: Iterable[str]) -> str:
    """Rows of the metrics that some column has."""
    keys = [key for key in keys if any(column[key] for column in values.values())]
    if not keys:
        return "<p class='meaning'>Nothing could be computed of this: see the notes.</p>"
    published = any(METRICS[key].published for key in keys)
    heads = [*(["published"] if published else []), "better", "what it says"]
    columns = "".join(f"<th class='number'>{escape(name)}</th>" for name in values)
    rows = ["<th>metric</th>" + columns + "".join(f"<th>{head}</th>" for head in heads)]
    for key in keys:
        metric = METRICS[key]
        cells = "".join(_cell(values[name][key], metric.digits, name) for name in values)
        unit = f" ({metric.unit})" if metric.unit else ""
        literature = f"<td class='meaning'>{escape(metric.published)}</td>" if published else ""
        rows.append(
            f"<td>{escape(metric.name + unit)}</td>{cells}{literature}<td>{metric.better}</td>"
            f"<td class='meaning'>{escape(metric.meaning)}</td>"
        )
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _cell(estimate: Mapping[str, float] | None, digits: int, column: str) -> str:
    kind = column if column in _MEANING else "generated"
    if estimate is None:
        return f"<td class='number {kind}'>–</td>"
    value, low, high = (f"{estimate[name]:.{digits}f}" for name in ("value", "low", "high"))
    # Real records over themselves have no spread.
    interval = f"<small>{low} … {high}</small>" if low != high else ""
    return f"<td class='number {kind}'>{value}{interval}</td>"


def _steps(report: Mapping[str, Any]) -> str:
    """Metrics at each number of steps, and which are enough."""
    parts = []
    for name, rows in report["steps"].items():
        keys = [key for key in STEP_METRICS if any(row["metrics"][key] for row in rows)]
        spaces = [space for space in SPACES if any(row["metrics"][f"ratio_{space}"] for row in rows)]
        heads = [METRICS[key].name + (f" ({METRICS[key].unit})" if METRICS[key].unit else "") for key in keys]
        heads += [f"FID, {SPACES[space]}, to the first row's" for space in spaces]
        digits = [*((key, METRICS[key].digits) for key in keys), *((f"ratio_{space}", 3) for space in spaces)]
        lines = ["".join(f"<th>{escape(head)}</th>" for head in ("sampler", "steps", *heads))]
        for row in rows:
            cells = "".join(_cell(row["metrics"][key], number, name) for key, number in digits)
            lines.append(f"<td>{row['sampler']}</td><td>{row['steps']}</td>{cells}")
        parts.append(f"<h3>{escape(name)}</h3><table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>")
        for space in spaces:
            enough = report["fewest_steps"][name][space]
            found = ", ".join(f"{sampler} {steps}" for sampler, steps in enough.items()) or "none"
            what = f"Fewest steps whose FID ({SPACES[space]}) is within 5 % of the first row's"
            parts.append(f"<p class='meaning'>{what}: {found}.</p>")
    return "".join(parts)


def _findings(report: Mapping[str, Any]) -> str:
    columns = list(report["metrics"])
    rows = [("finding", *columns, "training records")]
    for name, row in report["findings"].items():
        cells = (f"{row[column]:.3f}" if column in row else "–" for column in columns)
        rows.append((name, *cells, str(row["training"])))
    return _table(rows)


def _training(stages: Mapping[str, Mapping[str, Any]]) -> str:
    columns = ("steps", "records_per_second", "seconds", "parameters", "device", "processes")
    rows = [("stage", "last numbers", *columns)]
    for stage, summary in stages.items():
        final = ", ".join(f"{name} {value:.4g}" for name, value in summary["final"].items() if name != "step")
        rows.append((stage, final, *(str(summary.get(column, "")) for column in columns)))
    return _table(rows)


def _table(rows: Iterable[Sequence[str]]) -> str:
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _listed(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _picture(caption: str, content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "svg+xml"
    data = base64.b64encode(content).decode()
    image = f"<img alt='{escape(caption)}' src='data:image/{kind};base64,{data}'>"
    return f"<figure><figcaption>{escape(caption)}</figcaption>{image}</figure>"
