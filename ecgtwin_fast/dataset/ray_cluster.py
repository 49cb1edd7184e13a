"""A Ray cluster as the data set's engine needs it: started here or found by its address."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from types import ModuleType

from ..errors import ECGTwinError

OBJECT_STORE_BYTES = 200 << 20
"""Of a cluster started here; only numbers of shards and lines of the manifest pass through it."""
_KNOCK_SECONDS, _ANSWER_SECONDS = 5, 40
_QUIET = {"log_to_driver": False, "logging_level": "ERROR"}
# Ray waits for ever for a cluster that does not answer, and ends the process where this machine is no node of it.
_TRY = f"""
import sys, ray
try:
    ray.init(sys.argv[1], **{_QUIET})
except Exception as error:
    sys.exit(f"{{error.__cause__ or error}}")
"""


def import_ray() -> ModuleType:
    """Ray, reporting its use to nobody. ECGTwinError where it is not installed."""
    # What calls in flight die of is either dealt with or no longer of interest.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_IGNORE_UNHANDLED_ERRORS": "1"}
    try:
        import ray
    except ImportError as error:
        raise ECGTwinError(f"engine ray needs Ray ({error}): pip install 'ecgtwin-fast[ray]'") from error
    return ray


def connect(ray: ModuleType, address: str | None) -> bool:
    """Connect this process; True where it was not before, so that ray.shutdown() is the caller's.

    Args:
        address: auto, HOST:PORT or ray://HOST:PORT; None starts a cluster on this machine, for this process alone.

    Raises:
        ECGTwinError: nothing answers there, or not in time.
    """
    if ray.is_initialized():
        return False
    if address is None:
        ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **_QUIET)
    else:
        _check(address)
        ray.init(address, **_QUIET)
    return True


def places(ray: ModuleType, gpus: bool, cpus_per_worker: int) -> tuple[int, dict[str, float]]:
    """How many workers the cluster has room for, and the resources of each: a GPU where there are any and `gpus`
    permits it, else `cpus_per_worker` CPUs. ECGTwinError where there is no room for one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    count = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus and count:
        return count, {"num_gpus": 1, "num_cpus": 0}
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    count = sum(number // cpus_per_worker for number in cpus)
    if not count:
        raise ECGTwinError(
            f"no Ray node has {cpus_per_worker} CPUs for a worker: the largest has {max(cpus, default=0)}"
        )
    return count, {"num_cpus": cpus_per_worker}


def _check(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address != "auto":
        try:
            socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
        except (ValueError, OverflowError):
            raise ECGTwinError(f"Ray address {address!r}: expected auto, HOST:PORT or ray://HOST:PORT") from None
        except OSError as error:
            raise ECGTwinError(f"no Ray cluster answers at {address}: {error}") from None
    try:
        tried = subprocess.run(
            [sys.executable, "-c", _TRY, address], capture_output=True, text=True, timeout=_ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ECGTwinError(f"no Ray cluster answers at {address} within {_ANSWER_SECONDS} s") from None
    if tried.returncode:
        said = next((line for line in tried.stderr.splitlines() if line.strip()), f"exit status {tried.returncode}")
        raise ECGTwinError(f"cannot join the Ray cluster at {address} from this machine: {said}")
