"""The Ray engine: every shard once, whatever happens to its workers. Nodes are lost in test_dataset_ray_nodes.py."""

from __future__ import annotations

import builtins
import errno
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecgtwin_fast.dataset import ray_cluster, ray_engine
from ecgtwin_fast.dataset.items import Facts
from ecgtwin_fast.dataset.job import Job, Result
from ecgtwin_fast.dataset.manifest import Entry
from ecgtwin_fast.dataset.ray_engine import DEATHS, RayEngine
from ecgtwin_fast.errors import BackendError, ECGTwinError

WORKERS = 2
SAMPLED = 1000
NO_ROOM = "no space left for shard 3"


def result(shard: int, path: str = "") -> Result:
    return Result(Entry(shard, shard, 1, 1, path, 0, ""), 0.0, 0.0, 0.0)


class Stub:
    """In a worker's place: notes each shard that it makes, and its process, in a file of OUT."""

    def __init__(self, job: Job, threads: int | None):
        self.out, self.threads = Path(job.out), threads
        self.note("ready")

    def note(self, name: str) -> None:
        with open(self.out / name, "a") as file:
            file.write(f"{os.getpid()}\n")

    def once(self, name: str) -> bool:
        """True to the first of all workers that asks."""
        try:
            (self.out / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def facts(self) -> Facts:
        return Facts(7, "dpmpp", 2, "stand-in", "0" * 16, "cpu", "float32")

    def sampled(self) -> int:
        return SAMPLED

    def make(self, shard: int) -> Result:
        self.note(f"shard-{shard}")
        return result(shard, f"{self.threads} threads")

    def close(self) -> None:
        self.note("closed")


class Slow(Stub):
    def make(self, shard):
        time.sleep(0.05)
        return super().make(shard)


class DiesOnce(Slow):
    """Of shard 3."""

    def make(self, shard):
        made = super().make(shard)
        if shard == 3 and self.once("died"):
            os.kill(os.getpid(), signal.SIGKILL)
        return made


class AlwaysDies(Slow):
    def make(self, shard):
        made = super().make(shard)
        if shard == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return made


class NeverReady(Stub):
    def __init__(self, job, threads):
        super().__init__(job, threads)
        os.kill(os.getpid(), signal.SIGKILL)


class NoRoom(Slow):
    def make(self, shard):
        if shard == 3:
            raise OSError(errno.ENOSPC, NO_ROOM, "data/shard-00003")
        return super().make(shard)


class NoBackend(Stub):
    def __init__(self, job, threads):
        raise BackendError("backend cpu: no AVX2", reason="backend")


class OtherBackend(Stub):
    def __init__(self, job, threads):
        super().__init__(job, threads)
        self.backend = "cpu" if self.once("first") else "torch on cpu, 1 threads"

    def facts(self):
        return Facts(7, "dpmpp", 2, "stand-in", "0" * 16, self.backend, "float32")


class Unpicklable(Stub):
    def make(self, shard):
        raise type("Local", (Exception,), {"__reduce__": lambda self: (lambda: None, ())})(f"of shard {shard}")


@pytest.fixture(scope="module")
def cluster():
    """Of four CPUs, whatever the machine has: every worker finds room, and a replacement too."""
    ray = ray_cluster.import_ray()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the workers to find the classes of this file
        ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=100 << 20, **ray_cluster._QUIET)
    yield ray
    ray.shutdown()


@pytest.fixture
def engines(cluster, tmp_path):
    """engine(worker_class): an engine on OUT = tmp_path; its log is engine.events."""
    opened = []

    def open_engine(worker_class, workers=WORKERS, cpus_per_worker=1):
        events = []
        job = Job(None, str(tmp_path))
        engine = RayEngine(
            job, None, workers, cpus_per_worker, lambda event, **fields: events.append((event, fields)), worker_class
        )
        engine.events = events
        opened.append(engine)
        return engine

    yield open_engine
    for engine in opened:
        engine.close()


def run(engine, shards) -> list[Result]:
    """All results; a shard that is given up has its message for a path."""
    return [one for one in engine.run(shards, result) if one is not None]


def until_all_work(engine, more: int) -> Iterator[int]:
    """Shards until every worker has been ready, and so many more."""
    shards = itertools.count()
    yield from itertools.takewhile(lambda _: engine.workers() < WORKERS, shards)
    yield from itertools.islice(shards, more)


def numbers(results) -> list[int]:
    return sorted(one.entry.shard for one in results)


def events(engine, name) -> list[dict]:
    return [fields for event, fields in engine.events if event == name]


def processes(out: Path, name: str) -> list[str]:
    return (out / name).read_text().split()


def test_every_shard_is_made_once_and_taken_when_a_worker_is_free(engines, tmp_path):
    engine = engines(Slow, cpus_per_worker=2)
    assert engine.facts().model == "stand-in"
    taken, ahead, sampled, results = [], [], [], []

    def shards():
        for shard in until_all_work(engine, more=120):
            taken.append(shard)
            ahead.append(len(taken) - len(results))
            yield shard

    for one in engine.run(shards(), result):
        results += [one] if one else []
        sampled.append(engine.sampled())
    assert numbers(results) == taken and max(ahead) == 2 * WORKERS
    assert {one.entry.path for one in results} == {"2 threads"}
    made = Counter(pid for shard in taken for pid in processes(tmp_path, f"shard-{shard}"))
    assert sum(made.values()) == len(taken) and sorted(made) == sorted(processes(tmp_path, "ready"))
    assert sampled[0] == 0 and 0 < max(sampled) <= WORKERS * SAMPLED
    assert run(engine, []) == []
    engine.close()
    assert sorted(processes(tmp_path, "closed")) == sorted(made)
    assert not list((tmp_path / "run").glob("probe-*"))


def test_the_shards_of_a_killed_worker_are_made_again(engines, tmp_path):
    engine = engines(DiesOnce)
    assert numbers(run(engine, range(16))) == list(range(16))
    (lost,) = events(engine, "worker_lost")
    victim = lost["worker"].rpartition(" ")[2]
    assert victim in processes(tmp_path, "shard-3") and "died" in lost["reason"]
    again = events(engine, "shard_again")
    assert {"shard": 3, "deaths": 1} in again and len(again) <= 2
    assert len(processes(tmp_path, "shard-3")) == 2


def test_a_shard_that_kills_every_worker_is_given_up_alone(engines, tmp_path):
    engine = engines(AlwaysDies)
    results = run(engine, range(10))
    assert numbers(results) == list(range(10))
    messages = {one.entry.shard: one.entry.path for one in results if "died" in one.entry.path}
    assert list(messages) == [3] and f"{DEATHS} workers died" in messages[3]
    assert len(processes(tmp_path, "shard-3")) == DEATHS == len(events(engine, "worker_lost"))


def test_workers_that_die_before_they_are_ready_end_the_run(engines, tmp_path):
    with pytest.raises(ECGTwinError, match=f"{DEATHS} Ray workers in a row died before they were ready"):
        engines(NeverReady, workers=1).facts()
    assert len(processes(tmp_path, "ready")) == DEATHS


def test_an_error_of_a_shard_comes_out_as_itself(engines):
    with pytest.raises(OSError, match=NO_ROOM) as raised:
        run(engines(NoRoom, workers=1), range(10))
    assert type(raised.value) is OSError and raised.value.errno == errno.ENOSPC
    assert raised.value.filename == "data/shard-00003"


def test_an_error_of_the_start_comes_out_as_itself(engines):
    with pytest.raises(BackendError, match="no AVX2") as raised:
        engines(NoBackend, workers=1).facts()
    assert type(raised.value) is BackendError and raised.value.reason == "backend"


def test_an_error_that_cannot_travel_is_told(engines):
    with pytest.raises(ECGTwinError, match="of shard 0"):
        run(engines(Unpicklable, workers=1), range(1))


def test_a_worker_that_makes_other_records_is_refused(engines):
    engine = engines(OtherBackend)
    engine.facts()
    with pytest.raises(ECGTwinError, match=r"backend '.+', not '.+'; use nodes of one kind"):
        list(engine.run(iter(int, 1), result))


def test_out_must_be_shared(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "_VISIBLE_SECONDS", 0)
    with pytest.raises(ECGTwinError, match=r"Ray node .* does not see .*file system that all nodes share"):
        ray_engine._Actor().start(Stub, Job(None, str(tmp_path)), 1, str(tmp_path / "run" / "probe-not-there"))


def test_no_node_has_room_for_a_worker(engines):
    with pytest.raises(ECGTwinError, match="no Ray node has 64 CPUs for a worker: the largest has 4"):
        engines(Stub, cpus_per_worker=64)


def test_ray_is_missing(monkeypatch, tmp_path):
    real = builtins.__import__

    def without_ray(name, *rest):
        if name.split(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(ECGTwinError, match=r"pip install 'ecgtwin-fast\[ray\]'"):
        RayEngine(Job(None, str(tmp_path)), None, None, 1, print)


@pytest.mark.parametrize(
    "address, said",
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9"),
        ("ray://127.0.0.1:9", "no Ray cluster answers at ray://127.0.0.1:9"),
        ("somewhere", "expected auto, HOST:PORT or ray://HOST:PORT"),
    ],
)
def test_an_address_that_does_not_answer(monkeypatch, tmp_path, address, said):
    ray = ray_cluster.import_ray()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    began = time.monotonic()
    with pytest.raises(ECGTwinError, match=said):
        RayEngine(Job(None, str(tmp_path)), address, None, 1, print)
    assert time.monotonic() - began < 10 and not (tmp_path / "run").exists()
