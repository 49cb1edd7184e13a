"""What a run shows: a bar, run/status.json, run/log.jsonl, and Prometheus' text format if asked for."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from .job import Result

RUN, STATUS, LOG = "run", "status.json", "log.jsonl"
_STATUS_SECONDS = 2.0


class Progress:
    """Counts records of a data set of `total` items, of which some exist, with `records` and `failed`, before this run.

    Attributes:
        records, failed: items with a record and without one, up to now. lost: workers that died.
    """

    def __init__(self, out: Path, total: int, records: int, failed: int, metrics: Path | None = None):
        self._folder, self._metrics, self._total = out / RUN, metrics, total
        self.records, self.failed, self.lost = records, failed, 0
        self._busy = 0.0
        self._workers = 1
        self._before, self._began, self._written = records + failed, time.time(), 0.0
        self._bar = tqdm(desc="records", total=total, initial=records + failed, unit="record", mininterval=0.5)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _) -> None:
        state = "complete" if kind is None else "interrupted" if kind is KeyboardInterrupt else "stopped"
        self.log(state, records=self.records, failed=self.failed, **({"error": str(error)} if error else {}))
        self._write(state, 0)
        self._bar.close()

    def begin(self, **fields) -> None:
        """The workers are ready: time counts from here."""
        self._began = time.time()
        self._bar.unpause()
        self.log("begun", total=self._total, records=self.records, failed=self.failed, **fields)

    def log(self, event: str, **fields) -> None:
        """A line of run/log.jsonl."""
        if event == "worker_lost":
            self.lost += 1
        line = json.dumps({"time": _time(), "event": event} | fields, default=str)
        # A full disk is reported by the shard that needs it.
        with suppress(OSError), open(self._folder / LOG, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def finished(self, result: Result) -> None:
        """A shard is in the manifest."""
        entry = result.entry
        self.records += entry.records
        self.failed += len(entry.failed)
        self._busy += result.busy
        self.log("shard", shard=entry.shard, records=entry.records, seconds=round(result.ended - result.began, 3))
        for text in result.retried:
            self.log("retried", shard=entry.shard, what=text)
        for one in entry.failed:
            self.log("failed", **asdict(one))

    def show(self, sampled: int, workers: int) -> None:
        """Update what is shown; sampled: records of unfinished shards."""
        now = self.records + self.failed + sampled
        self._workers = max(workers, 1)
        self._bar.update(max(0, now - self._bar.n))
        self._bar.set_postfix(failed=self.failed, workers=workers, refresh=False)
        if time.time() - self._written >= _STATUS_SECONDS:
            self._write("running", sampled)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.time() - self._began

    @property
    def device_busy(self) -> float:
        """Share of this run's time in which the workers' devices were at work on shards that are finished."""
        return self._busy / (self.seconds * self._workers)

    def _write(self, state: str, sampled: int) -> None:
        self._written = time.time()
        rate = (self.records + self.failed + sampled - self._before) / max(self.seconds, 1e-9)
        left = self._total - self.records - self.failed - sampled
        status = {
            "state": state,
            "updated": _time(),
            "total": self._total,
            "records": self.records,
            "in_the_making": sampled,
            "failed": self.failed,
            "workers": self._workers,
            "workers_lost": self.lost,
            "records_per_second": round(rate, 3),
            "seconds": round(self.seconds, 1),
            "seconds_left": round(left / rate, 1) if rate > 0 else None,
            "device_busy": round(self.device_busy, 4),
            "process": os.getpid(),
        }
        with suppress(OSError):
            _replace(self._folder / STATUS, json.dumps(status, indent=2) + "\n")
        if self._metrics is not None:
            try:
                _replace(self._metrics, _prometheus(status))
            except OSError as error:
                print(f"{self._metrics}: metrics cannot be written: {error}", file=sys.stderr)
                self._metrics = None


def _prometheus(status: dict) -> str:
    """The numbers in the text format that node_exporter's textfile collector reads."""
    kinds = {"records": "counter", "failed": "counter", "workers_lost": "counter"}
    lines = []
    for name, value in status.items():
        if isinstance(value, int | float) and name != "process":
            metric = f"ecgtwin_dataset_{name}" + ("_total" if name in kinds else "")
            lines += [f"# TYPE {metric} {kinds.get(name, 'gauge')}", f"{metric} {value}"]
    return "\n".join(lines) + "\n"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _time() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
