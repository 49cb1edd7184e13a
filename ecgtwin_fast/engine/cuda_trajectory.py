"""Whole trajectories by the CUDA kernel: one launch, or as many as progress and the modulation's table ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..samplers import Progress, Schedule
from .cuda_denoiser import Conditions, PackedDenoiser
from .gpu_conditions import Bases, Linear

MODULATION_BYTES = 1 << 30
"""Of the table of the modulation, which holds a row for each distinct base vector and step of a launch."""


class Kernels(NamedTuple):
    """The two kernels that a trajectory needs: `linear` as in gpu_conditions.py, and `trajectory` with the arguments of
    torch.ops.ecgtwin_fast.cuda_trajectory."""

    linear: Linear
    trajectory: Callable[..., None]


COMPILED = Kernels(
    lambda x, weight, bias: torch.ops.ecgtwin_fast.cuda_linear(x.contiguous(), weight, bias),
    lambda *arguments: torch.ops.ecgtwin_fast.cuda_trajectory(*arguments),
)
"""Of the compiled module."""


class Draws(NamedTuple):
    """Keys of the draws, and what is given instead of them: (B, C, L) and (steps, B, C, L), float32, or None."""

    seed: int
    first_index: int
    x_init: Tensor | None
    noise: Tensor | None


def run(
    packed: PackedDenoiser,
    kernels: Kernels,
    known: Conditions,
    bases: Bases,
    time: Tensor,
    schedule: Schedule,
    draws: Draws,
    progress: Progress | None,
    blocks: int,
) -> Tensor:
    """Latents (B, C, L), float32. time: embedded timesteps (steps, D). blocks: of threads, at most."""
    sizes, device = packed.sizes, packed.device
    records = len(known.of_record)
    shape = (records, sizes.channels, sizes.length)
    latents = torch.empty(shape, device=device) if draws.x_init is None else draws.x_init.clone()
    clean, taken = torch.empty(shape, device=device), torch.empty(1, dtype=torch.int32, device=device)
    coefficients, base_of = schedule.coefficients.to(device), bases.of_record.to(device)
    # Operators take signed integers: the upper half of the seeds wraps around.
    seed = draws.seed - 2**64 if draws.seed >= 2**63 else draws.seed

    length = _steps_at_once(len(bases.rows), sizes.depth * 8 * sizes.width, schedule.steps, progress)
    for first in range(0, schedule.steps, length):
        part = slice(first, first + length)
        rows = F.silu(time[part] + bases.rows[:, None]).to(packed.modulation.weight.dtype)
        table = kernels.linear(rows, packed.modulation.weight[None], packed.modulation.bias[None])
        table = table.unflatten(-1, (sizes.depth, 2, 3, sizes.width))
        table = torch.cat([table, table[..., 2:, :] * packed.gated_biases[:, :, None]], dim=-2)
        noise = None if draws.noise is None else draws.noise[part]
        kernels.trajectory(
            list(packed.network), table, base_of, list(known), coefficients[part], noise, latents, clean, taken.zero_(),
            sizes.head, seed, draws.first_index, first, first == 0 and draws.x_init is None, min(blocks, records),
        )  # fmt: skip
        if progress is not None:
            if device.type == "cuda":
                torch.cuda.current_stream().synchronize()
            progress(min(first + length, schedule.steps), schedule.steps)
    return latents


def _steps_at_once(bases: int, row: int, steps: int, progress: Progress | None) -> int:
    return 1 if progress else max(1, min(steps, MODULATION_BYTES // (4 * bases * row)))
