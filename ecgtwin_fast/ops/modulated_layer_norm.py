"""LayerNorm without affine, modulated by a shift and a scale per record (AdaLN)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .operator import Operator, Tolerance, compiled, register


def reference(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    normed = functional.layer_norm(x, x.shape[-1:], eps=eps)
    return normed * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def modulated_layer_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """LayerNorm over the last dimension, times 1 + scale, plus shift.

    The norm of every block of the denoiser (ECGTwin, arXiv 2508.02720; adaLN of Peebles and Xie 2023). Differentiable
    once in x, shift and scale; accumulates in float32 (float64 for float64).

    Args:
        x: (B, L, D), float32, bfloat16 or float64. shift, scale: (B, D) of the same dtype; views such as those of
            `chunk(6, dim=-1)` are read in place.
        eps: added to the variance.

    Returns:
        (B, L, D), contiguous, of x's dtype.

    Raises:
        RuntimeError: a shape, dtype or device that does not fit.
    """
    if compiled(x):
        return torch.ops.ecgtwin_fast.modulated_layer_norm(x, shift, scale, eps)
    return reference(x, shift, scale, eps)


OPERATOR = Operator(
    "modulated_layer_norm",
    reference,
    {
        torch.float32: Tolerance(rtol=1e-5, atol=1e-5, cosine=1 - 1e-9, bias=1e-6),
        torch.bfloat16: Tolerance(rtol=2e-2, atol=5e-2, cosine=1 - 1e-4, bias=2e-3),
        torch.float64: Tolerance(rtol=1e-12, atol=1e-12, cosine=1 - 1e-12, bias=1e-12),
    },
)


def _fake(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output) -> None:
    x, _, scale, ctx.eps = inputs
    ctx.save_for_backward(x, scale)


def _backward(ctx, grad: Tensor):
    x, scale = ctx.saved_tensors
    return *torch.ops.ecgtwin_fast.modulated_layer_norm_backward(grad, x, scale, ctx.eps), None


def _backward_fake(grad: Tensor, x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return _fake(x, scale, scale), x.new_empty(scale.shape), x.new_empty(scale.shape)


register("modulated_layer_norm", _fake, _backward, _save)
register("modulated_layer_norm_backward", _backward_fake)
