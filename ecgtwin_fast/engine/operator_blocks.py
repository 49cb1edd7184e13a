"""Parts of the transformers between two latents, by this package's operators: what training and inference share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.ecgtwin import AdaXBlock, CrossAttention
from ..ops import gated_residual, modulated_layer_norm, multihead_attention, tanh_gelu


class Affine(NamedTuple):
    """A LayerNorm with affine as a modulated one: shift and scale (D,)."""

    shift: Tensor
    scale: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm, dtype: torch.dtype) -> Self:
        return cls(norm.bias.to(dtype), (norm.weight - 1).to(dtype), norm.eps)

    def rows(self, records: int) -> tuple[Tensor, Tensor]:
        """Shift and scale (records, D)."""
        return self.shift.expand(records, -1), self.scale.expand(records, -1)


class Statements(NamedTuple):
    """Keys and values (B, T, D) of the statements in a block, and the norm of its queries."""

    keys: Tensor
    values: Tensor
    query_norm: Affine


def affine_norm(x: Tensor, norm: Affine) -> Tensor:
    return modulated_layer_norm(x, *norm.rows(len(x)), norm.eps)


def residual_norm(x: Tensor, gate: Tensor, y: Tensor, norm: Affine) -> tuple[Tensor, Tensor]:
    """x + gate * y, and its norm."""
    return gated_residual(x, gate, y, *norm.rows(len(x)), norm.eps)


def hidden_bias(padding: Tensor) -> Tensor:
    """The bias (B, T) that hides the tokens where `padding` is true."""
    return torch.zeros(padding.shape, device=padding.device).masked_fill_(padding, float("-inf"))


def self_attention(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    packed = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    return attention.out_proj(multihead_attention(*packed, None, attention.num_heads))


def statements_attention(attention: CrossAttention, x: Tensor, known: Statements, bias: Tensor | None) -> Tensor:
    query = affine_norm(attention.q_proj(x), known.query_norm)
    return attention.out_proj(multihead_attention(query, known.keys, known.values, bias, attention.heads))


def gelu_mlp(mlp: nn.Sequential, x: Tensor) -> Tensor:
    up, _, down = mlp
    return down(tanh_gelu(up(x)))


def adax_blocks(
    blocks: Iterable[AdaXBlock],
    h: Tensor,
    modulations: Sequence[Sequence[Tensor]],
    statements: Sequence[Statements],
    bias: Tensor | None,
) -> Tensor:
    """All blocks of a `DiT` on h (B, L, D).

    Args:
        modulations: of each block its shift, scale and gate (B, D), twice. bias: (B, T), of the statements' scores.
    """
    ones, zeros = h.new_ones(h.shape[0], h.shape[2]), h.new_zeros(h.shape[0], h.shape[2])
    normed = modulated_layer_norm(h, *modulations[0][:2])
    for index, block in enumerate(blocks):
        _, _, gate1, shift2, scale2, gate2 = modulations[index]
        h, normed = gated_residual(h, gate1, self_attention(block.attn1, normed), zeros, zeros)
        attended = statements_attention(block.attn2, normed, statements[index], bias)
        h, normed = gated_residual(h, ones, attended, shift2, scale2)
        following = modulations[index + 1][:2] if index + 1 < len(modulations) else (zeros, zeros)
        h, normed = gated_residual(h, gate2, gelu_mlp(block.mlp, normed), *following)
    return h
