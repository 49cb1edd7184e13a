"""From a plan to a complete data set, however often the run is interrupted."""

from __future__ import annotations

import errno
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..data.lock import locked
from ..errors import ECGTwinError
from ..staging import check_folder
from .card import write_card
from .conditions import open_conditions
from .durable import remove_leftovers, replacing
from .engine import Engine, Log
from .expansion import Expansion
from .formats import open_format
from .identity import Identity
from .items import Facts, Failed
from .job import Job, Result
from .manifest import Manifest, rewrite, write_failed
from .plan import Plan
from .progress import RUN, Progress
from .references import open_references
from .shard import write_shard

PLAN = "plan.yaml"
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "the file limit is hit"}


@dataclass(frozen=True)
class Summary:
    """A complete data set: its records and failures, the items made by this run, and how busy its devices were."""

    records: int
    failed: int
    made: int
    seconds: float
    device_busy: float
    workers_lost: int
    facts: Facts


def make_dataset(
    plan: Plan,
    out: str | Path,
    open_engine: Callable[[Job, Log], Engine],
    *,
    device: str | None = None,
    retry_failed: bool = False,
    metrics: Path | None = None,
) -> Summary:
    """Make what is missing of the plan's data set in folder `out`.

    Args:
        open_engine: open_engine(job, log) starts what runs the workers. device: of the networks. retry_failed: make
            shards with failures again. metrics: file for numbers in Prometheus' text format.

    Raises:
        PlanError: `out` holds another plan's data. ECGTwinError: what the plan names cannot be opened, `out` is no
        folder for it or in use, or there is no room. What is finished stays, as it does after KeyboardInterrupt.
    """
    check_folder(out)
    work = _Work(plan, Path(out))
    (work.out / RUN).mkdir(parents=True, exist_ok=True)
    with locked(work.out / RUN / "lock", wait=False):
        remove_leftovers(work.out)
        manifest = Manifest(work.out)
        if retry_failed:
            rewrite(manifest.path, [entry for entry in manifest.entries if not entry.failed])
            manifest = Manifest(work.out)
        before = sum(entry.count for entry in manifest.entries)
        with Progress(work.out, work.expansion.total, *_counts(manifest), metrics) as progress:
            if work.complete(manifest):
                facts = Facts(**work.identity.known["facts"])
            else:
                with closing(open_engine(Job(plan, str(out), device), progress.log)) as engine:
                    facts = engine.facts()
                    work.identity.agree(facts)
                    with _room(work.out, progress):
                        work.fill(manifest, engine, facts, progress)
                        work.finish(manifest, facts)
            made = progress.records + progress.failed - before
            return Summary(
                progress.records, progress.failed, made, progress.seconds, progress.device_busy, progress.lost, facts
            )


class _Work:
    """A plan, all that it names, and the folder of its data set."""

    def __init__(self, plan: Plan, out: Path):
        self.plan, self.out = plan, out
        self.references, self.conditions = open_references(plan), open_conditions(plan)
        self.expansion = Expansion(plan, self.references, self.conditions)
        self.identity = Identity(plan, out, self.references, self.expansion)

    def complete(self, manifest: Manifest) -> bool:
        """Whether nothing is left to do."""
        known = self.identity.known
        return known is not None and known["complete"] and len(manifest.done()) == self.expansion.shards

    def fill(self, manifest: Manifest, engine: Engine, facts: Facts, progress: Progress) -> None:
        """Make the shards that are missing and enter them as they come."""
        self.identity.write(facts, *_counts(manifest), complete=False)
        with replacing(self.out / PLAN) as temporary:
            temporary.write_text(self.plan.text, encoding="utf-8")
        done = manifest.done()
        progress.begin(missing_shards=self.expansion.shards - len(done))
        missing = (shard for shard in range(self.expansion.shards) if shard not in done)
        with _interrupts_wait() as check:
            for result in engine.run(missing, lambda shard, message: self._given_up(shard, message, facts)):
                if result is not None:
                    manifest.append(result.entry)
                    progress.finished(result)
                progress.show(engine.sampled(), engine.workers())
                check()

    def finish(self, manifest: Manifest, facts: Facts) -> None:
        """Write what is written once, when every shard is there; dataset.json last."""
        records, failed = _counts(manifest)
        manifest.rewrite_sorted()
        write_failed(self.out, manifest.entries)
        for name, parts in open_format(self.plan.format).tables(self.out, manifest.entries).items():
            with replacing(self.out / name) as temporary, open(temporary, "wb") as file:
                file.writelines(parts)
        write_card(self.out, self.plan, facts, records, failed)
        self.identity.write(facts, records, failed, complete=True)

    def _given_up(self, shard: int, message: str, facts: Facts) -> Result:
        items = self.expansion.range_of(shard)
        failed = [
            Failed(index, self.references.name(self.expansion.item(index).reference), "worker died", message)
            for index in items
        ]
        entry = write_shard(self.out, open_format(self.plan.format), shard, items.start, len(items), [], failed, facts)
        return Result(entry, 0.0, time.time(), time.time())


def _counts(manifest: Manifest) -> tuple[int, int]:
    """Records and failures."""
    entries = manifest.entries
    return sum(entry.records for entry in entries), sum(len(entry.failed) for entry in entries)


@contextmanager
def _interrupts_wait() -> Iterator[Callable[[], None]]:
    """Ctrl-C is raised where the function that this gives is called: in the middle of the engine's bookkeeping it could
    leave a lock taken, on which the workers would wait for ever."""
    asked: list[int] = []
    replaced = []
    if threading.current_thread() is threading.main_thread():
        replaced = [each for each in _INTERRUPTS if signal.getsignal(each) is signal.default_int_handler]
    for each in replaced:
        signal.signal(each, lambda number, _: asked.append(number))

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    try:
        yield check
    finally:
        for each in replaced:
            signal.signal(each, signal.default_int_handler)


@contextmanager
def _room(out: Path, progress: Progress) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ECGTwinError(
            f"{out}: {_FULL[error.errno]} ({error.filename or error}); {progress.records} records are finished and "
            "stay: make room, and the same command goes on"
        ) from error
