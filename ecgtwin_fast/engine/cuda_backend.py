"""Backend "cuda": whole trajectories of the denoiser `dit` in one launch of a CUDA kernel (csrc/cuda/trajectory.cu)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.ecgtwin import DiT
from .cpu_support import PackCache
from .cuda_denoiser import PackedDenoiser, known_conditions, pack_denoiser
from .cuda_trajectory import COMPILED, Draws, Kernels, run
from .gpu_conditions import project_bases
from .gpu_support import machine_reasons, request_reasons
from .gpu_weights import sizes_of
from .request import Request

SIZES = ((256, 32), (128, 32), (64, 32), (32, 16))
"""Widths, and widths of a head, that the kernel is compiled for."""
LENGTHS = (32, 64, 96, 128)
MOST_CHANNELS = 4


def _size_reasons(denoiser: DiT) -> list[str]:
    sizes = sizes_of(denoiser)
    reasons = []
    if (sizes.width, sizes.head) not in SIZES or sizes.width % sizes.heads:
        compiled = ", ".join(f"{width} in {width // head}" for width, head in SIZES)
        reasons.append(f"it is compiled for widths {compiled} heads, and this one has {sizes.width} in {sizes.heads}")
    elif sizes.units % (2 * sizes.head):
        wanted = f"a multiple of {2 * sizes.head}"
        reasons.append(f"the hidden units of the MLP must be {wanted}, but there are {sizes.units}")
    if sizes.length not in LENGTHS:
        allowed = ", ".join(map(str, LENGTHS))
        reasons.append(f"the length of a latent must be one of {allowed}, but it is {sizes.length}")
    if sizes.channels > MOST_CHANNELS:
        reasons.append(f"a latent must have at most {MOST_CHANNELS} channels, but it has {sizes.channels}")
    return reasons


class Cuda:
    """Takes each record through all steps on one multiprocessor, its activations in registers and shared memory.

    Operands of products are bfloat16; sums, norms, softmax and the residual stream are float32. A record has the same
    bits in any batch. With a progress callback it is launched for each step, and waits for it.
    """

    name = "cuda"

    def __init__(self, device: str = "cuda", kernels: Kernels = COMPILED):
        # "cpu" is for the tests, with kernels that are emulated.
        self.device, self.kernels = device, kernels
        self._denoisers = PackCache(lambda denoiser, _: pack_denoiser(denoiser))

    def not_supported_reasons(self, request: Request) -> list[str]:
        reasons = machine_reasons() if self.device == "cuda" else []
        if request.dtype != torch.bfloat16:
            reasons.append(f"dtype must be torch.bfloat16, but it is {request.dtype}")
        return reasons + request_reasons(request, self.device, _size_reasons)

    def run(self, request: Request) -> Tensor:
        device = request.device
        packed = self._denoisers.get(request.denoiser, None)
        with torch.no_grad(), torch.cuda.device(device if device.type == "cuda" else -1):
            return self._run(request, packed)

    def _run(self, request: Request, packed: PackedDenoiser) -> Tensor:
        device, schedule = packed.device, request.schedule
        given = (request.text_embed, request.patient, request.base_vector)
        text, patient, base = (value.to("cpu", torch.float32) for value in given)
        mask = None if request.text_mask is None else request.text_mask.cpu()
        time = request.denoiser.t_embedder(schedule.timesteps.to(device))
        noise, x_init = (
            None if value is None else value.to(device, torch.float32).contiguous()
            for value in (request.noise, request.x_init)
        )
        known = known_conditions(packed, self.kernels.linear, text, mask, patient)
        bases = project_bases(packed.modulation, self.kernels.linear, base)
        draws = Draws(request.seed, request.first_index, x_init, noise)
        # Under the emulation any number of blocks does.
        blocks = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
        return run(packed, self.kernels, known, bases, time, schedule, draws, request.progress, blocks)
