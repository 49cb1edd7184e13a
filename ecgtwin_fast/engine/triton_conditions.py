"""Keys and values of tokens as the Triton kernels take them (ops/triton/blocks.py)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .gpu_conditions import project_tokens
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
    sizes, weights = packed.sizes, packed.conditions
    rows = project_tokens(weights, linear, text_embed, text_mask, patient, tokens)
    key, value, score_bias = rows.keys, rows.values, rows.score_bias
    score_bias = padded(score_bias.contiguous(), -2, sizes.padded // sizes.head)
    score_bias = score_bias.masked_fill(rows.padding[:, None, None], float("-inf"))
    if folds(packed, tokens):
        by_head = value.unflatten(-1, (sizes.heads, sizes.head)).transpose(1, 2).flatten(0, 1).contiguous()
        value = linear(by_head, weights.output.flatten(0, 1))
        value = value.unflatten(1, (-1, tokens)).unflatten(0, (sizes.depth, sizes.heads)).permute(2, 0, 1, 3, 4)
        value = padded(padded(value.contiguous(), -1, sizes.padded), -3, sizes.padded // sizes.head)
    else:
        value = _by_condition(value, tokens, sizes.padded)
    key = _by_condition(key * weights.key_scale[:, None], tokens, sizes.padded)
    return Conditions(key.to(packed.dtype), score_bias, value.to(packed.dtype), rows.of_record)


def _by_condition(x: Tensor, tokens: int, width: int) -> Tensor:
    """(depth, n * tokens, D) as (n, depth, tokens, width)."""
    return padded(x.unflatten(1, (-1, tokens)).transpose(0, 1).contiguous(), -1, width)
