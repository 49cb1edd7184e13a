"""What GPU backends ask of a request and of a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from .. import extension
from ..models.ecgtwin import DiT
from .cpu_support import DTYPES, module_reasons
from .request import Request

OLDEST = (8, 0)
"""The compute capability that every kernel needs: asynchronous copies, and products of bfloat16."""


def machine_reasons() -> list[str]:
    """Why no CUDA kernel of this package can run here; empty if one can."""
    reasons = [extension.CUDA_REASON] if extension.CUDA_REASON else []
    if not torch.cuda.is_available():
        reasons.append("torch sees no CUDA device")
    return reasons


def device_reasons(device: torch.device) -> list[str]:
    """Why a CUDA device is too old; empty if it is not, or is none."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return []
    found = torch.cuda.get_device_capability(device)
    if found >= OLDEST:
        return []
    oldest, found = (".".join(map(str, capability)) for capability in (OLDEST, found))
    return [f"it needs a GPU of compute capability {oldest} or newer, and {device} has {found}"]


def network_reasons(network: nn.Module, dtype: torch.dtype, device: str, kind: type, name: str) -> list[str]:
    """Why a network that must be `models.create(name)`, a `kind`, cannot run on `device` by the CUDA operators."""
    reasons = machine_reasons() if device == "cuda" else []
    if dtype not in DTYPES:
        reasons.append(f"dtype must be torch.float32 or torch.bfloat16, but it is {dtype}")
    if type(network) is not kind:
        return [*reasons, f"it runs models.create({name!r}) alone, and this one is a {type(network).__name__}"]
    return reasons + module_reasons(network, device) + device_reasons(next(network.parameters()).device)


def request_reasons(
    request: Request,
    device: str,
    size_reasons: Callable[[nn.Module], list[str]],
    served: Mapping[type, str] = MappingProxyType({DiT: "dit"}),
) -> list[str]:
    """Why a request cannot be served on `device`, whatever its dtype. served: denoisers and what `models.create` calls
    them; their sizes by `size_reasons`."""
    reasons = [] if request.edit is None else ["it does not edit records"]
    denoiser = request.denoiser
    if type(denoiser) not in served:
        kind, names = type(denoiser).__name__, " and ".join(f"models.create({name!r})" for name in served.values())
        return [*reasons, f"it runs the denoiser {names} alone, and this one is a {kind}"]
    reasons += module_reasons(denoiser, device) + device_reasons(request.device)
    return reasons + size_reasons(denoiser)
