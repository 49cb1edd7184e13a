"""A worker makes shards: it reads references, samples twins and writes them, all three at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Queue

import numpy as np
import torch

from .compute import Compute, ModelCompute
from .conditions import open_conditions
from .expansion import Expansion
from .formats import open_format
from .items import Facts, Failed, Made
from .job import Job, Result
from .reader import Reader, Ready
from .references import open_references
from .sampling import Stopped, sample
from .shard import write_shard

_AHEAD = 2
"""Batches that may wait for the next stage."""


@dataclass(eq=False)
class _Task:
    """A shard in the making."""

    shard: int
    future: Future = field(default_factory=Future)
    made: list[Made] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    sampled: int = 0
    busy: float = 0.0
    began: float = field(default_factory=time.time)


@dataclass(frozen=True)
class _Batch:
    """Part of a shard on its way; one without items ends the shard."""

    task: _Task
    items: Sequence[Ready] = ()
    signals: Sequence[np.ndarray | Failed] = ()


class Worker:
    """Makes shards of a job.

    `make` may be called by two threads at once, so that the device need not wait for reading and writing.

    Args:
        threads: of the CPU's networks; torch's present number where None. compute: what makes the records; the plan's
            model where None.

    Raises:
        ECGTwinError: references or model of the plan cannot be opened.
    """

    def __init__(self, job: Job, threads: int | None = None, compute: Compute | None = None):
        self._out, self._format = job.out, open_format(job.plan.format)
        self._threads_before = torch.get_num_threads()
        self._threads = threads or self._threads_before
        torch.set_num_threads(self._threads)
        self._compute = compute or ModelCompute(job.plan, job.device)
        references = open_references(job.plan)
        self._expansion = Expansion(job.plan, references, open_conditions(job.plan))
        self._reader = Reader(self._expansion, references, self._compute, job.plan)
        self._making: set[_Task] = set()
        self._stopping, self._taking = threading.Event(), threading.Lock()
        self._tasks: Queue[_Task | None] = Queue()
        self._ready: Queue[_Batch | None] = Queue(_AHEAD)
        self._sampled: Queue[_Batch | None] = Queue(_AHEAD)
        stages = (self._read, self._sample, self._write)
        self._stages = [threading.Thread(target=stage, name=stage.__name__, daemon=True) for stage in stages]
        for stage in self._stages:
            stage.start()

    def facts(self) -> Facts:
        """What all of its records share."""
        return self._compute.facts

    def sampled(self) -> int:
        """Records of unfinished shards that are sampled."""
        return sum(task.sampled for task in tuple(self._making))

    def make(self, shard: int) -> Result:
        """Make a shard and write it. Items that fail at every attempt are listed in the result, not raised.

        Raises:
            OSError: it cannot be written, as on a full disk. BackendError: the backend cannot run. Stopped: `close`.
        """
        task = _Task(shard)
        self._making.add(task)
        try:
            with self._taking:
                # After the end of the queue nobody would answer.
                self._check_stop()
                self._tasks.put(task)
            return task.future.result()
        finally:
            self._making.discard(task)

    def close(self) -> None:
        """End what is in the making at the next step of its sampler. Nothing of it is left behind."""
        with self._taking:
            self._stopping.set()
            self._tasks.put(None)
        for stage in self._stages:
            stage.join()
        torch.set_num_threads(self._threads_before)

    def _read(self) -> None:
        torch.set_num_threads(self._threads)
        while task := self._tasks.get():
            with _guarded(task):
                for items in self._reader.batches(task.shard, task.failed, task.retried):
                    self._ready.put(_Batch(task, items))
                    self._check_stop()
                    if task.future.done():
                        break
                self._ready.put(_Batch(task))
        self._ready.put(None)

    def _sample(self) -> None:
        torch.set_num_threads(self._threads)
        while batch := self._ready.get():
            task, signals = batch.task, ()
            if task.future.done():
                continue
            with _guarded(task):
                self._check_stop()
                if batch.items:
                    began = time.perf_counter()
                    signals = sample(self._compute, batch.items, task.retried, self._check_stop)
                    task.busy += time.perf_counter() - began
                    task.sampled += len(signals)
                self._sampled.put(_Batch(task, batch.items, signals))
        self._sampled.put(None)

    def _write(self) -> None:
        while batch := self._sampled.get():
            task = batch.task
            if task.future.done():
                continue
            with _guarded(task):
                self._check_stop()
                for ready, made in zip(batch.items, batch.signals, strict=True):
                    if isinstance(made, Failed):
                        task.failed.append(made)
                    else:
                        task.made.append(_record(ready, made))
                if not batch.items:
                    task.future.set_result(self._finish(task))

    def _finish(self, task: _Task) -> Result:
        items = self._expansion.range_of(task.shard)
        entry = write_shard(
            self._out, self._format, task.shard, items.start, len(items), task.made, task.failed, self.facts()
        )
        return Result(entry, task.busy, task.began, time.time(), tuple(task.retried))

    def _check_stop(self, *_) -> None:
        if self._stopping.is_set():
            raise Stopped


@contextmanager
def _guarded(task: _Task) -> Iterator[None]:
    """What goes wrong ends this shard, not the worker."""
    try:
        yield
    except Exception as error:
        with suppress(InvalidStateError):
            task.future.set_exception(error)


def _record(ready: Ready, signal: np.ndarray) -> Made:
    item, reference = ready.item, ready.reference
    return Made(
        item.index, reference.name, reference.patient, item.condition, item.twin, ready.condition,
        reference.base_digest, signal,
    )  # fmt: skip
