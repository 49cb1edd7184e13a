"""Attention of queries to keys by heads, for sequences that a cache holds: up to some thousand positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .operator import Operator, Tolerance, compiled, register


def reference(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if bias is not None:
        scores = scores + bias[:, None, None, :].to(scores.dtype)
    return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)


def multihead_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """softmax(query key^T / sqrt(head size) + bias) value, head by head.

    The self-attention and the attention to statements of the denoiser and of the Individual Base Extractor (ECGTwin,
    arXiv 2508.02720). Differentiable once in query, key and value; accumulates in float32 (float64 for float64) and
    keeps no matrix of weights for the gradient.

    Args:
        query: (B, Lq, D), float32, bfloat16 or float64, D a multiple of heads (on CUDA at most 128 times
            as many, 64 for float64). key, value: (B, Lk, D) of the same
            dtype, Lk at least 1. Views whose channels lie side by side, as those of `chunk(3, dim=-1)`, are read in
            place.
        bias: (B, Lk) float32, added to every score of a key: -inf hides it. At least one key of a record must be
            visible. None: no bias.

    Returns:
        (B, Lq, D), contiguous, of query's dtype.

    Raises:
        RuntimeError: a shape, dtype or device that does not fit.
    """
    if compiled(query):
        return torch.ops.ecgtwin_fast.multihead_attention(query, key, value, bias, heads)[0]
    return reference(query, key, value, bias, heads)


OPERATOR = Operator(
    "multihead_attention",
    reference,
    {
        torch.float32: Tolerance(rtol=1e-4, atol=1e-5, cosine=1 - 1e-9, bias=1e-6),
        torch.bfloat16: Tolerance(rtol=3e-2, atol=3e-2, cosine=1 - 1e-4, bias=2e-3),
        torch.float64: Tolerance(rtol=1e-11, atol=1e-11, cosine=1 - 1e-12, bias=1e-12),
    },
    saved_outputs=1,
)


def _fake(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, heads: int) -> tuple[Tensor, Tensor]:
    compute = torch.promote_types(query.dtype, torch.float32)
    statistics = query.new_empty((query.shape[0], heads, 2, query.shape[1]), dtype=compute)
    return query.new_empty(query.shape), statistics


def _save(ctx, inputs, output) -> None:
    query, key, value, bias, ctx.heads = inputs
    ctx.save_for_backward(query, key, value, bias, *output)
    ctx.set_materialize_grads(False)


def _backward(ctx, grad: Tensor | None, _):
    if grad is None:
        return None, None, None, None, None
    grads = torch.ops.ecgtwin_fast.multihead_attention_backward(grad, *ctx.saved_tensors, ctx.heads)
    return *grads, None, None


def _backward_fake(grad, query, key, value, bias, out, statistics, heads):
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


register("multihead_attention", _fake, _backward, _save)
register("multihead_attention_backward", _backward_fake)
