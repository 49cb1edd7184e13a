"""Workers on a Ray cluster: one a GPU or group of CPUs, on any number of nodes that share the data set's folder."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ECGTwinError
from .durable import remove_leftovers
from .engine import IN_FLIGHT, TICK_SECONDS, GivingUp, Log
from .items import Facts
from .job import Job, Result
from .progress import RUN
from .ray_cluster import connect, import_ray, places
from .worker import Worker

DEATHS = 4
"""Workers that may die of one shard before it is given up, or one after the other before they are ready."""
_CALLS = IN_FLIGHT + 2
"""At once in an actor: shards, what is sampled of them, and the end."""
_ASK_SECONDS, _CLOSE_SECONDS, _VISIBLE_SECONDS, _SILENCE_SECONDS = 1, 10, 10, 60


class RayEngine:
    """Makes shards by the workers of a Ray cluster, each as the local engine's.

    A worker that dies or whose node is lost is noticed, its shards are made again, and another is asked for. After
    that each of them is made alone, so that one that kills its worker takes no other with it; it is given up with the
    DEATHS-th worker.

    Args:
        address: auto, HOST:PORT or ray://HOST:PORT; None starts a cluster on this machine until `close`.
        workers: how many; None for as many as there is room for. cpus_per_worker: where there are no GPUs.

    Raises:
        ECGTwinError: Ray is not installed, no cluster answers, or it has no room for a worker.
    """

    def __init__(
        self,
        job: Job,
        address: str | None,
        workers: int | None,
        cpus_per_worker: int,
        log: Log,
        worker_class: Callable[..., Worker] = Worker,
    ):
        self._ray = import_ray()
        self._log, self._worker_class = log, worker_class
        self._job = replace(job, out=str(Path(job.out).absolute()))
        self._probe = Path(self._job.out, RUN, f"probe-{uuid.uuid4().hex}")
        self._connected = connect(self._ray, address)
        self._remotes: list[_Remote] = []
        self._calls: dict[Any, tuple[_Remote, Callable[[Any], None]]] = {}
        self._again: deque[int] = deque()
        self._deaths: Counter[int] = Counter()
        self._stillborn = 0
        self._first: _Ready | None = None
        self._finished: list[Result] = []
        self._giving_up: GivingUp | None = None
        self._asked, self._heard = 0.0, time.monotonic()
        try:
            count, self._resources = places(self._ray, job.device != "cpu", cpus_per_worker)
            self._threads = None if "num_gpus" in self._resources else cpus_per_worker
            self._probe.parent.mkdir(parents=True, exist_ok=True)
            self._probe.touch()
            for _ in range(workers or count):
                self._request()
        except BaseException:
            self.close()
            raise

    def facts(self) -> Facts:
        """Of the first worker that is ready. Raises what a worker raises as it starts."""
        while self._first is None:
            self._step()
        return self._first.facts

    def run(self, shards: Iterable[int], giving_up: GivingUp) -> Iterator[Result | None]:
        fresh, self._giving_up = iter(shards), giving_up
        while self._feed(fresh) or self._again or any(remote.shards for remote in self._remotes):
            self._step()
            finished, self._finished = self._finished, []
            yield from finished or [None]
        if self._deaths:
            # A writer that still works where nobody reaches it fails, which changes nothing: its shard is made.
            remove_leftovers(self._job.out)

    def sampled(self) -> int:
        return sum(remote.sampled for remote in self._remotes)

    def workers(self) -> int:
        return len(self._at_work())

    def close(self) -> None:
        ray = self._ray
        if ray.is_initialized():
            ends = [remote.actor.close.remote() for remote in self._at_work()]
            if ends:
                ray.wait(ends, num_returns=len(ends), timeout=_CLOSE_SECONDS)
            for remote in self._remotes:
                ray.kill(remote.actor)
            if self._connected:
                ray.shutdown()
        self._remotes, self._calls = [], {}
        self._probe.unlink(missing_ok=True)

    def _at_work(self) -> list[_Remote]:
        return [remote for remote in self._remotes if remote.ready]

    def _request(self) -> None:
        """Ask for another worker; it waits for room in the cluster while the others work."""
        options = self._resources | {"max_concurrency": _CALLS, "max_restarts": 0}
        remote = _Remote(self._ray.remote(_Actor).options(**options).remote())
        self._remotes.append(remote)
        start = remote.actor.start.remote(self._worker_class, self._job, self._threads, str(self._probe))
        self._calls[start] = remote, lambda ready: self._started(remote, ready)

    def _started(self, remote: _Remote, ready: _Ready) -> None:
        self._first = self._first or ready
        expected, found = asdict(self._first.facts), asdict(ready.facts)
        differing = [
            f"{name} {found[name]!r}, not {expected[name]!r}" for name in found if found[name] != expected[name]
        ]
        if differing:
            raise ECGTwinError(
                f"the worker on {ready.node} does not make the records that the one on {self._first.node} makes: "
                f"{', '.join(differing)}; use nodes of one kind, or name the backend in the plan"
            )
        remote.where, self._stillborn = f"{ready.node}, process {ready.process}", 0
        self._log("worker_ready", worker=remote.where, workers=self.workers())

    def _feed(self, fresh: Iterator[int]) -> bool:
        """Give workers shards, idle ones first; those that a worker died of when there are no others, to idle workers.
        False once `fresh` is at its end."""
        for making in range(IN_FLIGHT):
            for remote in self._at_work():
                if len(remote.shards) == making:
                    shard = next(fresh, None)
                    if shard is None:
                        self._feed_again()
                        return False
                    self._make(remote, shard)
        return True

    def _feed_again(self) -> None:
        for remote in self._at_work():
            if self._again and not remote.shards:
                self._make(remote, self._again.popleft())

    def _make(self, remote: _Remote, shard: int) -> None:
        def receive(result: Result) -> None:
            remote.shards.discard(shard)
            remote.sampled = max(0, remote.sampled - result.entry.count)
            self._finished.append(result)
            self._log("made", shard=shard, worker=remote.where)

        remote.shards.add(shard)
        self._calls[remote.actor.make.remote(shard)] = remote, receive

    def _ask(self) -> None:
        """Ask every worker how far it is; this also finds those that died idle."""
        now = time.monotonic()
        if now - self._asked < _ASK_SECONDS:
            return
        self._asked = now
        waiting = {remote for remote, receive in self._calls.values() if receive == remote.receive_sampled}
        for remote in self._at_work():
            if remote not in waiting:
                self._calls[remote.actor.sampled.remote()] = remote, remote.receive_sampled
        if self._at_work():
            self._heard = now
        elif now - self._heard > _SILENCE_SECONDS:
            self._heard = now
            self._log("no_worker", waited_for=len(self._remotes), seconds=_SILENCE_SECONDS)

    def _step(self) -> None:
        """Take what has come from the workers, after at most a tick. Raises what a worker raised."""
        ray = self._ray
        self._ask()
        calls = list(self._calls)
        ray.wait(calls, timeout=TICK_SECONDS)
        # All that have ended: of one at a time, it might always be another's.
        for call in ray.wait(calls, num_returns=len(calls), timeout=0)[0]:
            if call not in self._calls:
                continue  # of a worker that was lost just now
            remote, receive = self._calls.pop(call)
            try:
                value = ray.get(call)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, Exception) and not isinstance(error.cause, ray.exceptions.RayError):
                    raise error.cause from None
                raise ECGTwinError(f"the worker on {remote.where}: {error}") from None
            except ray.exceptions.RayError as error:
                self._lost(remote, error)
            else:
                receive(value)

    def _lost(self, remote: _Remote, error: Exception) -> None:
        """A worker died: its shards go back, and another is asked for."""
        reason = " ".join(str(error).split())
        self._remotes.remove(remote)
        self._calls = {call: known for call, known in self._calls.items() if known[0] is not remote}
        # One that only cannot be reached must not go on.
        self._ray.kill(remote.actor)
        self._log("worker_lost", worker=remote.where, reason=reason, workers=self.workers())
        for shard in sorted(remote.shards):
            self._deaths[shard] += 1
            if self._deaths[shard] < DEATHS:
                self._again.append(shard)
                self._log("shard_again", shard=shard, deaths=self._deaths[shard])
            else:
                self._finished.append(self._giving_up(shard, f"{DEATHS} workers died as they made shard {shard}"))
        if not remote.ready:
            self._stillborn += 1
        if self._stillborn < DEATHS:
            self._request()
        elif not self._remotes:
            raise ECGTwinError(
                f"{DEATHS} Ray workers in a row died before they were ready, the last one with: {reason}"
            )


@dataclass(frozen=True)
class _Ready:
    """What a worker says once it can begin."""

    facts: Facts
    node: str
    process: int


@dataclass(eq=False)
class _Remote:
    """A worker as the driver knows it. where: None until it is ready; shards: that it makes now."""

    actor: Any
    where: str | None = None
    shards: set[int] = field(default_factory=set)
    sampled: int = 0

    @property
    def ready(self) -> bool:
        return self.where is not None

    def receive_sampled(self, records: int) -> None:
        self.sampled = records


class _Actor:
    """A worker in its own process, on any node."""

    def start(self, worker_class: Callable[..., Worker], job: Job, threads: int | None, probe: str) -> _Ready:
        """Begins. ECGTwinError where this node does not see the file `probe` in the data set's folder."""
        import ray

        node = ray.util.get_node_ip_address()
        _await_file(Path(probe), job.out, node)
        self._worker = worker_class(job, threads)
        return _Ready(self._worker.facts(), node, os.getpid())

    def make(self, shard: int) -> Result:
        return self._worker.make(shard)

    def sampled(self) -> int:
        return self._worker.sampled()

    def close(self) -> None:
        self._worker.close()


def _await_file(path: Path, out: str, node: str) -> None:
    """A network file system may show a new file late."""
    end = time.monotonic() + _VISIBLE_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            raise ECGTwinError(
                f"Ray node {node} ({os.uname().nodename}) does not see {out} as this machine does: OUT must be on a "
                "file system that all nodes share, under the same path"
            )
        time.sleep(0.2)
