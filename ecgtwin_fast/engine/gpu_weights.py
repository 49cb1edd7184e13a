"""The denoiser's weights as every GPU backend needs them: its sizes, what makes keys and values, the modulation."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.ecgtwin import DiT
from .packing import LOG2_E, padded


class Sizes(NamedTuple):
    """Of a denoiser; `padded` is its width as the kernels have it, filled up with zeros."""

    channels: int
    length: int
    depth: int
    width: int
    padded: int
    heads: int
    head: int
    units: int


class ConditionWeights(NamedTuple):
    """What makes keys and values of tokens, float32, with the blocks in the first dimension."""

    projection: Tensor
    projection_bias: Tensor
    positions: Tensor
    key_value: Tensor
    key_value_bias: Tensor
    norms: Tensor
    key_scale: Tensor
    key_shift: Tensor
    output: Tensor


class ModulationWeights(NamedTuple):
    """What makes the modulation of a step: the base vector's projection, and that of its sum with the time."""

    base: Tensor
    base_bias: Tensor
    weight: Tensor
    bias: Tensor


def sizes_of(denoiser: DiT) -> Sizes:
    """The sizes, nothing filled up."""
    width, heads = denoiser.x_embedder.out_features, denoiser.blocks[0].attn1.num_heads
    units = denoiser.blocks[0].mlp[0].out_features
    return Sizes(
        denoiser.channels, denoiser.length, len(denoiser.blocks), width, width, heads, width // heads, units
    )


def stacked(parts: list[Tensor]) -> Tensor:
    """The same weight of all blocks."""
    return torch.stack([part.detach() for part in parts])


def pack_condition_weights(denoiser: DiT, sizes: Sizes) -> ConditionWeights:
    layers = [block.attn2 for block in denoiser.blocks]
    factor = LOG2_E / math.sqrt(sizes.head)
    norms = [(layer.k_norm.weight, layer.k_norm.bias, layer.v_norm.weight, layer.v_norm.bias) for layer in layers]
    shift = stacked([layer.q_norm.bias for layer in layers]) * factor
    # The keys' products with the shift, head by head, as one matrix.
    places = torch.arange(sizes.width, device=shift.device) // sizes.head
    own = places == torch.arange(sizes.heads, device=shift.device)[:, None]
    output = stacked([layer.out_proj.weight for layer in layers]).unflatten(-1, (sizes.heads, sizes.head))
    return ConditionWeights(
        denoiser.text_projector.weight.detach().clone(),
        denoiser.text_projector.bias.detach().clone(),
        denoiser.c_pos_embed.pos_encoding[0].detach().clone(),
        stacked([layer.kv_proj.weight for layer in layers]),
        stacked([layer.kv_proj.bias for layer in layers]),
        torch.stack([stacked(list(of_layer)) for of_layer in norms]),
        stacked([layer.q_norm.weight for layer in layers]) * factor,
        shift[:, None] * own,
        output.transpose(1, 2).contiguous(),
    )


def pack_modulation(denoiser: DiT, sizes: Sizes, dtype: torch.dtype) -> ModulationWeights:
    layers = [block.adaLN_modulation[1] for block in denoiser.blocks]
    weight = stacked([layer.weight for layer in layers]).unflatten(1, (6, -1))
    bias = stacked([layer.bias for layer in layers]).unflatten(1, (6, -1))
    return ModulationWeights(
        denoiser.ib_projector.weight.detach().clone(),
        denoiser.ib_projector.bias.detach().clone(),
        padded(weight, -2, sizes.padded).flatten(0, 2).to(dtype),
        padded(bias, -1, sizes.padded).flatten(),
    )
