"""What all operators have in common: registration, the choice between kernel and reference, tolerances, status."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ecgtwin_fast import extension

BACKENDS = ("reference", "cpu", "cuda", "triton")


@dataclass(frozen=True)
class Tolerance:
    """How far a backend may be from the reference in the same dtype.

    `rtol` and `atol` hold elementwise. As vectors, results and gradients have at least this cosine with the float64
    ones, and their mean error is at most `bias` of the float64 ones' root mean square.
    """

    rtol: float
    atol: float
    cosine: float
    bias: float


@dataclass(frozen=True)
class Operator:
    """An operator of torch.ops.ecgtwin_fast: its definition in PyTorch and how closely backends must follow it.

    `devices` have a compiled kernel where the build has their kind. `saved_outputs`: how many of the compiled
    operator's last outputs only its gradient needs.
    """

    name: str
    reference: Callable
    tolerances: dict[torch.dtype, Tolerance]
    differentiable: bool = True
    devices: tuple[str, ...] = ("cpu", "cuda")
    saved_outputs: int = 0

    def why_not(self, backend: str) -> str | None:
        """One line that says why a backend cannot run this operator here, or None where it can.

        Raises:
            KeyError: a backend that is not in `BACKENDS`.
        """
        no_device = None if torch.cuda.is_available() else "torch sees no CUDA device"
        no_kernel = None if "cuda" in self.devices else "no CUDA kernel is written for it"
        return {
            "reference": None,
            "cpu": extension.REASON,
            "cuda": no_kernel or extension.CUDA_REASON or no_device,
            "triton": "no Triton kernel is written for it",
        }[backend]


@functools.cache
def _warn_fallback(device: str) -> None:
    reason = extension.CUDA_REASON if device == "cuda" else extension.REASON
    warnings.warn(
        f"ecgtwin_fast runs its PyTorch reference on {device}: {reason or 'no kernels exist for this device'}",
        stacklevel=4,
    )


def compiled(x: Tensor) -> bool:
    """Whether kernels exist for the device of x; where the build lacks them, says so once."""
    device = x.device.type
    if device in extension.DEVICES:
        return True
    if not torch.compiler.is_compiling():
        _warn_fallback(device)
    return False


def register(
    name: str, fake: Callable, backward: Callable | None = None, save: Callable | None = None
) -> None:
    """Gives the compiled operator `name` its fake kernel and its gradient, where the extension is loaded.

    `save(ctx, inputs, output)` keeps what `backward(ctx, *grads)` needs. Without them, a gradient is an error that
    says so.
    """
    if extension.MODULE is None:
        return

    def no_gradient(ctx: object, *grads: Tensor) -> None:
        raise NotImplementedError(
            f"ecgtwin_fast::{name} has no gradient; call it on detached tensors or under no_grad"
        )

    qualified = f"ecgtwin_fast::{name}"
    torch.library.register_fake(qualified, fake)
    torch.library.register_autograd(qualified, backward or no_gradient, setup_context=save)
