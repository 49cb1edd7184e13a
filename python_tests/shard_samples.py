"""Small data sets of made-up records for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ecgtwin_fast.dataset.card import write_card
from ecgtwin_fast.dataset.durable import replacing
from ecgtwin_fast.dataset.formats import open_format
from ecgtwin_fast.dataset.items import Asked, Facts, Failed, Made
from ecgtwin_fast.dataset.manifest import Manifest, write_failed
from ecgtwin_fast.dataset.plan import Plan, ReferencePlan
from ecgtwin_fast.dataset.shard import write_shard
from ecgtwin_fast.generate import Condition

FACTS = Facts(7, "dpmpp", 25, "bundled", "0123456789abcdef", "cpu", "float32")
REPORTS = ("sinus rhythm", "atrial fibrillation|AV block 1°, «partial»", 'ST "elevation"')


def made(index: int, scale: float = 0.3) -> Made:
    """A record of noise, `scale` mV strong, drawn from its index."""
    rng = np.random.default_rng(index)
    condition = Condition(REPORTS[index % 3], float(rng.uniform(40, 150)), float(rng.integers(20, 90)), "FM"[index % 2])
    signal = rng.normal(0, scale, (1024, 12)).astype(np.float32)
    return Made(index, f"ref {index // 4}", f"person {index // 8}", index % 2, index % 4, condition, "00ff" * 4, signal)


def failure(index: int) -> Failed:
    return Failed(index, f"ref {index // 4}", "not finite", f"record {index}: lead V1 is NaN, «so»")


def plan_of(form: str, licence: str | None = "CC-BY-4.0") -> Plan:
    references = ReferencePlan("simulated", simulated=3)
    return Plan("plan.yaml", "", references, (Asked("sinus rhythm"),), twins=4, seed=7, format=form, licence=licence)


def write_dataset(
    out: Path, form: str, shards: Sequence[int] = (0, 1, 2), failed: Sequence[int] = (5,), total: int = 12
) -> Manifest:
    """A data set in shards of four items, complete where they hold all `total`, as a run would leave it."""
    out.mkdir(exist_ok=True)
    manifest = Manifest(out)
    for shard in shards:
        items = range(shard * 4, min(shard * 4 + 4, total))
        good = [made(index) for index in items if index not in failed]
        bad = [failure(index) for index in items if index in failed]
        manifest.append(write_shard(out, open_format(form), shard, items.start, len(items), good, bad, FACTS))
    finish(out, form, manifest, total)
    return manifest


def finish(out: Path, form: str, manifest: Manifest, total: int) -> None:
    """dataset.json and, where all is there, what a complete data set has besides."""
    entries = manifest.entries
    totals = {"records": sum(e.records for e in entries), "failed": sum(len(e.failed) for e in entries)}
    complete = sum(totals.values()) == total
    if complete:
        manifest.rewrite_sorted()
        write_failed(out, entries)
        for name, parts in open_format(form).tables(out, entries).items():
            with replacing(out / name) as temporary:
                temporary.write_bytes(b"".join(parts))
        write_card(out, plan_of(form), FACTS, **totals)
    identity = {
        "version": 1, "plan": {}, "facts": asdict(FACTS), "total": total, "shards": len(entries), "complete": complete,
    }  # fmt: skip
    text = json.dumps(identity | (totals if complete else {}), indent=2, sort_keys=True)
    (out / "dataset.json").write_text(text + "\n")
    (out / "plan.yaml").write_text("twins: 4\n")
