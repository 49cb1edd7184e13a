"""Backend "cpu": whole trajectories of the denoiser `dit` in one call of C++ (csrc/denoiser.h)."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from .. import extension
from ..models.ecgtwin import DiT
from .cpu_denoiser import PackedDenoiser, distinct, pack_conditions, pack_denoiser, size_reasons
from .packing import Layout, layout
from .request import Request
from .watch import watched

DTYPES = (torch.float32, torch.bfloat16)


def precision_reasons(dtype: torch.dtype) -> list[str]:
    """Why the CPU engines cannot compute in `dtype` here; empty if they can."""
    if extension.MODULE is None:
        return [extension.REASON]
    if dtype not in DTYPES:
        return [f"dtype must be torch.float32 or torch.bfloat16, but it is {dtype}"]
    if layout(dtype) is None:
        needed = "AVX512_BF16" if dtype == torch.bfloat16 else "AVX2 and FMA"
        return [f"{dtype} needs {needed}, and the CPU kernels in use are {extension.MODULE.cpu_level()}"]
    return []


def module_reasons(network: nn.Module) -> list[str]:
    """Why the weights of a network cannot be taken as they are."""
    reasons = []
    other = {str(weight.dtype) for weight in network.parameters()} - {"torch.float32"}
    if other:
        reasons.append(f"the weights must be torch.float32, but some are {', '.join(sorted(other))}")
    devices = {weight.device.type for weight in network.parameters()} - {"cpu"}
    if devices:
        reasons.append(f"the weights must be on the CPU, but some are on {', '.join(sorted(devices))}")
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        reasons.append("the network has forward hooks, which would not be called")
    return reasons


class PackCache:
    """Packed weights of networks, made when first needed and again after the weights change in place."""

    def __init__(self, pack):
        self._pack = pack
        self._packed: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()

    def get(self, network: nn.Module, order: Layout):
        state = tuple((weight.data_ptr(), weight._version) for weight in network.parameters())
        known = self._packed.setdefault(network, {})
        if order not in known or known[order][0] != state:
            with torch.no_grad():
                known[order] = (state, self._pack(network, order))
        return known[order][1]


_denoisers = PackCache(pack_denoiser)


class Cpu:
    """Takes each record through all steps on one thread (the last ones on several), in float32 or bfloat16.

    bfloat16 holds for the products alone; sums, norms, softmax and the residual stream are float32. A record has the
    same bits in any batch.
    """

    name = "cpu"

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
    conditions = pack_conditions(denoiser, text, mask, patient, order)
    first, base_of = distinct((row,) for row in base)
    # One by one, because a product's rounding may depend on how many rows it has.
    bases = torch.cat([denoiser.ib_projector(base[record : record + 1].clone()) for record in first])
    time = denoiser.t_embedder(request.schedule.timesteps)
    x_init, noise = (
        None if value is None else value.to("cpu", torch.float32).contiguous()
        for value in (request.x_init, request.noise)
    )
    # Operators take signed integers: the upper half of the seeds wraps around.
    seed = request.seed - 2**64 if request.seed >= 2**63 else request.seed
    batch, _, length = request.shape

    def call(status: Tensor) -> Tensor:
        return torch.ops.ecgtwin_fast.cpu_denoise(
            packed.network,
            packed.blocks,
            conditions.keys,
            conditions.values,
            conditions.bias,
            conditions.of_record,
            time,
            bases,
            base_of,
            x_init,
            noise,
            request.schedule.coefficients,
            packed.heads,
            packed.ratio,
            packed.length,
            request.dtype == torch.bfloat16,
            seed,
            request.first_index,
            torch.get_num_threads(),
            status,
        )

    steps = request.schedule.steps
    return watched(call, batch * (length // order.tile) * steps, steps, request.progress)
