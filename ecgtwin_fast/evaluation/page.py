"""The report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .scores import COLUMNS, METRICS

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1150px; padding: 0 1em; color: #1a1a1a }
.notice { background: #fff4e0; border-left: 4px solid #d08000; padding: .6em 1em }
table { border-collapse: collapse; margin: 1em 0 } img { max-width: 100% }
th, td { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums } td.generated { font-weight: 600 }
.meaning { color: #666 }
"""


def page(report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """HTML of a report (as report.json holds it) and its PNG pictures by their captions."""
    parts = [
        f"<p class='notice'>{escape(report['notice'])}</p>",
        f"<p>{escape(_summary(report))}</p>",
        *([_listed(report["notes"])] if report["notes"] else []),
        "<h2>Metrics</h2>",
        _metrics(report["metrics"]),
        _listed([f"{column}: {meaning}" for column, meaning in COLUMNS.items()]),
        *(_picture(caption, content) for caption, content in pictures.items()),
        "<h2>Training</h2>",
        _training(report["training"]),
        "<h2>Settings</h2>",
        _table((name, str(value)) for name, value in report["settings"].items()),
    ]
    title = "ECGTwin: evaluation"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
        f"</head><body><h1>{title}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _summary(report: Mapping[str, Any]) -> str:
    cases, data = report["cases"], report["data"]
    return (
        f"{cases['count']} twins of as many test patients of {data['kind']} ({data['records']} records of "
        f"{data['people']} people, {data['test_records']} of them in the test fold); {cases['paired']} twins are asked "
        "for under the condition of another record of the same patient."
    )


def _metrics(metrics: Mapping[str, Mapping[str, float | None]]) -> str:
    heads = "".join(f"<th>{escape(head)}</th>" for head in ("metric", *COLUMNS, "better", "what it says"))
    rows = []
    for key, metric in METRICS.items():
        name = f"{metric.name} ({metric.unit})" if metric.unit else metric.name
        cells = "".join(
            f"<td class='number {column}'>{_number(metrics[column][key], metric.digits)}</td>" for column in COLUMNS
        )
        rows.append(f"<tr><td>{name}</td>{cells}<td>{metric.better}</td><td class='meaning'>{metric.meaning}</td></tr>")
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


def _training(stages: Mapping[str, Mapping[str, Any]]) -> str:
    columns = ("steps", "records_per_second", "seconds", "parameters", "device", "processes")
    rows = [("stage", "last numbers", *columns)]
    for stage, summary in stages.items():
        final = ", ".join(f"{name} {value:.4g}" for name, value in summary["final"].items() if name != "step")
        rows.append((stage, final, *(str(summary.get(column, "")) for column in columns)))
    return _table(rows)


def _table(rows) -> str:
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _listed(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _picture(caption: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    return f"<h2>{escape(caption)}</h2><img alt='{escape(caption)}' src='data:image/png;base64,{data}'>"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
