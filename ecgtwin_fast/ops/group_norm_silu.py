"""GroupNorm and the SiLU that follows it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .operator import Operator, Tolerance, compiled, register


def reference(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    return functional.silu(functional.group_norm(x, groups, weight, bias, eps))


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """y sigmoid(y), where y is the GroupNorm of x with affine (Wu and He 2018).

    What stands before every convolution of the autoencoder's residual blocks (DiffuSETS, arXiv 2501.05932, after Stable
    Diffusion's). Differentiable once in x, weight and bias; accumulates in float32 (float64 for float64).

    Args:
        x: (B, C, L), float32, bfloat16 or float64. weight, bias: (C,) of the same dtype.
        groups: a divisor of C. eps: added to the variance.

    Returns:
        (B, C, L) of x's dtype; contiguous, but channels-last where x is: x.transpose(1, 2) contiguous, which the kernel
        on CUDA reads and writes in place.

    Raises:
        RuntimeError: a shape, dtype or device that does not fit.
    """
    if compiled(x):
        return torch.ops.ecgtwin_fast.group_norm_silu(x, weight, bias, groups, eps)[0]
    return reference(x, weight, bias, groups, eps)


OPERATOR = Operator(
    "group_norm_silu",
    reference,
    {
        torch.float32: Tolerance(rtol=1e-5, atol=1e-5, cosine=1 - 1e-9, bias=1e-6),
        torch.bfloat16: Tolerance(rtol=2e-2, atol=5e-2, cosine=1 - 1e-4, bias=2e-3),
        torch.float64: Tolerance(rtol=1e-12, atol=1e-12, cosine=1 - 1e-12, bias=1e-12),
    },
    saved_outputs=1,
)


def _fake(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    statistics = x.new_empty((x.shape[0], groups, 2), dtype=torch.promote_types(x.dtype, torch.float32))
    last = not x.is_contiguous() and x.transpose(1, 2).is_contiguous()
    layout = torch.preserve_format if last else torch.contiguous_format
    return torch.empty_like(x, memory_format=layout), statistics


def _save(ctx, inputs, output) -> None:
    x, weight, bias, ctx.groups, _ = inputs
    ctx.save_for_backward(x, weight, bias, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad: Tensor | None, _):
    if grad is None:
        return None, None, None, None, None
    return *torch.ops.ecgtwin_fast.group_norm_silu_backward(grad, *ctx.saved_tensors, ctx.groups), None, None


def _backward_fake(grad, x, weight, bias, statistics, groups):
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        weight.new_empty(weight.shape),
        bias.new_empty(bias.shape),
    )


register("group_norm_silu", _fake, _backward, _save)
register("group_norm_silu_backward", _backward_fake)
