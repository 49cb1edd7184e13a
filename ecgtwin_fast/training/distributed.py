"""Several processes train as one: what torchrun and `accelerate launch` say about them, and what they exchange.

Only the environment counts (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT); without it there is one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ..device import usable_device
from ..errors import ECGTwinError

# Others wait while one process prepares data or draws samples.
TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class Processes:
    """This process (0-based rank) among `world`, and the device that it computes on."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this process writes the files and shows the progress."""
        return self.rank == 0

    def check_batch(self, batch: int) -> None:
        """ECGTwinError unless a batch can be cut into equal parts."""
        if batch % self.world:
            raise ECGTwinError(f"batch {batch} cannot be split equally over {self.world} processes: choose a multiple")

    def share(self, rows):
        """This process's part of the rows of an array or Tensor: equal parts, in order of the ranks."""
        self.check_batch(len(rows))
        part = len(rows) // self.world
        return rows[self.rank * part : (self.rank + 1) * part]

    def wait(self) -> None:
        """Until every process has come here."""
        if self.world > 1:
            dist.barrier()

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[nn.Parameter], stop: bool) -> bool:
        """Replace every gradient by its mean over the processes, in one exchange; True where any process wants to stop.

        A parameter without gradient counts as zero unless no process has one: then it keeps none, as with one process.
        """
        if self.world == 1:
            return stop
        present = torch.tensor([p.grad is not None for p in parameters] + [stop], dtype=torch.float32)
        gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in parameters]
        flat = torch.cat([*gradients, present.to(self.device)])
        dist.all_reduce(flat)
        *counts, stops = flat[-len(present) :].tolist()
        parts = flat[: -len(present)].div_(self.world).split([p.numel() for p in parameters])
        for parameter, part, count in zip(parameters, parts, counts, strict=True):
            if count:
                parameter.grad = part.view_as(parameter).to(parameter.dtype)
        return stops > 0

    def average(self, numbers: Mapping[str, float | Tensor]) -> dict[str, float]:
        """The mean of each number over the processes."""
        values = torch.stack([torch.as_tensor(value, dtype=torch.float64).detach().cpu() for value in numbers.values()])
        if self.world > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
            values /= self.world
        return dict(zip(numbers, values.tolist(), strict=True))


@contextmanager
def processes(device: str | None = None) -> Iterator[Processes]:
    """Join the processes that a launcher started, else be the only one; inside such a block, the same processes again.

    device: cpu, cuda, cuda:1; None takes CUDA where torch has it, with one GPU for each process of a machine.
    Raises BackendError for a device that cannot be used.
    """
    world, rank = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", 1), ("RANK", 0)))
    chosen = usable_device(device)
    if world > 1 and chosen == torch.device("cuda"):
        chosen = usable_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
    if world == 1:
        yield Processes(device=chosen)
        return
    if dist.is_initialized():
        yield Processes(rank, world, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Processes(rank, world, chosen)
    finally:
        dist.destroy_process_group()
