"""All that a GPU can say about this package, in one command: build, tests, checkers of memory and races, speed.

    python benchmarks/gpu_gate.py --out DIR

Every part runs, whatever the one before it did, and has a time limit. DIR then holds a log of each, denoiser.csv, and
summary.json, which says how each part ended. The exit status is 0 where all did well, 1 where one did not, 2 where
there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
GPU_TESTS = (
    *("test_cuda_operators.py", "test_triton.py", "test_cuda_backend.py", "test_graph.py", "test_graph_networks.py"),
    "test_training_forward.py",
)
BATCHES = (1, 16, 132, 264, 1056)
SHOWN_LINES = 60


class Part(NamedTuple):
    """A command of the gate; `seconds` is the most that it may take, None for what is left of the gate's own."""

    name: str
    command: list[str]
    seconds: float | None
    environment: Mapping[str, str] = {}


class Outcome(NamedTuple):
    """How a part ended: "passed", or why not."""

    part: str
    result: str
    seconds: float


def parts(out: Path, batches: list[int], steps: int) -> list[Part]:
    watched = [PYTHON, "benchmarks/gpu_kernels.py"]
    # Each tensor then has memory of its own, so that an access beyond it is seen.
    unpooled = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    speed = [PYTHON, "benchmarks/denoiser.py", "--device", "cuda", "--csv", str(out / "denoiser.csv")]
    speed += ["--steps", str(steps), "--rounds", "5", "--batch", *map(str, batches)]
    tests = [f"python_tests/{name}" for name in GPU_TESTS]
    install = ["-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--editable", "."]
    return [
        Part("build", [PYTHON, *install], 240),
        # A test that is skipped here for want of a GPU or a kernel says why in the log.
        Part("tests", [PYTHON, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *tests], 150),
        Part("memcheck", _sanitizer("memcheck", watched), 60, unpooled),
        Part("racecheck", _sanitizer("racecheck", watched), 60),
        Part("speed", speed, None),
    ]


def _sanitizer(tool: str, command: list[str]) -> list[str]:
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    return [program, "--tool", tool, "--error-exitcode", "1", *command]


def run(part: Part, log: Path, seconds: float) -> Outcome:
    """A part, its output in `log`, ended with all its children where it takes longer than `seconds`."""
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        try:
            process = subprocess.Popen(
                part.command,
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **part.environment},
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(part.name, f"cannot run: {error}", 0.0)
        try:
            status = process.wait(seconds)
            result = "passed" if status == 0 else f"status {status}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            result = f"not done within {seconds:.0f} s"
    return Outcome(part.name, result, time.monotonic() - began)


def run_all(chosen: list[Part], out: Path, minutes: float) -> Iterator[Outcome]:
    """All parts in turn within `minutes`, what each of them printed last shown."""
    end = time.monotonic() + 60 * minutes
    for part in chosen:
        log, left = out / f"{part.name}.log", max(1.0, end - time.monotonic())
        outcome = run(part, log, min(left, part.seconds or left))
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        print(f"== {part.name}: {outcome.result}, {outcome.seconds:.0f} s", *lines[-SHOWN_LINES:], sep="\n", flush=True)
        yield outcome


def gpu() -> str | None:
    """The GPU's name; None where PyTorch sees none. Asked in a process of its own, which gives the GPU back."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    return subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.strip() or None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts (default %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES), metavar="N", help="of the speed's table")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="of a timed call (default %(default)s)")
    given = parser.parse_args()
    name = gpu()
    if name is None:
        print("error: torch sees no CUDA device: there is nothing to measure", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    out = given.out.resolve()
    outcomes = list(run_all(parts(out, given.batch, given.steps), out, given.minutes))
    summary = {"device": name, "parts": [outcome._asdict() for outcome in outcomes]}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print("\n".join(f"{part:<10} {result}, {seconds:.0f} s" for part, result, seconds in outcomes))
    return int(any(outcome.result != "passed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
