"""The denoiser's weights and conditions as the CUDA trajectory takes them (csrc/trajectory.h)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.ecgtwin import AdaXBlock, DiT, rotary_tables
from .cpu_denoiser import centred
from .cpu_support import attention_parts
from .gpu_conditions import Linear, project_tokens
from .gpu_weights import (
    ConditionWeights,
    ModulationWeights,
    Sizes,
    pack_condition_weights,
    pack_modulation,
    sizes_of,
)
from .packing import LOG2_E

TILE = 16
"""Rows and columns of a matrix that one product of a warp takes at once."""


class Network(NamedTuple):
    """What does not depend on conditions, in the order of `cuda_trajectory`'s arguments."""

    weights: Tensor
    biases: Tensor
    embed_weight: Tensor
    embed_bias: Tensor
    cosine: Tensor
    sine: Tensor
    final_weight: Tensor
    final_bias: Tensor


@dataclass(frozen=True)
class PackedDenoiser:
    """A `DiT` packed for bfloat16 products. gated_biases: (depth, 2, D), of the outputs that a gate multiplies."""

    sizes: Sizes
    network: Network
    gated_biases: Tensor
    conditions: ConditionWeights
    modulation: ModulationWeights

    @property
    def device(self) -> torch.device:
        return self.network.biases.device


def fragments(matrix: Tensor, by_rows: bool) -> Tensor:
    """A matrix (..., N, K) that products multiply transposed, in bfloat16, as the lanes of a warp take its tiles.

    A lane l has of a tile eight elements: of rows l / 4 and then l / 4 + 8, columns 2 (l % 4) and the next, then eight
    further. Tiles of the same rows follow one another (`by_rows`), or those of the same columns. Returns (..., N * K).
    """
    tiles = matrix.unflatten(-1, (-1, 2, 4, 2)).unflatten(-5, (-1, 2, 8))
    # N: tile, half, row; K: tile, half, pair, column.
    order = (-7, -4, -5, -2, -6, -3, -1) if by_rows else (-4, -7, -5, -2, -6, -3, -1)
    leading = range(tiles.dim() - 7)
    return tiles.permute(*leading, *(place + tiles.dim() for place in order)).flatten(-7).to(torch.bfloat16)


def cores(matrix: Tensor, columns: int) -> Tensor:
    """A matrix (N, K) that products multiply transposed, in bfloat16, as parts of 8 x 8 elements in shared memory.

    Of so many of its rows, columns of the right factor, 16 of K come first, then the next 16; then further rows. Of 16
    the two parts of the same rows follow one another. Returns (N * K,).
    """
    parts = matrix.unflatten(1, (-1, 2, 8)).unflatten(0, (-1, columns // 8, 8))
    return parts.permute(0, 3, 1, 4, 2, 5).flatten().to(torch.bfloat16)


def pack_denoiser(denoiser: DiT) -> PackedDenoiser:
    """Pack the weights. Their values are copied: later changes of the denoiser do not show."""
    sizes = sizes_of(denoiser)
    packed = [_pack_block(block, sizes) for block in denoiser.blocks]
    cosine, sine = rotary_tables(sizes.length, sizes.width, denoiser.x_embedder.weight.device)
    network = Network(
        torch.cat([weights for weights, _, _ in packed]),
        torch.cat([biases for _, biases, _ in packed]),
        denoiser.x_embedder.weight.T.contiguous(),
        denoiser.x_embedder.bias.clone(),
        cosine.contiguous(),
        sine.contiguous(),
        denoiser.final_layer.weight.clone(),
        denoiser.final_layer.bias.clone(),
    )
    conditions, modulation = pack_condition_weights(denoiser, sizes), pack_modulation(denoiser, sizes, torch.bfloat16)
    gated = torch.stack([biases for _, _, biases in packed]).detach()
    return PackedDenoiser(sizes, Network(*(value.detach() for value in network)), gated, conditions, modulation)


def _pack_block(block: AdaXBlock, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """Weights in the order of their use, biases, and gated biases of one block."""
    attn1, attn2, (up, _, down) = block.attn1, block.attn2, block.mlp
    factor = LOG2_E / math.sqrt(sizes.head)
    matrices, (query_bias, output_bias) = attention_parts(attn1.in_proj_weight, attn1.in_proj_bias, attn1.out_proj)
    query, key, value, output = matrices
    centred_query, offset = (part.float() for part in centred(attn2.q_proj))
    head, strip = sizes.head, 2 * sizes.head

    # What csrc/cuda/trajectory/sizes.cuh calls a chunk: columns of which `strip` rows fill a stage.
    chunk = min(TILE, sizes.width * head // TILE**2) * TILE**2 // strip

    parts = []
    for own_query, own_key, own_value, own_output in zip(
        (query * factor).split(head), key.split(head), value.split(head), output.split(head, 1), strict=True
    ):
        parts += [cores(own_query, head), cores(torch.cat([own_key, own_value]), 2 * head), cores(own_output, chunk)]
    parts += [cores(own, head) for own in centred_query.split(head)]
    parts += [cores(own, chunk) for own in attn2.out_proj.weight.split(head, 1)]
    for own_up, own_down in zip(up.weight.split(strip), down.weight.split(strip, 1), strict=True):
        parts += [cores(own_up, strip), cores(own_down, chunk)]
    biases = [query_bias * factor, offset, attn2.out_proj.bias, up.bias]
    return torch.cat(parts), torch.cat(biases), torch.stack([output_bias, down.bias])


class Conditions(NamedTuple):
    """Of n distinct conditions, for all blocks, in the order of `cuda_trajectory`'s arguments.

    keys, values: (n, depth, heads, tokens * head) as fragments. score_bias: (n, depth, heads, tokens), -inf where a
    token is padding. counts: (n,), tokens that are not. of_record: (B,), which condition each record has.
    """

    keys: Tensor
    values: Tensor
    score_bias: Tensor
    counts: Tensor
    of_record: Tensor


def known_conditions(
    packed: PackedDenoiser, linear: Linear, text_embed: Tensor, text_mask: Tensor | None, patient: Tensor
) -> Conditions:
    """Of text_embed (B, T, width), text_mask (B, T) or None and patient (B, 3), float32 on the CPU."""
    tokens = -(-text_embed.shape[1] // TILE) * TILE
    rows = project_tokens(packed.conditions, linear, text_embed, text_mask, patient, tokens)

    def by_head(x: Tensor) -> Tensor:
        """(depth, n * tokens, D) as (n, depth, heads, tokens, head)."""
        split = x.unflatten(1, (-1, tokens)).unflatten(-1, (packed.sizes.heads, packed.sizes.head))
        return split.permute(1, 0, 3, 2, 4)

    keys = by_head(rows.keys * packed.conditions.key_scale[:, None])
    score_bias = rows.score_bias.masked_fill(rows.padding[:, None, None], float("-inf"))
    return Conditions(
        fragments(keys, True),
        fragments(by_head(rows.values).mT, False),
        score_bias.contiguous(),
        (~rows.padding).sum(1),
        rows.of_record.to(packed.device),
    )
