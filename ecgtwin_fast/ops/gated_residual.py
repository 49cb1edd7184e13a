"""A gated residual fused with the modulated norm that follows it."""

from __future__ import annotations

import torch
from torch import Tensor

from . import modulated_layer_norm as norm
from .operator import Operator, compiled, register


def reference(
    x: Tensor, gate: Tensor, y: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    total = x + gate.unsqueeze(1) * y
    return total, norm.reference(total, shift, scale, eps)


def gated_residual(
    x: Tensor, gate: Tensor, y: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """x + gate * y, and the modulated LayerNorm of that sum, in one pass over memory.

    What lies between two sub-blocks of the denoiser (ECGTwin, arXiv 2508.02720). Differentiable once in all tensors;
    accumulates in float32 (float64 for float64), and norms the sum before it is rounded to the dtype.

    Args:
        x, y: (B, L, D), float32, bfloat16 or float64. gate, shift, scale: (B, D) of the same dtype; views such as those
            of `chunk(6, dim=-1)` are read in place.
        eps: added to the variance.

    Returns:
        The sum and its modulated norm, each (B, L, D), contiguous, of x's dtype.

    Raises:
        RuntimeError: a shape, dtype or device that does not fit.
    """
    if compiled(x):
        return torch.ops.ecgtwin_fast.gated_residual(x, gate, y, shift, scale, eps)
    return reference(x, gate, y, shift, scale, eps)


OPERATOR = Operator("gated_residual", reference, norm.OPERATOR.tolerances)


def _fake(
    x: Tensor, gate: Tensor, y: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(x, memory_format=torch.contiguous_format),
    )


def _save(ctx, inputs, output) -> None:
    _, gate, y, _, scale, ctx.eps = inputs
    ctx.save_for_backward(output[0], gate, y, scale)


def _backward(ctx, grad_sum: Tensor, grad_norm: Tensor):
    saved = ctx.saved_tensors
    return *torch.ops.ecgtwin_fast.gated_residual_backward(grad_sum, grad_norm, *saved, ctx.eps), None


def _backward_fake(grad_sum, grad_norm, total, gate, y, scale, eps):
    rows = [torch.empty_like(total, memory_format=torch.contiguous_format) for _ in range(2)]
    sums = [total.new_empty(scale.shape) for _ in range(3)]
    return rows[0], sums[0], rows[1], sums[1], sums[2]


register("gated_residual", _fake, _backward, _save)
register("gated_residual_backward", _backward_fake)
