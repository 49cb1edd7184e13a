"""PyTorch's threads on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """What is computed in here on a CPU has the same bits whatever the number of threads outside: the rounding of some
    of PyTorch's convolutions and products depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
