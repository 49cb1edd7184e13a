"""Ray nodes on one machine, each in its own network, process and mount namespaces, joined by a virtual cable."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HEAD, OTHER = "10.201.77.1", "10.201.77.2"
PORT = 6379
ADDRESS = f"{HEAD}:{PORT}"
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
RAY += ["--object-store-memory=80000000", "--disable-usage-stats"]
# A node that does not answer is lost within ten seconds.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
# Each machine has its own /tmp/ray and shared memory; a network namespace alone would share both.
_OWN = 'mkdir -p /tmp/ray && mount -t tmpfs ray /tmp/ray && mount -t tmpfs shm /dev/shm && exec "$@"'


def why_not() -> str:
    """What keeps this machine from having two; empty if nothing does."""
    if os.geteuid():
        return "network namespaces need root"
    missing = [name for name in ("ip", "unshare", "nsenter") if not shutil.which(name)]
    if missing:
        return f"no {', '.join(missing)} (iproute2, util-linux)"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return tried.stderr.strip()


class Node:
    """A machine of its own network, with a loopback interface and one end of the cable."""

    def __init__(self, address: str):
        self.address, self.name = address, f"ray-{uuid.uuid4().hex[:8]}"
        self.cable = f"v{self.name[-8:]}"
        self._keeper: subprocess.Popen | None = None
        _ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *words: str) -> None:
        _ip("-n", self.name, *words)

    def plug_in(self) -> None:
        self.ip("addr", "add", f"{self.address}/24", "dev", self.cable)
        self.ip("link", "set", self.cable, "up")

    def unplug(self) -> None:
        """Cut the cable: nothing gets through and nobody is told."""
        self.ip("link", "set", self.cable, "down")

    def start(self, command: list[str], log: Path) -> None:
        """Start the node's first process: when it dies, all that it started dies."""
        own = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-ec", _OWN, "sh"]
        self._keeper = self._open(["ip", "netns", "exec", self.name, *own, *command], log)

    def run(self, command: list[str], log: Path) -> subprocess.Popen:
        """A process on the node; Popen's pid is of its keeper."""
        return self._open(["nsenter", "--target", str(self._first()), "--net", "--mount", "--pid", *command], log)

    def kill(self) -> None:
        """SIGKILL to every process at once, as if the power were cut."""
        if self._keeper is not None:
            for child in _children(self._keeper.pid):
                os.kill(child, signal.SIGKILL)
            self._keeper.kill()
            self._keeper.wait()
            self._keeper = None

    def remove(self) -> None:
        self.kill()
        _ip("netns", "del", self.name)

    def _first(self) -> int:
        return _children(self._keeper.pid)[0]

    @staticmethod
    def _open(command: list[str], log: Path) -> subprocess.Popen:
        with open(log, "wb") as file:
            return subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT)


@contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[Node, Node]]:
    """A Ray cluster of two nodes with one CPU each, the first its head; all of it is gone afterwards."""
    nodes = []
    try:
        for address in (HEAD, OTHER):
            nodes.append(Node(address))
        head, other = nodes
        _ip("link", "add", head.cable, "netns", head.name, "type", "veth", "peer", other.cable, "netns", other.name)
        for node in nodes:
            node.plug_in()
        head.start([*RAY, "--head", f"--port={PORT}", f"--node-ip-address={HEAD}", "--include-dashboard=false"],
                   folder / "head.log")  # fmt: skip
        _await_text(folder / "head.log", "Ray runtime started")
        other.start([*RAY, f"--address={ADDRESS}", f"--node-ip-address={OTHER}"], folder / "other.log")
        _await_text(folder / "other.log", "Ray runtime started")
        yield head, other
    finally:
        for node in nodes:
            node.remove()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _await_text(log: Path, text: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while text not in log.read_text(errors="replace"):
        if time.monotonic() > end:
            raise TimeoutError(f"{log} has no line {text!r} after {seconds:g} s:\n{log.read_text(errors='replace')}")
        time.sleep(0.1)
