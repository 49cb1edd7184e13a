"""Conditions of a transformer's cross-attention, computed once: what of it does not depend on the positions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .packing import LOG2_E, Layout, dwords, padded, strips

FAR_BELOW_ZERO = -1e30


class Conditions(NamedTuple):
    """Distinct conditions (keys, values and score biases, one each) and which of them each record has."""

    keys: list[Tensor]
    values: list[Tensor]
    bias: list[Tensor]
    of_record: Tensor


def distinct(rows: Iterable[tuple[Tensor, ...]]) -> tuple[list[int], Tensor]:
    """Where each distinct row occurs first, and for every row the number of the distinct one that it equals."""
    numbers: dict[tuple[bytes, ...], int] = {}
    first, of_row = [], []
    for index, row in enumerate(rows):
        key = tuple(part.contiguous().numpy().tobytes() for part in row)
        if key not in numbers:
            numbers[key] = len(first)
            first.append(index)
        of_row.append(numbers[key])
    return first, torch.tensor(of_row)


class CrossWeights(NamedTuple):
    """What makes keys and values of tokens (T, D), for all blocks at once; L is the depth, H the number of heads.

    Attributes:
        projection: (2 L D, D) and its bias (2 L D): keys and values of a block, then of the next.
        norm: weight and bias, (2, L, D) each, of the keys' and values' LayerNorms; None where there are none.
        output: output projections by head (L H, D, D / H). output_bias: (L, D).
    """

    projection: Tensor
    projection_bias: Tensor
    norm: tuple[Tensor, Tensor] | None
    output: Tensor
    output_bias: Tensor


def output_by_head(weight: Tensor, heads: int) -> Tensor:
    """Output projections (L, D, D) as `CrossWeights.output`."""
    return weight.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1).contiguous()


def keys_and_values(tokens: Tensor, cross: CrossWeights) -> tuple[Tensor, Tensor]:
    """Keys (L, T, D) of tokens (T, D), and their values through the output projection, by head: (L, H, D, T).

    Attention weights times the latter, summed over heads and tokens, are the projected result.
    """
    depth, width = cross.output_bias.shape
    both = F.linear(tokens, cross.projection, cross.projection_bias).view(-1, depth, 2, width).permute(2, 1, 0, 3)
    if cross.norm is not None:
        scale, shift = cross.norm
        both = torch.addcmul(shift[:, :, None], F.layer_norm(both, (width,), eps=1e-5), scale[:, :, None])
    key, value = both.unbind()
    heads = len(cross.output) // depth
    by_head = value.unflatten(-1, (heads, -1)).permute(0, 2, 3, 1).flatten(0, 1)
    return key, (cross.output @ by_head).unflatten(0, (depth, heads))


def pack_condition(
    tokens: Tensor, score_bias: Tensor, cross: CrossWeights, order: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and score biases of a condition's tokens (T, D), padded to whole strips of tokens and packed.

    To a token that is alone every position attends with weight one, whatever its score: there are no keys then, and the
    values are its own, projected, in float32.
    """
    key, value = keys_and_values(tokens, cross)
    if len(tokens) == 1:
        constant = value.sum(dim=(1, 3)) + cross.output_bias
        return torch.empty(0, dtype=torch.int32), constant, torch.empty(0)
    key = padded(key, -2, order.rows).unflatten(-1, (value.shape[1], -1)).transpose(1, 2)
    # (depth, heads, D, T) by strips of D, and in each strip by head and token.
    value = dwords(padded(value, -1, order.rows), order).unflatten(2, (-1, order.rows)).permute(0, 2, 1, 4, 3)
    bias = padded(score_bias * LOG2_E, -1, order.rows, FAR_BELOW_ZERO)
    return strips(key, order), value.contiguous(), bias


def collect(packed: Iterable[tuple[Tensor, Tensor, Tensor]], of_record: Tensor) -> Conditions:
    """All results of `pack_condition` together."""
    keys, values, bias = map(list, zip(*packed, strict=True))
    return Conditions(keys, values, bias, of_record)
