"""Backend "cpu": whole trajectories of the denoiser `dit` in one call of C++ (csrc/denoiser.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.ecgtwin import DiT
from .cpu_denoiser import PackedDenoiser, conditions, denoise, embed_timesteps, pack_denoiser, project_bases
from .cpu_support import PackCache, module_reasons, precision_reasons, size_reasons
from .packing import Layout, layout
from .request import Request
from .watch import watched

_denoisers = PackCache(pack_denoiser)


class Cpu:
    """Takes each record through all steps on one thread (the last ones on several), in float32 or bfloat16.

    bfloat16 holds for the products alone; sums, norms, softmax and the residual stream are float32. A record has the
    same bits in any batch.
    """

    name = "cpu"
    device = "cpu"

    def not_supported_reasons(self, request: Request) -> list[str]:
        reasons = precision_reasons(request.dtype)
        denoiser = request.denoiser
        if type(denoiser) is not DiT:
            return [*reasons, f"it runs the denoiser models.create('dit') alone, and this one is a {_kind(denoiser)}"]
        reasons += module_reasons(denoiser)
        return reasons + size_reasons(
            denoiser.x_embedder.out_features, denoiser.blocks[0].attn1.num_heads, denoiser.length
        )

    def run(self, request: Request) -> Tensor:
        order = layout(request.dtype)
        packed = _denoisers.get(request.denoiser, order)
        with torch.no_grad():
            return _run(request, packed, order)


def _kind(denoiser: object) -> str:
    return type(denoiser).__name__


def _run(request: Request, packed: PackedDenoiser, order: Layout) -> Tensor:
    denoiser = request.denoiser
    given = (request.text_embed, request.patient, request.base_vector)
    text, patient, base = (value.to("cpu", torch.float32) for value in given)
    mask = None if request.text_mask is None else request.text_mask.to("cpu")
    known = conditions(denoiser, packed.cross, text, mask, patient, order)
    bases = project_bases(denoiser, base)
    time = embed_timesteps(denoiser, request.schedule.timesteps)
    x_init, noise = (
        None if value is None else value.to("cpu", torch.float32).contiguous()
        for value in (request.x_init, request.noise)
    )
    batch, _, length = request.shape
    edit = (1, 0, None, None)
    if request.edit is not None:
        first_step = request.edit.first_step(request.schedule.timesteps)
        scales = request.edit.scales.to("cpu", torch.float32).contiguous()
        edit = (request.edit.group, first_step, request.statements.cpu(), scales)

    def call(status: Tensor) -> Tensor:
        return denoise(
            packed, known, bases, time, request.schedule.coefficients, request.dtype, status,
            x_init, noise, request.seed, request.first_index, edit,
        )  # fmt: skip

    steps = request.schedule.steps
    return watched(call, batch * (length // order.tile) * steps, steps, request.progress)
