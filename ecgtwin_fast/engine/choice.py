"""Which of several ways to compute something is taken, and how its user learns of it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

from ..errors import BackendError


@functools.cache
def say_once(message: str, stacklevel: int) -> None:
    """Warn, the first time in a process that this message comes."""
    warnings.warn(message, RuntimeWarning, stacklevel=stacklevel)


GPU_BACKENDS = ("triton", "cuda", "graph")
"""Of `generate_latents`. What has no engine but "graph" on a GPU runs by that beside any of them."""


def engine_for(backend: str, what: str, cpu: Callable[[], list[str]], graph: Callable[[], list[str]]) -> str:
    """Which engine runs `what`: "cpu", "graph" or "reference".

    Args:
        backend: its name; "auto" for "cpu" where that can run, "triton" or "cuda" for "graph" where that can, and else
            for "reference". cpu, graph: give every reason why the engine cannot run.

    Raises:
        BackendError: unknown backend, or "cpu" or "graph" with a reason against it.
    """
    if backend not in GPU_BACKENDS:
        known = ("auto", "cpu", "reference", *GPU_BACKENDS)
        return "cpu" if _engine_runs("cpu", backend, what, cpu(), known) else "reference"
    asked = "graph" if backend == "graph" else "auto"
    return "graph" if _engine_runs("graph", asked, what, graph(), (asked,)) else "reference"


def use_cpu_engine(backend: str, what: str, reasons: list[str]) -> bool:
    """Whether the CPU engine runs `what` rather than its reference: "cpu", "reference", or "auto" for the first where
    no reason speaks against it.

    Raises:
        BackendError: unknown backend, or "cpu" with a reason against it.
    """
    return _engine_runs("cpu", backend, what, reasons, ("auto", "cpu", "reference"))


def _engine_runs(engine: str, backend: str, what: str, reasons: list[str], known: tuple[str, ...]) -> bool:
    if backend not in known:
        raise BackendError(f"unknown backend {backend!r}; known: {', '.join(known)}")
    if backend == "reference":
        return False
    if not reasons:
        return True
    refusal = f"backend {engine!r} cannot run {what}: {'; '.join(reasons)}"
    if backend == engine:
        raise BackendError(refusal)
    say_once(f"using backend 'reference' for {what}, because {refusal}", 6)
    return False
