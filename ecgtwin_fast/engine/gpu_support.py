"""What GPU backends ask of a request and of a device."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..models.ecgtwin import DiT
from .cpu_support import module_reasons
from .request import Request

OLDEST = (8, 0)
"""The compute capability that every kernel needs: asynchronous copies, and products of bfloat16."""


def device_reasons(device: torch.device) -> list[str]:
    """Why a CUDA device is too old; empty if it is not, or is none."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return []
    found = torch.cuda.get_device_capability(device)
    if found >= OLDEST:
        return []
    oldest, found = (".".join(map(str, capability)) for capability in (OLDEST, found))
    return [f"it needs a GPU of compute capability {oldest} or newer, and {device} has {found}"]


def request_reasons(request: Request, device: str, size_reasons: Callable[[DiT], list[str]]) -> list[str]:
    """Why a request cannot be served on `device`, whatever its dtype; the sizes of a `DiT` by `size_reasons`."""
    reasons = [] if request.edit is None else ["it does not edit records"]
    denoiser = request.denoiser
    if type(denoiser) is not DiT:
        kind = type(denoiser).__name__
        return [*reasons, f"it runs the denoiser models.create('dit') alone, and this one is a {kind}"]
    reasons += module_reasons(denoiser, device) + device_reasons(request.device)
    return reasons + size_reasons(denoiser)
