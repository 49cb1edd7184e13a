"""What a GPU's trajectory needs of its conditions, computed once: keys and values of tokens, projected base vectors.

`linear(x, weight, bias)` is the backend's own product: out (G, M, N), float32, = x (G, M, K) @ weight (G, N, K)^T +
bias (G, N) or None, where a G of 1 stands for any; a row of it must not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .conditions import distinct
from .gpu_weights import ConditionWeights, ModulationWeights

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class TokenRows(NamedTuple):
    """Keys and values of the n distinct conditions of a batch, filled up to `tokens` each; float32.

    keys: (depth, n * tokens, D), not yet times the scale of the queries' norm and log2(e) / sqrt(head).
    score_bias: (n, depth, heads, tokens), the keys' products with the shift of that norm; not yet masked.
    values: (depth, n * tokens, D). padding: (n, tokens), where there is no token; these come last.
    of_record: (B,), which condition each record has.
    """

    keys: Tensor
    score_bias: Tensor
    values: Tensor
    padding: Tensor
    of_record: Tensor


def project_tokens(
    weights: ConditionWeights,
    linear: Linear,
    text_embed: Tensor,
    text_mask: Tensor | None,
    patient: Tensor,
    tokens: int,
) -> TokenRows:
    """Of text_embed (B, T, width), text_mask (B, T) or None and patient (B, 3), float32 on the CPU."""
    every = torch.arange(text_embed.shape[1])
    valid = [every] * len(text_embed) if text_mask is None else [every[mask != 0] for mask in text_mask]
    first, of_record = distinct(
        (text[keep], keep, own) for text, keep, own in zip(text_embed, valid, patient, strict=True)
    )
    device = weights.projection.device
    given = torch.zeros(len(first), tokens, patient.shape[1] + text_embed.shape[2])
    places = torch.zeros(len(first), tokens, dtype=torch.int64)
    padding = torch.ones(len(first), tokens, dtype=torch.bool)
    for row, record in enumerate(first):
        keep = valid[record]
        given[row, : len(keep), : patient.shape[1]] = patient[record]
        given[row, : len(keep), patient.shape[1] :] = text_embed[record][keep]
        places[row, : len(keep)] = keep
        padding[row, : len(keep)] = False

    projected = linear(given.to(device).flatten(0, 1)[None], weights.projection[None], weights.projection_bias[None])
    token = projected[0] + weights.positions[places.to(device).flatten()]
    token = F.layer_norm(token, token.shape[-1:], eps=1e-6)
    both = linear(token[None], weights.key_value, weights.key_value_bias).unflatten(-1, (2, -1))
    key, value = (F.layer_norm(both[:, :, part], token.shape[-1:]) for part in range(2))
    key_norm, key_offset, value_norm, value_offset = weights.norms[:, :, None].unbind(1)
    key, value = key * key_norm + key_offset, value * value_norm + value_offset
    score_bias = linear(key, weights.key_shift, None).unflatten(1, (-1, tokens)).permute(1, 0, 3, 2)
    return TokenRows(key, score_bias, value, padding.to(device), of_record)


class Bases(NamedTuple):
    """Distinct base vectors projected (n, D), and which of them each record has (B,)."""

    rows: Tensor
    of_record: Tensor


def project_bases(weights: ModulationWeights, linear: Linear, base_vector: Tensor) -> Bases:
    """Of base vectors (B, base width), float32 on the CPU."""
    first, of_record = distinct((row,) for row in base_vector)
    rows = linear(base_vector[first].to(weights.base.device)[None], weights.base[None], weights.base_bias[None])
    return Bases(rows[0], of_record)
