"""The denoiser's weights and conditions as the CPU engine takes them (csrc/denoiser.h)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.ecgtwin import CrossAttention, DiT, rotary_tables
from .conditions import Conditions, CrossWeights, collect, distinct, output_by_head, pack_condition
from .cpu_support import attention_parts, mlp_chunks
from .packing import LOG2_E, Layout, on_huge_pages, strips


class PackedDenoiser(NamedTuple):
    """A `DiT` packed: `network` and `blocks` in the order that `cpu_denoise` reads them."""

    network: list[Tensor]
    blocks: list[Tensor]
    cross: CrossWeights
    heads: int
    ratio: int
    length: int


def _cross_weights(layers: list[CrossAttention]) -> CrossWeights:
    def stacked(name: str, parameter: str) -> Tensor:
        return torch.stack([getattr(getattr(layer, name), parameter) for layer in layers])

    scale, shift = (torch.stack([stacked("k_norm", part), stacked("v_norm", part)]) for part in ("weight", "bias"))
    return CrossWeights(
        stacked("kv_proj", "weight").flatten(0, 1),
        stacked("kv_proj", "bias").flatten(),
        (scale, shift),
        output_by_head(stacked("out_proj", "weight"), layers[0].heads),
        stacked("out_proj", "bias"),
    )


def pack_denoiser(denoiser: DiT, order: Layout) -> PackedDenoiser:
    """Pack the weights. Their values are copied: later changes of the denoiser do not show."""
    width = denoiser.x_embedder.out_features
    heads = denoiser.blocks[0].attn1.num_heads
    cosine, sine = rotary_tables(denoiser.length, width)
    factor = LOG2_E / math.sqrt(width // heads)
    blocks: list[Tensor] = []
    for block in denoiser.blocks:
        cross = block.attn2
        matrices, biases = attention_parts(block.attn1.in_proj_weight, block.attn1.in_proj_bias, block.attn1.out_proj)
        up, down = mlp_chunks(block.mlp[0].weight, block.mlp[2].weight)
        blocks += [strips(matrix, order) for matrix in (*matrices, cross.q_proj.weight, up, down)]
        blocks += [*biases, cross.q_proj.bias, cross.q_norm.weight * factor, cross.q_norm.bias * factor]
        blocks += [cross.out_proj.bias, block.mlp[0].bias, block.mlp[2].bias]
    modulations = [block.adaLN_modulation[1] for block in denoiser.blocks]
    network = [
        denoiser.x_embedder.weight,
        denoiser.x_embedder.bias,
        cosine.T,
        sine.T,
        denoiser.final_layer.weight,
        denoiser.final_layer.bias,
        strips(torch.cat([linear.weight for linear in modulations]), order),
        torch.cat([linear.bias for linear in modulations]),
    ]
    copies = on_huge_pages(blocks + network)
    ratio = denoiser.blocks[0].mlp[0].out_features // width
    cross = _cross_weights([block.attn2 for block in denoiser.blocks])
    return PackedDenoiser(copies[len(blocks) :], copies[: len(blocks)], cross, heads, ratio, denoiser.length)


def pack_conditions(
    denoiser: DiT,
    cross: CrossWeights,
    text_embed: Tensor,
    text_mask: Tensor | None,
    patient: Tensor,
    order: Layout,
) -> Conditions:
    """Tokens, keys and values of every distinct condition, each computed by itself, whatever its batch is.

    Padding is left out.
    """
    valid = [slice(None)] * len(text_embed) if text_mask is None else list(text_mask != 0)
    first, of_record = distinct(
        (text[keep], torch.arange(len(text))[keep], own)
        for text, keep, own in zip(text_embed, valid, patient, strict=True)
    )

    def packed(record: int) -> tuple[Tensor, Tensor, Tensor]:
        text = text_embed[record]
        tokens = torch.cat([patient[record].expand(len(text), -1), text], dim=-1)
        tokens = denoiser.c_pos_embed(denoiser.text_projector(tokens)[None])[0][valid[record]]
        tokens = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        return pack_condition(tokens, torch.zeros(len(tokens)), cross, order)

    return collect(map(packed, first), of_record)
