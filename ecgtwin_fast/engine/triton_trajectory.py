"""Whole trajectories of some records: their buffers, the launches of a step on them, and its CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops.triton import blocks, latents
from ..philox import INITIAL_STEP
from ..samplers import TRAIN_STEPS, Schedule
from .cuda_graph import captured
from .gpu_conditions import Bases
from .triton_conditions import Conditions, folds
from .triton_denoiser import PackedDenoiser
from .triton_launch import Launch, linear_launch

MODULATION_BYTES = 256 << 20
INITIAL = INITIAL_STEP - 2**32
"""The initial draw's step as a signed word."""


class Buffers(NamedTuple):
    """What the launches of a step read and write, at addresses that stay; see ops/triton."""

    latents: Tensor
    clean: Tensor
    epsilon: Tensor
    x: Tensor
    scratch_a: Tensor
    scratch_b: Tensor
    step: Tensor
    keys: Tensor
    coefficients: Tensor
    modulation: Tensor
    base_of: Tensor
    condition_keys: Tensor
    score_bias: Tensor
    values: Tensor
    condition_of: Tensor


def _buffers(packed: PackedDenoiser, records: int, tokens: int) -> Buffers:
    sizes, device = packed.sizes, packed.device
    heads = sizes.padded // sizes.head
    row = sizes.depth * 6 * sizes.padded
    places = max(1, min(TRAIN_STEPS, MODULATION_BYTES // (4 * records * row)))
    folded = (heads,) if folds(packed, tokens) else ()

    def floats(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    def integers(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    latent, hidden = (records, sizes.channels, sizes.length), (records, sizes.length, sizes.padded)
    per_condition = (records, sizes.depth)
    return Buffers(
        *(floats(*latent) for _ in range(3)),
        floats(*hidden),
        floats(*hidden, dtype=packed.dtype),
        floats(*hidden, dtype=packed.dtype),
        integers(records),
        integers(1 + records, dtype=torch.int64),
        floats(TRAIN_STEPS, 8),
        floats(records, places, sizes.depth, 6, sizes.padded),
        integers(records),
        floats(*per_condition, tokens, sizes.padded, dtype=packed.dtype),
        floats(*per_condition, heads, tokens),
        floats(*per_condition, *folded, tokens, sizes.padded, dtype=packed.dtype),
        integers(records),
    )


class Draws(NamedTuple):
    """Of some records: the seed, their indices (n,), and what is given instead of draws, or None."""

    seed: int
    indices: Tensor
    x_init: Tensor | None
    noise: Tensor | None


class Trajectory:
    """Takes `records` records of one class of tokens through all steps.

    On a CUDA device the launches of one step are captured once in a graph. Which step it is, and its coefficients, are
    read from the device, so the graph serves any schedule; replayed, it outruns Python, which only waits where it has
    progress to report. Where noise is given the launches are not captured.
    """

    def __init__(self, packed: PackedDenoiser, records: int, tokens: int):
        self.packed, self.records, self.tokens = packed, records, tokens
        self.buffers = _buffers(packed, records, tokens)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._free: torch.cuda.Event | None = None

    @property
    def places(self) -> int:
        """Steps whose modulation the table holds at once."""
        return self.buffers.modulation.shape[1]

    def run(
        self, known: Conditions, bases: Bases, time: Tensor, schedule: Schedule, draws: Draws, report: Callable | None
    ) -> Tensor:
        """Latents (records, C, L). time: embedded timesteps (steps, D). report: called after each step is done."""
        on_gpu = self.packed.device.type == "cuda"
        if self._free is not None:
            torch.cuda.current_stream().wait_event(self._free)
        step = self._step(draws.noise)
        if on_gpu and draws.noise is None:
            self._graph = self._graph or captured(step)
            step = self._graph.replay
        self._fill(known, bases, schedule, draws)
        for i in range(schedule.steps):
            if i % self.places == 0:
                self.modulation_launch(bases.rows, time[i : i + self.places])()
            step()
            if report is not None:
                if on_gpu:
                    torch.cuda.current_stream().synchronize()
                report()
        made = self.buffers.latents.clone()
        if on_gpu:
            self._free = torch.cuda.Event()
            self._free.record()
        return made

    def _fill(self, known: Conditions, bases: Bases, schedule: Schedule, draws: Draws) -> None:
        buffers, rows = self.buffers, len(known.keys)
        for buffer, values in (
            (buffers.condition_keys, known.keys),
            (buffers.score_bias, known.score_bias),
            (buffers.values, known.values),
        ):
            buffer[:rows].copy_(values)
        buffers.condition_of.copy_(known.of_record)
        buffers.base_of.copy_(bases.of_record)
        buffers.coefficients[: schedule.steps].copy_(schedule.coefficients)
        buffers.step.zero_()
        # The kernels take the bits: the upper half of the seeds wraps around.
        seed = draws.seed - 2**64 if draws.seed >= 2**63 else draws.seed
        buffers.keys.copy_(torch.cat([torch.tensor([seed]), draws.indices]))
        if draws.x_init is None:
            self.draw_launch()()
        else:
            buffers.latents.copy_(draws.x_init)

    def _step(self, noise: Tensor | None) -> Callable[[], None]:
        launches = self.step_launches(noise)

        def step() -> None:
            for launch in launches:
                launch()

        return step

    def draw_launch(self) -> Launch:
        elements = self.buffers.latents[0].numel()
        constants = {"ELEMENTS": elements, "PADDED": max(4, 1 << (elements - 1).bit_length()), "STEP": INITIAL}
        arguments = (self.buffers.latents, self.buffers.keys)
        return Launch(latents.draw_latents, (self.records,), arguments, constants, _EXACT)

    def modulation_launch(self, bases: Tensor, time: Tensor) -> Launch:
        """Of the table's rows for bases (n, D) at embedded timesteps (s, D), s at most `places`."""
        weights = self.packed.modulation
        rows = F.silu(time + bases[:, None]).to(self.packed.dtype)
        table = self.buffers.modulation.flatten(2)[: len(bases), : len(time)]
        return linear_launch(rows, weights.weight[None], weights.bias[None], table)

    def step_launches(self, noise: Tensor | None = None) -> list[Launch]:
        """All launches of a step, in order."""
        parts = [launch for index in range(self.packed.sizes.depth) for launch in self._block_launches(index)]
        return [self._embedding_launch(), *parts, self._sampler_launch(noise)]

    def _embedding_launch(self) -> Launch:
        sizes, ends, buffers = self.packed.sizes, self.packed.ends, self.buffers
        constants = {"CHANNELS": sizes.channels, "LENGTH": sizes.length, "PADDED": sizes.padded}
        arguments = (buffers.latents, buffers.x, *ends[:4])
        grid = (self.records, sizes.length // latents.NORM_ROWS.value)
        return Launch(latents.embed_latents, grid, arguments, constants, {"num_warps": 4})

    def _sampler_launch(self, noise: Tensor | None) -> Launch:
        sizes, ends, buffers = self.packed.sizes, self.packed.ends, self.buffers
        given = buffers.latents if noise is None else noise
        arguments = (
            buffers.x, buffers.latents, buffers.clean, buffers.epsilon, given, buffers.keys, buffers.step,
            buffers.coefficients, ends.final_weight, ends.final_bias,
        )  # fmt: skip
        elements = max(4, 1 << (sizes.channels * sizes.length - 1).bit_length())
        constants = {"CHANNELS": sizes.channels, "LENGTH": sizes.length, "PADDED": sizes.padded}
        constants |= {"ELEMENTS": elements, "GIVEN": noise is not None}
        return Launch(latents.sampler_step, (self.records,), arguments, constants, _EXACT)

    def _block_launches(self, index: int) -> list[Launch]:
        sizes, tiles, buffers, block = self.packed.sizes, self.packed.tiles, self.buffers, self.packed.blocks[index]
        scratch = (buffers.scratch_a, buffers.scratch_b)
        modulation = (buffers.modulation[:, :, index], buffers.base_of, buffers.step)
        common = {"LENGTH": sizes.length, "WIDTH": sizes.width, "PADDED": sizes.padded}
        table = {"PLACES": self.places, "MODULATION_STRIDE": buffers.modulation.stride(1)}

        tile = tiles.self_attention
        own = Launch(
            blocks.self_attention,
            (self.records,),
            (buffers.x, *scratch, *modulation, *block[:4]),
            common | table | {"HEAD": sizes.head, "INNER": tile.inner, "COLUMNS": tile.columns},
            {"num_warps": tile.warps, "num_stages": tile.stages},
        )

        tile = tiles.condition_attention
        tables = (buffers.condition_keys, buffers.score_bias, buffers.values)
        strides = dict(zip(("KEY_STRIDE", "BIAS_STRIDE", "VALUE_STRIDE"), (t.stride(0) for t in tables), strict=True))
        condition = Launch(
            blocks.condition_attention,
            (self.records, sizes.length // tile.rows),
            (buffers.x, *scratch, buffers.condition_of, *(t[:, index] for t in tables), *block[4:8]),
            common | strides | {
                "HEAD": sizes.head, "TOKENS": self.tokens, "FOLDED": folds(self.packed, self.tokens), "ROWS": tile.rows,
                "INNER": tile.inner, "COLUMNS": tile.columns,
            },
            {"num_warps": tile.warps, "num_stages": tile.stages},
        )  # fmt: skip

        tile = tiles.mlp
        mlp = Launch(
            blocks.mlp,
            (self.records, sizes.length // tile.rows),
            (buffers.x, buffers.scratch_a, *modulation, *block[8:]),
            common | table | {
                "UNITS": sizes.units, "APPROXIMATE": self.packed.dtype == torch.bfloat16, "ROWS": tile.rows,
                "INNER": tile.inner, "CHUNK": tile.columns,
            },
            {"num_warps": tile.warps, "num_stages": tile.stages},
        )  # fmt: skip
        return [own, condition, mlp]


# Draws are the same numbers everywhere: no multiplication is fused with an addition.
_EXACT = {"num_warps": 4, "enable_fp_fusion": False}


def trajectory(packed: PackedDenoiser, records: int, tokens: int) -> Trajectory:
    """One with these sizes; the last few are kept, with their buffers and graphs."""
    return packed.recent.get((records, tokens), lambda: Trajectory(packed, records, tokens))
