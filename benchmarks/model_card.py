"""Puts the numbers of evaluation reports into the model card.

    python benchmarks/model_card.py simulated=OUT ptb-xl=OUT2 ablation=OUT3/report

OUT is what `ecgtwin-fast evaluate --out OUT` wrote. In MODEL_CARD.md, what stands between the lines
`<!-- table simulated -->` and `<!-- end -->` becomes the table of that report, and between `<!-- steps simulated -->`
and `<!-- end -->` its quality against steps.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ecgtwin_fast.evaluation.metrics import METRICS, SPACES
from ecgtwin_fast.evaluation.report import REPORT
from ecgtwin_fast.evaluation.steps import METRICS as STEP_METRICS

SHOWN = (
    "heart_rate_median", "wasserstein_rr", "wasserstein_pr", "wasserstein_qrs", "wasserstein_qt", "wasserstein_axis",
    "einthoven", "spectra", "fid_clip", "relative_fid_clip", "f1_clip", "fid_plain", "relative_fid_plain", "f1_plain",
    "clip_score", "auroc", "tstr", "augmented", "personal", "top1_base", "top5_base", "eer_base", "anatomy_base",
    "top1_plain", "distance_ratio", "membership",
)  # fmt: skip
_BLOCK = re.compile(r"(<!-- (table|steps) ([\w-]+) -->\n).*?(<!-- end -->)", re.S)


def table(report: Mapping[str, Any]) -> str:
    """Markdown: a row a metric that some column has, a column a generator, 95 % intervals in brackets."""
    columns = report["metrics"]
    rows = [["metric", "better", *columns]]
    for key in SHOWN:
        if any(values[key] for values in columns.values()):
            rows.append([_name(key), METRICS[key].better, *(_cell(values[key], key) for values in columns.values())])
    counts = ", ".join(f"{number} of {name}" for name, number in report["records"].items())
    return f"{_markdown(rows)}\nRecords: {counts}.\n"


def steps(report: Mapping[str, Any]) -> str:
    """Markdown: a table a model, a row a sampler and number of steps."""
    parts = []
    for name, points in report["steps"].items():
        keys = [key for key in STEP_METRICS if any(point["metrics"][key] for point in points)]
        spaces = [space for space in SPACES if any(point["metrics"][f"ratio_{space}"] for point in points)]
        rows = [["sampler", "steps", *map(_name, keys), *(f"FID ({SPACES[space]}) to the first's" for space in spaces)]]
        for point in points:
            found = point["metrics"]
            ratios = (_interval(found[f"ratio_{space}"], 3) for space in spaces)
            rows.append([point["sampler"], str(point["steps"]), *(_cell(found[key], key) for key in keys), *ratios])
        parts.append(f"{name}:\n\n{_markdown(rows)}")
    return "\n".join(parts)


def _name(key: str) -> str:
    metric = METRICS[key]
    return f"{metric.name} ({metric.unit})" if metric.unit else metric.name


def _cell(estimate: Mapping[str, float] | None, key: str) -> str:
    return _interval(estimate, METRICS[key].digits)


def _interval(estimate: Mapping[str, float] | None, digits: int) -> str:
    if estimate is None:
        return "-"
    value, low, high = (f"{estimate[part]:.{digits}f}" for part in ("value", "low", "high"))
    return value if low == high else f"{value} ({low}, {high})"


def _markdown(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:], ""])


KINDS: dict[str, Callable[[Mapping[str, Any]], str]] = {"table": table, "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", metavar="NAME=OUT")
    parser.add_argument("--card", type=Path, default=Path(__file__).resolve().parents[1] / "MODEL_CARD.md")
    given = parser.parse_args()
    paths = dict(entry.split("=", 1) for entry in given.reports)
    reports = {name: json.loads((Path(path) / REPORT).read_text(encoding="utf-8")) for name, path in paths.items()}
    card = given.card.read_text(encoding="utf-8")
    absent = reports.keys() - {name for _, _, name, _ in _BLOCK.findall(card)}
    if absent:
        parser.error(f"{given.card}: has no block for {', '.join(sorted(absent))}")

    def filled(block: re.Match) -> str:
        head, kind, name, end = block.groups()
        return f"{head}\n{KINDS[kind](reports[name])}\n{end}" if name in reports else block[0]

    given.card.write_text(_BLOCK.sub(filled, card), encoding="utf-8")


if __name__ == "__main__":
    main()
