"""The device that work is put on."""

from __future__ import annotations

import torch

from .errors import BackendError


def usable_device(device: str | torch.device | None) -> torch.device:
    """The named device; without a name CUDA where there is one, else the CPU. BackendError where it cannot be used."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise BackendError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
    return chosen
