"""Which of several ways to compute something is taken, and how its user learns of it."""

from __future__ import annotations

import functools
import warnings

from ..errors import BackendError


@functools.cache
def say_once(message: str, stacklevel: int) -> None:
    """Warn, the first time in a process that this message comes."""
    warnings.warn(message, RuntimeWarning, stacklevel=stacklevel)


def use_cpu_engine(backend: str, what: str, reasons: list[str]) -> bool:
    """Whether the CPU engine runs `what` rather than its reference: "cpu", "reference", or "auto" for the first where
    no reason speaks against it.

    Raises:
        BackendError: unknown backend, or "cpu" with a reason against it.
    """
    if backend not in ("auto", "cpu", "reference"):
        raise BackendError(f"unknown backend {backend!r}; known: auto, cpu, reference")
    if backend == "reference":
        return False
    if not reasons:
        return True
    refusal = f"backend 'cpu' cannot run {what}: {'; '.join(reasons)}"
    if backend == "cpu":
        raise BackendError(refusal)
    say_once(f"using backend 'reference' for {what}, because {refusal}", 5)
    return False
