"""Preparing a data set: its records, preprocessed in worker processes, into the shards of a store."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ECGTwinError
from .condition import check_age, check_heart_rate, check_sex, split_report
from .entry import Entry, Rejected
from .preprocess import prepare
from .record import Record
from .sources import Listed, Source
from .text import TextEncoder, normalise_statement

if TYPE_CHECKING:
    from .store import Store

CHUNK = 16
_AHEAD = 8
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Preparation:
    """A finished store, and what this run did of it: records tried (accepted or rejected) and seconds it took."""

    store: Store
    tried: int
    seconds: float


def prepare_store(
    source: Source,
    out: Path,
    kind: str,
    options: dict,
    encoder: TextEncoder,
    shard_size: int = 2048,
    keep_unknown: bool = False,
    workers: int = 1,
) -> Preparation:
    """Fill the store `out` from `source`, or go on where an interrupted run was; the result is the same.

    Memory holds one shard of `shard_size` records, not the data set. Records that cannot be used are listed in the
    store with a reason.

    Args:
        kind, options: of the data, as StoreWriter takes them.
        keep_unknown: records without age or sex are used; else they are rejected.
        workers: processes; 1 works in this one.

    Raises:
        StoreError: `out` holds other work, or another process is at work there. ECGTwinError: a worker died.
    """
    # Workers load this module, and need none of these.
    from tqdm import tqdm

    from .lock import locked
    from .store_format import UNFINISHED
    from .store_writer import StoreWriter

    writer = StoreWriter(out, kind, options, _listing(source))
    shards = [range(start, min(start + shard_size, len(source))) for start in range(0, len(source), shard_size)]
    left = shards[writer.shards :]
    done = sum(len(shard) for shard in shards[: writer.shards])
    work = partial(prepare_records, keep_unknown=keep_unknown)
    began = time.perf_counter()
    with locked(out / UNFINISHED / "lock", wait=False), worker_pool(workers) as pool:
        results = _in_order(pool, work, (_chunk(source, part) for shard in left for part in _parts(shard)), workers)
        with tqdm(desc=f"preparing {kind}", total=len(source), initial=done, unit="record", smoothing=0.05) as bar:
            for shard in left:
                finished: list[Entry | Rejected] = []
                while len(finished) < len(shard):
                    chunk = next(results)
                    finished += chunk
                    bar.update(len(chunk))
                writer.write(
                    [result for result in finished if isinstance(result, Entry)],
                    [result for result in finished if isinstance(result, Rejected)],
                )
        return Preparation(writer.finish(encoder), len(source) - done, time.perf_counter() - began)


def prepare_records(listed: Sequence[Listed], keep_unknown: bool = False) -> list[Entry | Rejected]:
    """Load and preprocess records; one that cannot be used becomes Rejected, whatever is wrong with it."""
    return [_prepare_record(record, keep_unknown) for record in listed]


@contextmanager
def worker_pool(workers: int) -> Iterator[Executor]:
    """Processes that import no more than they need, compute on one thread each, and end with this one."""
    if workers == 1:
        yield _InThisProcess()
        return
    with _environment(dict.fromkeys(_THREADS, "1")):
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
        try:
            yield pool
        except BrokenProcessPool as error:
            raise ECGTwinError(
                "a worker process died (out of memory?): call again to go on, perhaps with fewer"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


class _InThisProcess(Executor):
    def submit(self, function: Callable, /, *arguments) -> Future:
        future: Future = Future()
        future.set_result(function(*arguments))
        return future


def _prepare_record(listed: Listed, keep_unknown: bool) -> Entry | Rejected:
    try:
        loaded = listed.load()
        record = prepare(_checked(loaded.record, keep_unknown))
        check_heart_rate(record.heart_rate)
        return Entry.of(record, listed.name, loaded.patient, loaded.time, test=loaded.test, real=loaded.real)
    except ECGTwinError as error:
        return Rejected(listed.name, error.reason, str(error))
    except MemoryError:
        raise
    except Exception as error:  # one strange record must not stop the others
        return Rejected(listed.name, "unexpected error", f"{listed.name}: {type(error).__name__}: {error}")


def _checked(record: Record, keep_unknown: bool) -> Record:
    """The record without statements that hold no letter or digit, once its condition can be used."""
    try:
        if record.age is not None or not keep_unknown:
            check_age(record.age)
        if record.sex is not None or not keep_unknown:
            check_sex(record.sex)
        worded = "|".join(text for text in split_report(record.report) if normalise_statement(text))
        split_report(worded)
    except ECGTwinError as error:
        raise type(error)(f"{record.name}: {error}", error.reason) from None
    return replace(record, report=worded)


def _listing(source: Source) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for number in range(len(source)):
        digest.update(source.name(number).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _parts(shard: range) -> list[range]:
    return [shard[start : start + CHUNK] for start in range(0, len(shard), CHUNK)]


def _chunk(source: Source, part: range) -> list[Listed]:
    return [source[number] for number in part]


def _in_order(pool: Executor, function: Callable, tasks: Iterable, workers: int) -> Iterator:
    """Results in order. A few tasks are submitted ahead, so that workers stay busy and memory does not grow; none
    where this process is the only worker."""
    pending: deque[Future] = deque()
    for task in tasks:
        pending.append(pool.submit(function, task))
        if len(pending) > _AHEAD * (workers - 1):
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _start_worker() -> None:
    # Ctrl-C is for the parent, which then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A killed parent leaves workers that wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
