"""Embedding of a latent's positions, with the rotary position encoding of the embedding itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .operator import Operator, Tolerance, compiled, register


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    embedding = functional.linear(x.transpose(1, 2), weight, bias)
    length, width = embedding.shape[1:]
    precision = torch.promote_types(x.dtype, torch.float32)
    frequency = 10000.0 ** (-torch.arange(0, width, 2, device=x.device, dtype=precision) / width)
    angle = torch.arange(length, device=x.device, dtype=precision)[:, None] * frequency
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = embedding.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def rope_embed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear over the channels at each position, then the rotary encoding of its output.

    The first layer of the denoiser and of the individual base extractor (ECGTwin, arXiv 2508.02720): with e = weight
    x + bias and h = D / 2, out[i] = e[i] cos - e[i + h] sin and out[i + h] = e[i + h] cos + e[i] sin, the angle at
    position p being p * 10000^(-2 i / D). Differentiable once in all tensors.

    Args:
        x: (B, C, L), float32, bfloat16 or float64. weight: (D, C), D even. bias: (D,). All of one dtype.

    Returns:
        (B, L, D), contiguous, of x's dtype.

    Raises:
        RuntimeError: a shape, dtype or device that does not fit.
    """
    if compiled(x):
        return torch.ops.ecgtwin_fast.rope_embed(x, weight, bias)
    return reference(x, weight, bias)


OPERATOR = Operator(
    "rope_embed",
    reference,
    {
        # The reference's float32 angles are off by up to 6e-8 of the position.
        torch.float32: Tolerance(rtol=1e-5, atol=2e-4, cosine=1 - 1e-9, bias=1e-6),
        torch.bfloat16: Tolerance(rtol=2e-2, atol=1e-1, cosine=1 - 1e-4, bias=2e-3),
        torch.float64: Tolerance(rtol=1e-11, atol=1e-11, cosine=1 - 1e-12, bias=1e-12),
    },
)


def _fake(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[2], weight.shape[0])


def _save(ctx, inputs, output) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad: Tensor):
    return torch.ops.ecgtwin_fast.rope_embed_backward(grad, *ctx.saved_tensors)


def _backward_fake(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(weight.shape), x.new_empty(weight.shape[0])


register("rope_embed", _fake, _backward, _save)
register("rope_embed_backward", _backward_fake)
