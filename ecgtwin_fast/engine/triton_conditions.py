"""What a trajectory needs of its conditions, computed once: keys and values of tokens, projected base vectors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .conditions import distinct
from .packing import padded
from .triton_denoiser import PackedDenoiser
from .triton_launch import linear


def token_class(count: int) -> int:
    """The tokens, with padding, among which the kernels attend to `count`: a power of two, at least 16."""
    return max(16, 1 << (count - 1).bit_length())


def folds(packed: PackedDenoiser, tokens: int) -> bool:
    """Whether values are taken through the output projection: for few tokens, that is the smaller product."""
    return 2 * packed.sizes.heads * tokens <= packed.sizes.padded


class Conditions(NamedTuple):
    """Of n distinct conditions, for all blocks, and which of them each record has; see `condition_attention`.

    keys: (n, depth, tokens, padded). score_bias: (n, depth, heads, tokens). values: like keys, or folded
    (n, depth, heads, tokens, padded); with heads, and in that number, those of the padding.
    """

    keys: Tensor
    score_bias: Tensor
    values: Tensor
    of_record: Tensor


def known_conditions(
    packed: PackedDenoiser, text_embed: Tensor, text_mask: Tensor | None, patient: Tensor, tokens: int
) -> Conditions:
    """Of text_embed (B, T, width), text_mask (B, T) or None and patient (B, 3), float32 on the CPU."""
    every = torch.arange(text_embed.shape[1])
    valid = [every] * len(text_embed) if text_mask is None else [every[mask != 0] for mask in text_mask]
    first, of_record = distinct(
        (text[keep], keep, own) for text, keep, own in zip(text_embed, valid, patient, strict=True)
    )
    sizes, weights, device = packed.sizes, packed.conditions, packed.device
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

    score_bias = linear(key, weights.key_shift).unflatten(1, (-1, tokens)).permute(1, 0, 3, 2)
    score_bias = padded(score_bias.contiguous(), -2, sizes.padded // sizes.head)
    score_bias = score_bias.masked_fill(padding.to(device)[:, None, None], float("-inf"))
    if folds(packed, tokens):
        by_head = value.unflatten(-1, (sizes.heads, sizes.head)).transpose(1, 2).flatten(0, 1).contiguous()
        value = linear(by_head, weights.output.flatten(0, 1))
        value = value.unflatten(1, (-1, tokens)).unflatten(0, (sizes.depth, sizes.heads)).permute(2, 0, 1, 3, 4)
        value = padded(padded(value.contiguous(), -1, sizes.padded), -3, sizes.padded // sizes.head)
    else:
        value = _by_condition(value, tokens, sizes.padded)
    key = _by_condition(key * weights.key_scale[:, None], tokens, sizes.padded)
    return Conditions(key.to(packed.dtype), score_bias, value.to(packed.dtype), of_record)


def _by_condition(x: Tensor, tokens: int, width: int) -> Tensor:
    """(depth, n * tokens, D) as (n, depth, tokens, width)."""
    return padded(x.unflatten(1, (-1, tokens)).transpose(0, 1).contiguous(), -1, width)


class Bases(NamedTuple):
    """Distinct base vectors projected (n, D), and which of them each record has (B,)."""

    rows: Tensor
    of_record: Tensor


def project_bases(packed: PackedDenoiser, base_vector: Tensor) -> Bases:
    """Of base vectors (B, base width), float32 on the CPU."""
    first, of_record = distinct((row,) for row in base_vector)
    weights = packed.modulation
    rows = linear(base_vector[first].to(packed.device)[None], weights.base[None], weights.base_bias[None])
    return Bases(rows[0], of_record)
