"""Conditions of a transformer's cross-attention, computed once: what of it does not depend on the positions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .packing import LOG2_E, Layout, layout, padded, strips


class Conditions(NamedTuple):
    """Distinct conditions (keys, scores and values, one each) and which of them each record has.

    Keys have the query projection folded in, values the output projection: see TransformerBlock and
    TransformerCondition in csrc/transformer.h.
    """

    keys: list[Tensor]
    scores: list[Tensor]
    values: list[Tensor]
    of_record: Tensor


class CrossAttention(NamedTuple):
    """What makes keys and values of tokens, for all blocks at once; packed as `cpu_conditions` takes it."""

    weights: list[Tensor]
    heads: int
    eps: float


def distinct(rows: Iterable[Sequence[Tensor]]) -> tuple[list[int], Tensor]:
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


def pack_cross_attention(
    projection: tuple[Tensor, Tensor],
    both: tuple[Tensor, Tensor],
    norms: tuple[Tensor, Tensor] | None,
    query: tuple[Tensor, Tensor, Tensor],
    output: tuple[Tensor, Tensor],
    heads: int,
    eps: float,
) -> CrossAttention:
    """Pack weights and biases, L the depth and D the width.

    Args:
        projection: of tokens, (D, features) and (D). eps: of the LayerNorm behind it, which has no affine part.
        both: keys and values of a block, then of the next, (L, 2, D, D) and (L, 2, D).
        norms: scale and shift of their LayerNorms, (L, 2, D) each; None where there are none.
        query: the query projections (L, D, D) and (L, D), times the scale of their norm, and its shift (L, D).
        output: the output projections, (L, D, D) and (L, D).
    """
    order = layout(torch.float32)
    factor = LOG2_E / math.sqrt(query[0].shape[-1] // heads)
    queries = query[0].unflatten(1, (heads, -1)).transpose(2, 3) * factor
    outputs = output[0].unflatten(2, (heads, -1)).transpose(1, 2)
    weights = [strips(padded(projection[0], -1, 2), order), projection[1], strips(both[0], order), both[1]]
    weights += [strips(queries, order), query[1] * factor, query[2] * factor, strips(outputs, order), output[1]]
    weights = [weight.detach().clone() for weight in (*weights, *(norms or ()))]
    return CrossAttention(weights, heads, eps)


def pack_conditions(
    cross: CrossAttention,
    tokens: Sequence[Tensor],
    positions: Sequence[Tensor] | None,
    score_bias: Sequence[Tensor],
    of_record: Tensor,
    order: Layout,
) -> Conditions:
    """Keys and values of conditions, each given by its tokens (T, features), what is added to them once projected
    (T, D), and a bias (T) of their scores."""
    keys, scores, values = torch.ops.ecgtwin_fast.cpu_conditions(
        cross.weights,
        torch.cat(list(tokens)),
        None if positions is None else torch.cat(list(positions)),
        torch.cat(list(score_bias)) * LOG2_E,
        [len(part) for part in tokens],
        cross.heads,
        cross.eps,
        order.pack == 2,
    )
    return Conditions(keys, scores, values, of_record)
