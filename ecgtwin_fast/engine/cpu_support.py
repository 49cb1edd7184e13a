"""What the CPU engines share: why they cannot run, packed weights kept, parts of a transformer block."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from .. import extension
from .packing import Layout, layout

HEAD_MULTIPLE, LENGTH_MULTIPLE = 8, 64
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


def weights_of(network: nn.Module) -> list[Tensor]:
    """All parameters, in the order of the modules; quicker than `parameters()`, which looks for duplicates."""
    return [weight for module in network.modules() for weight in module._parameters.values() if weight is not None]


def module_reasons(network: nn.Module, device: str = "cpu") -> list[str]:
    """Why the weights of a network cannot be taken as they are by an engine for this type of device."""
    reasons, weights = [], weights_of(network)
    other = {weight.dtype for weight in weights} - {torch.float32}
    if other:
        reasons.append(f"the weights must be torch.float32, but some are {', '.join(sorted(map(str, other)))}")
    devices = {weight.device.type for weight in weights} - {device}
    if devices:
        wanted = "the CPU" if device == "cpu" else f"a {device.upper()} device"
        reasons.append(f"the weights must be on {wanted}, but some are on {', '.join(sorted(devices))}")
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        reasons.append("the network has forward hooks, which would not be called")
    return reasons


class PackCache:
    """Packed weights of networks, made when first needed and again after the weights change in place."""

    def __init__(self, pack):
        self._pack = pack
        self._packed: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()

    def get(self, network: nn.Module, order: Layout):
        state = tuple((weight.data_ptr(), weight._version) for weight in weights_of(network))
        known = self._packed.setdefault(network, {})
        if order not in known or known[order][0] != state:
            with torch.no_grad():
                known[order] = (state, self._pack(network, order))
        return known[order][1]


def size_reasons(width: int, heads: int, length: int) -> list[str]:
    """What of these sizes the engine's kernels cannot take."""
    reasons = []
    if width % heads or width // heads % HEAD_MULTIPLE:
        reasons.append(
            f"the width of a head must be a multiple of {HEAD_MULTIPLE}, but width {width} has {heads} heads"
        )
    if length % LENGTH_MULTIPLE:
        reasons.append(f"the length of a latent must be a multiple of {LENGTH_MULTIPLE}, but it is {length}")
    return reasons


def mlp_chunks(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The MLP's matrices (ratio D, D) and (D, ratio D) by chunks of D hidden units, each (ratio, D, D)."""
    width = up.shape[1]
    return up.unflatten(0, (-1, width)), down.unflatten(1, (-1, width)).transpose(0, 1)


def attention_parts(in_weight: Tensor, in_bias: Tensor, out: torch.nn.Linear) -> tuple[list[Tensor], list[Tensor]]:
    """Query, key, value and output matrices of a torch.nn attention, and the biases of query and output.

    A bias of the keys adds the same to all scores of a position and cancels in the softmax; that of the values, whose
    weights add up to one, goes through the output projection.
    """
    query, key, value = in_weight.chunk(3)
    query_bias, _, value_bias = in_bias.chunk(3)
    output_bias = (out.bias.double() + out.weight.double() @ value_bias.double()).float()
    return [query, key, value, out.weight], [query_bias, output_bias]
