"""DiffuSETS's U-Net with gradients in less time: the attentions by fewer products (arXiv 2501.05932).

Exact algebra on the weights, through which gradients flow: two linear layers in a row are one, and attention to the one
condition token gives its value whatever the query, so that queries and keys have no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.diffusets import AttentionPair, DiffuSETSUNet
from ..ops import multihead_attention


class UNetTraining:
    """`DiffuSETSUNet.forward` with its arguments and result."""

    def __init__(self, network: DiffuSETSUNet):
        self.network = network

    def __call__(self, x: Tensor, t: Tensor, text_embed: Tensor, condition: dict[str, Tensor]) -> Tensor:
        return self.network(x, t, text_embed, condition, attend=_attend)


def _attend(pair: AttentionPair, h: Tensor, condition: Tensor) -> Tensor:
    """`AttentionPair.attend`."""
    own, cross = pair.self_attention, pair.cross_attention
    h = h.transpose(1, 2)
    heads = own.attention.num_heads
    queries_keys_values = F.linear(own.norm(h), *_inputs(own.attention, (own.to_q, own.to_k, own.to_v)))
    attended = multihead_attention(*queries_keys_values.chunk(3, dim=-1), None, heads)
    h = h + F.linear(attended, *_chained(own.attention.out_proj, own.to_out))
    token = cross.condition_normalization(cross.value_combiner(condition))
    values = F.linear(cross.to_v(token), *_projection(cross.attention, 2))
    return pair.attention_norm(h + cross.to_out(cross.attention.out_proj(values))).transpose(1, 2)


def _projection(attention: nn.MultiheadAttention, part: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of the projection of queries (0), keys (1) or values (2)."""
    return attention.in_proj_weight.chunk(3)[part], attention.in_proj_bias.chunk(3)[part]


def _inputs(attention: nn.MultiheadAttention, outer: tuple[nn.Linear, ...]) -> tuple[Tensor, Tensor]:
    """Weight and bias of all three projections at once, each after its outer layer."""
    inner = [_projection(attention, part) for part in range(3)]
    with _full_precision(attention.in_proj_weight):
        weights = [weight @ layer.weight for layer, (weight, _) in zip(outer, inner, strict=True)]
        biases = [weight @ layer.bias + bias for layer, (weight, bias) in zip(outer, inner, strict=True)]
        return torch.cat(weights), torch.cat(biases)


def _chained(first: nn.Linear, second: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of one layer after the other."""
    with _full_precision(first.weight):
        return second.weight @ first.weight, second.weight @ first.bias + second.bias


def _full_precision(weight: Tensor) -> torch.autocast:
    """Weights are joined in float32, under autocast too."""
    return torch.autocast(weight.device.type, enabled=False)
