"""What this installation can run: `python -m ecgtwin_fast.info`."""

from __future__ import annotations

import platform
from importlib import metadata

import numpy
import torch

from ecgtwin_fast import extension
from ecgtwin_fast.engine import gpu_support, triton_backend
from ecgtwin_fast.engine.cpu_support import DTYPES, precision_reasons
from ecgtwin_fast.ops import OPERATORS
from ecgtwin_fast.ops.operator import BACKENDS


def _package_version() -> str:
    try:
        return metadata.version("ecgtwin-fast")
    except metadata.PackageNotFoundError:
        return "not installed (imported from its source folder)"


def versions() -> dict[str, str]:
    """Versions of everything that decides what a build can do."""
    return {
        "ecgtwin-fast": _package_version(),
        "python": platform.python_version(),
        "torch": f"{torch.__version__} (CUDA: {torch.version.cuda or 'none'})",
        "numpy": numpy.__version__,
        "system": platform.platform(),
    }


def devices() -> dict[str, str]:
    """The CPU's instruction sets, as far as they matter here, its threads, and each GPU."""
    module = extension.MODULE
    features = (
        ", ".join(module.cpu_features) if module else f"torch uses {torch.backends.cpu.get_cpu_capability()}"
    )
    found = {"CPU": f"{features or platform.machine()}; {torch.get_num_threads()} threads"}
    if not torch.cuda.is_available():
        return found | {"GPU": "none"}
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        found[f"GPU {i}"] = f"{torch.cuda.get_device_name(i)} (sm_{major}{minor})"
    return found


def build() -> dict[str, str]:
    """How the compiled operators were built, or why they are absent."""
    module = extension.MODULE
    on_gpu = {
        "CUDA engine": _served(gpu_support.machine_reasons(), "bfloat16"),
        "Graph engine": _served(gpu_support.machine_reasons(), ", ".join(map(_short, DTYPES))),
        "Triton engine": _served(triton_backend.machine_reasons(), ", ".join(map(_short, DTYPES))),
    }
    if module is None:
        return {"compiled operators": f"absent: {extension.REASON}"} | on_gpu
    return {
        "compiled operators": f"loaded, built for torch {module.torch_version} with {module.compiler}",
        "CPU kernels": f"{', '.join(module.cpu_variants)}; in use: {module.cpu_level()}",
        "CPU engine": "; ".join(_served(precision_reasons(dtype), _short(dtype)) for dtype in DTYPES),
        "GPU architectures": ", ".join(module.cuda_architectures) or "none",
    } | on_gpu


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _served(reasons: list[str], what: str) -> str:
    return f"no: {'; '.join(reasons)}" if reasons else what


def operators() -> dict[str, dict[str, str | None]]:
    """For each operator and backend, None where it runs, else why not."""
    return {name: {backend: op.why_not(backend) for backend in BACKENDS} for name, op in OPERATORS.items()}


def _facts(title: str, facts: dict[str, str]) -> list[str]:
    width = max(map(len, facts))
    return [title, *(f"  {name:<{width}}  {value}" for name, value in facts.items()), ""]


def _operator_table() -> list[str]:
    status = operators()
    width = max(map(len, status))
    lines = ["Operators", f"  {'':<{width}}  " + "".join(f"{backend:<11}" for backend in BACKENDS)]
    for name, row in status.items():
        marks = "".join(f"{'no' if reason else 'yes':<11}" for reason in row.values())
        lines.append(f"  {name:<{width}}  {marks}".rstrip())
    for backend in BACKENDS:
        for reason in dict.fromkeys(filter(None, (row[backend] for row in status.values()))):
            lines.append(f"  no {backend}: {reason}")
    return lines


def report() -> str:
    """All of it as text, one fact a line."""
    return "\n".join(
        [
            *_facts("Versions", versions()),
            *_facts("Devices", devices()),
            *_facts("Build", build()),
            *_operator_table(),
        ]
    )


def main() -> None:
    """Print the report."""
    print(report())


if __name__ == "__main__":
    main()
