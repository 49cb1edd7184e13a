"""Whole trajectories of some records: the tensors of a step, and the step captured once for all of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.sampler_step import sampler_step, sampler_step_, signed
from ..philox import INITIAL_STEP
from ..samplers import COEFFICIENTS, TRAIN_STEPS
from .cuda_graph import Replayed
from .graph_denoiser import Known, PackedDenoiser
from .request import Request

MODULATION_BYTES = 256 << 20
"""Of the table of the modulation, which holds a row for each record and step."""
TOKENS_MULTIPLE = 8
"""Reports are filled up to a multiple of so many statements, so that one graph serves several lengths."""
ONLY_NOISE = [float(name == "k_noise") for name in COEFFICIENTS]


class Tensors(NamedTuple):
    """What a step reads and writes. state: seed, first index, step, and the step's place in the table."""

    latents: Tensor
    clean: Tensor
    noise: Tensor | None
    coefficients: Tensor
    state: Tensor
    table: Tensor
    keys: Tensor
    values: Tensor
    bias: Tensor


class Trajectory:
    """Takes records under conditions of one shape through all steps of any schedule.

    Which step it is, its coefficients and the key of its draws are read from the device. Replayed, a step outruns
    Python, which only waits where it has progress to report.
    """

    def __init__(self, packed: PackedDenoiser, known: Known, given_noise: bool):
        self.packed = packed
        net, device, dtype = packed.network, known.vector.device, packed.dtype
        blocks, records, tokens, width = known.keys.shape
        tokens = -(-tokens // TOKENS_MULTIPLE) * TOKENS_MULTIPLE
        shape = (records, net.channels, net.length)
        row = packed.modulation(known.vector).shape[-1]
        places = max(1, min(TRAIN_STEPS, MODULATION_BYTES // (dtype.itemsize * records * row)))

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.tensors = Tensors(
            zeros(*shape),
            zeros(*shape),
            zeros(*shape) if given_noise else None,
            zeros(TRAIN_STEPS, len(COEFFICIENTS)),
            zeros(4, dtype=torch.int64),
            zeros(places, records, row, dtype=dtype),
            zeros(blocks, records, tokens, width, dtype=dtype),
            zeros(blocks, records, tokens, width, dtype=dtype),
            zeros(records, tokens),
        )
        self._replayed = Replayed(self._step, device)

    def _step(self) -> None:
        own = self.tensors
        row = own.table.index_select(0, own.state[3:])[0]
        epsilon = self.packed.epsilon(own.latents, row, own.keys, own.values, own.bias)
        sampler_step_(own.latents, own.clean, epsilon, own.noise, own.coefficients, own.state[:3])
        own.state[2:].add_(1)

    def run(self, request: Request, known: Known, time: Tensor) -> Tensor:
        """Latents (B, C, L), float32. time: embedded timesteps (steps, D)."""
        own, steps = self.tensors, request.schedule.steps
        places = len(own.table)
        with self._replayed.turn() as step:
            self._fill(request, known)
            for i in range(steps):
                if i % places == 0:
                    self._fill_table(known.vector + time[i : i + places, None])
                if own.noise is not None:
                    own.noise.copy_(request.noise[i])
                step()
                if request.progress is not None:
                    if own.latents.is_cuda:
                        torch.cuda.current_stream().synchronize()
                    request.progress(i + 1, steps)
            return own.latents.clone()

    def _fill(self, request: Request, known: Known) -> None:
        own = self.tensors
        for buffer, values in ((own.keys, known.keys), (own.values, known.values)):
            buffer.zero_()[:, :, : values.shape[2]] = values
        own.bias.fill_(float("-inf"))[:, : known.bias.shape[1]] = known.bias
        own.coefficients[: request.schedule.steps] = request.schedule.coefficients.to(own.coefficients.device)
        own.state.copy_(torch.tensor([signed(request.seed), request.first_index, 0, 0]))
        own.clean.zero_()
        if request.x_init is None:
            drawn = own.coefficients.new_tensor(ONLY_NOISE)
            key = (request.seed, request.first_index, INITIAL_STEP)
            own.latents.copy_(sampler_step(own.clean, own.clean, None, None, drawn, *key)[0])
        else:
            own.latents.copy_(request.x_init)

    def _fill_table(self, c: Tensor) -> None:
        own = self.tensors
        own.table[: len(c)] = self.packed.modulation(c)
        own.state[3].zero_()


def trajectory(packed: PackedDenoiser, known: Known, given_noise: bool) -> Trajectory:
    """One of these shapes; the last few are kept, with their tensors and graphs."""
    tokens = -(-known.keys.shape[2] // TOKENS_MULTIPLE)
    key = (len(known.vector), tokens, given_noise)
    return packed.recent.get(key, lambda: Trajectory(packed, known, given_noise))
