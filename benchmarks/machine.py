"""Facts about this machine that a figure needs beside it, and the peak of its products."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from ecgtwin_fast import extension

ROOT = Path(__file__).resolve().parent.parent
FACTS = ("device", "threads", "torch", "python", "ecgtwin_fast", "cpu_level", "commit")
PEAK_SECONDS = 0.1
GPU_PRODUCTS = 20


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def facts(device: str) -> dict[str, object]:
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "ecgtwin_fast": metadata.version("ecgtwin-fast"),
        "cpu_level": extension.MODULE.cpu_level(),
        "commit": git.stdout.strip() or "unknown",
    }


class Peak:
    """The CPU's peak of products on `threads` threads, by the program peak.cpp, which is compiled into `folder`.

    Attributes:
        kind: "bfloat16", "float32" where the CPU has no AVX512_BF16, or None where nothing can be measured.
        reason: why it is not "bfloat16", or None.
    """

    def __init__(self, folder: Path, threads: int):
        self._program, self._threads = folder / "peak", threads
        self.kind, self.reason = None, None
        compiler = os.environ.get("CXX", "c++")
        source = Path(__file__).with_name("peak.cpp")
        try:
            _output(compiler, "-O2", "-std=c++17", "-pthread", str(source), "-o", str(self._program))
            self.kind, _ = self._run()
        except (OSError, subprocess.CalledProcessError) as error:
            self.reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        if self.kind == "float32":
            self.reason = "the CPU has no AVX512_BF16"

    def measure(self) -> float | None:
        """GFLOP/s of the kind's products; None where there is no kind."""
        return None if self.kind is None else self._run()[1]

    def _run(self) -> tuple[str, float]:
        kind, rate = _output(str(self._program), str(self._threads), str(PEAK_SECONDS)).split()
        return kind, float(rate)


class GPUPeak:
    """Of this GPU's bfloat16 products: square matrices of random numbers; interface as of `Peak`."""

    kind, reason = "bfloat16", None

    def __init__(self, size: int = 8192):
        self._factors = [torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2)]

    def measure(self) -> float:
        """GFLOP/s."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.matmul(*self._factors)
        begin.record()
        for _ in range(GPU_PRODUCTS):
            torch.matmul(*self._factors)
        end.record()
        end.synchronize()
        return GPU_PRODUCTS * 2 * len(self._factors[0]) ** 3 / begin.elapsed_time(end) * 1e-6


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
