"""What runs workers: in this process, or on a Ray cluster. Below it everything is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Protocol

from .compute import Compute
from .items import Facts
from .job import Job, Result
from .worker import Worker

Log = Callable[..., None]
"""log(event, **fields): something worth a line in the run's log."""
GivingUp = Callable[[int, str], Result]
"""giving_up(shard, message): the result of a shard that no worker survives."""

IN_FLIGHT = 2
"""Shards in the making by one worker, so that its device need not wait between them."""
TICK_SECONDS = 0.5


class Engine(Protocol):
    """Makes shards by one worker or many."""

    def facts(self) -> Facts:
        """What all records share, as the workers say."""
        ...

    def run(self, shards: Iterable[int], giving_up: GivingUp) -> Iterator[Result | None]:
        """Results as shards finish, in any order; None now and then, so that the caller can show progress.

        `shards` is taken from as workers become free. What a worker raises comes out here.
        """
        ...

    def sampled(self) -> int:
        """Records of unfinished shards that are sampled."""
        ...

    def workers(self) -> int:
        """How many are at work."""
        ...

    def close(self) -> None:
        """End everything that is in the making; can be called twice."""
        ...


class LocalEngine:
    """One worker in this process: all cores of the CPU, or one GPU. Raises what the worker raises."""

    def __init__(self, job: Job, threads: int | None = None, compute: Compute | None = None):
        self._worker = Worker(job, threads, compute)
        self._callers = ThreadPoolExecutor(IN_FLIGHT)

    def facts(self) -> Facts:
        return self._worker.facts()

    def run(self, shards: Iterable[int], giving_up: GivingUp) -> Iterator[Result | None]:
        waiting = iter(shards)
        pending = self._submit(islice(waiting, IN_FLIGHT))
        while pending:
            done, pending = wait(pending, TICK_SECONDS, FIRST_COMPLETED)
            for future in done:
                yield future.result()
                pending |= self._submit(islice(waiting, 1))
            if not done:
                yield None

    def sampled(self) -> int:
        return self._worker.sampled()

    def workers(self) -> int:
        return 1

    def close(self) -> None:
        self._worker.close()
        self._callers.shutdown()

    def _submit(self, shards: Iterable[int]) -> set[Future]:
        return {self._callers.submit(self._worker.make, shard) for shard in shards}
