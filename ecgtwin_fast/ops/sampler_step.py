"""One step of any of the samplers, with its noise drawn in the kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from ecgtwin_fast import philox, samplers

from .operator import Operator, Tolerance, compiled, register


def reference(
    x: Tensor,
    eps: Tensor,
    x0_prev: Tensor | None,
    noise: Tensor | None,
    coefficients: Tensor,
    seed: int,
    first_index: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    if noise is None:
        records = torch.arange(first_index, first_index + x.shape[0], device=x.device)
        noise = philox.normal(seed, records, step, x[0].numel()).reshape(x.shape).to(x.dtype)
    return samplers.step(x, eps, x0_prev, noise, coefficients)


def signed(seed: int) -> int:
    """A seed as the signed integer of the same 64 bits, which is what operators take."""
    return seed - 2**64 if seed >= 2**63 else seed


def sampler_step(
    x: Tensor,
    eps: Tensor,
    x0_prev: Tensor | None,
    noise: Tensor | None,
    coefficients: Tensor,
    seed: int,
    first_index: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """One step of DDPM, DDIM or DPM-Solver++, all one linear form (see `ecgtwin_fast.samplers`).

    Its float32 results equal the reference's to the bit, noise included (see `ecgtwin_fast.philox`). Not
    differentiable. Nothing waits for the device.

    Args:
        x, eps: (B, ...), float32, bfloat16 or float64; the computation is in float32 (float64 for float64).
        x0_prev: the x0 of the step before, like x; None leaves its term out.
        noise: standard normal, like x; None draws it where k_noise is not zero, keyed by `seed` (0..2^64-1), the record
            index `first_index` + b and `step`.
        coefficients: float32 (8,) on the device of x, a row of `samplers.Schedule.coefficients`.

    Returns:
        The next x and the predicted x0, each like x and contiguous.

    Raises:
        RuntimeError: a shape, dtype, device or index that does not fit.
    """
    if compiled(x):
        return torch.ops.ecgtwin_fast.sampler_step(
            x, eps, x0_prev, noise, coefficients, signed(seed), first_index, step
        )
    return reference(x, eps, x0_prev, noise, coefficients, seed, first_index, step)


def sampler_step_(
    x: Tensor, x0: Tensor, eps: Tensor, noise: Tensor | None, coefficients: Tensor, keys: Tensor
) -> None:
    """`sampler_step` in place, with all that differs from step to step on the device: a CUDA graph of it serves every
    step of every schedule.

    Args:
        x, x0: the latent and the x0 of the step before, contiguous, overwritten by the next ones; before the first step
            x0 is 0. eps, noise: as of `sampler_step`.
        coefficients: float32 (steps, 8), contiguous. keys: int64 (3,) on x's device: seed (its 64 bits), first_index
            and step, which also is the row of `coefficients`. They are not checked.

    Raises:
        RuntimeError: a shape, dtype, layout or device that does not fit. AttributeError: the compiled operators are
            absent.
    """
    torch.ops.ecgtwin_fast.sampler_step_(x, x0, eps, noise, coefficients, keys)


OPERATOR = Operator(
    "sampler_step",
    reference,
    {
        torch.float32: Tolerance(rtol=0.0, atol=0.0, cosine=1 - 1e-9, bias=1e-6),
        torch.bfloat16: Tolerance(rtol=2e-2, atol=6e-2, cosine=1 - 1e-4, bias=2e-3),
        torch.float64: Tolerance(rtol=1e-14, atol=1e-14, cosine=1 - 1e-12, bias=1e-12),
    },
    differentiable=False,
)


def _fake(x, eps, x0_prev, noise, coefficients, seed, first_index, step) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(x, memory_format=torch.contiguous_format),
    )


register("sampler_step", _fake)
