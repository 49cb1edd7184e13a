"""Work captured in CUDA graphs, to be replayed without Python's part in it. On a CPU the same work is done anew."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

KEPT_GRAPHS = 4
_CAPTURING = threading.Lock()
"""No thread may wait for the device, as the beginning of a capture does, while another one captures."""


def captured(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A graph of one call, before which another one compiles kernels and finds workspaces; both do their work on what
    its tensors happen to hold."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads go on with work of their own, as those of a data set do, and take memory for it.
    with _CAPTURING, torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph


class Replayed:
    """`work()` on tensors that stay where they are, captured on a CUDA device before it is first done."""

    def __init__(self, work: Callable[[], None], device: torch.device):
        self._work, self._on_gpu = work, device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._free: torch.cuda.Event | None = None
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[Callable[[], None]]:
        """The work, to be filled in, done and read out by one caller: other threads wait, and other streams."""
        with self._lock:
            if not self._on_gpu:
                yield self._work
                return
            if self._free is not None:
                torch.cuda.current_stream().wait_event(self._free)
            self._graph = self._graph or captured(self._work)
            try:
                yield self._graph.replay
            finally:
                self._free = torch.cuda.Event()
                self._free.record()


class Function:
    """`function(*given)` for tensors of the shapes and types of these; None stays None."""

    def __init__(self, function: Callable[..., Tensor], given: Sequence[Tensor | None]):
        self._given = [None if value is None else torch.zeros_like(value) for value in given]
        self._made: Tensor | None = None

        def work() -> None:
            self._made = function(*self._given)

        self._replayed = Replayed(work, given[0].device)

    def __call__(self, *given: Tensor | None) -> Tensor:
        with self._replayed.turn() as work:
            for own, value in zip(self._given, given, strict=True):
                if own is not None:
                    own.copy_(value)
            work()
            return self._made.clone()


class Recent:
    """The values used last, by key, made when first needed: few, as each holds a graph and its memory."""

    def __init__(self):
        self._values, self._lock = OrderedDict[Hashable, Any](), threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key not in self._values:
                while len(self._values) >= KEPT_GRAPHS:
                    self._values.popitem(last=False)
                self._values[key] = make()
            self._values.move_to_end(key)
            return self._values[key]

    def __len__(self) -> int:
        return len(self._values)
