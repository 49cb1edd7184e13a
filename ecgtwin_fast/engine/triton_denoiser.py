"""The denoiser's weights as the Triton kernels take them (ops/triton/blocks.py, latents.py)."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.ecgtwin import DiT, rotary_tables, rotate_half
from . import gpu_weights
from .cpu_denoiser import centred
from .cpu_support import attention_parts
from .cuda_graph import Recent
from .gpu_weights import ConditionWeights, ModulationWeights, Sizes
from .packing import LOG2_E, padded
from .triton_tiles import Tiles


class Block(NamedTuple):
    """Weights of one block."""

    query_key_value: Tensor
    query_bias: Tensor
    self_output: Tensor
    self_output_bias: Tensor
    query: Tensor
    offset: Tensor
    output: Tensor
    output_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor


class Ends(NamedTuple):
    """Weights of the embedding and of the final projection, float32."""

    weight: Tensor
    bias: Tensor
    cosine: Tensor
    sine: Tensor
    final_weight: Tensor
    final_bias: Tensor


@dataclass(frozen=True)
class PackedDenoiser:
    """A `DiT` packed for products in `dtype`, and the trajectories that were laid out for it."""

    sizes: Sizes
    dtype: torch.dtype
    tiles: Tiles
    blocks: list[Block]
    ends: Ends
    conditions: ConditionWeights
    modulation: ModulationWeights
    recent: Recent = field(default_factory=Recent)
    lock: Any = field(default_factory=threading.Lock)

    @property
    def device(self) -> torch.device:
        return self.ends.weight.device


def sizes_of(denoiser: DiT) -> Sizes:
    """The sizes, with the width filled up to a power of two."""
    sizes = gpu_weights.sizes_of(denoiser)
    return sizes._replace(padded=1 << (sizes.width - 1).bit_length())


def pack_denoiser(denoiser: DiT, dtype: torch.dtype, tiles: Tiles) -> PackedDenoiser:
    """Pack the weights. Their values are copied: later changes of the denoiser do not show."""
    sizes = sizes_of(denoiser)
    chunk = tiles.mlp.columns
    return PackedDenoiser(
        sizes._replace(units=-(-sizes.units // chunk) * chunk),
        dtype,
        tiles,
        [_pack_block(block, sizes, dtype, chunk) for block in denoiser.blocks],
        _pack_ends(denoiser, sizes),
        gpu_weights.pack_condition_weights(denoiser, sizes),
        gpu_weights.pack_modulation(denoiser, sizes, dtype),
    )


def _filled(matrix: Tensor, sizes: Sizes) -> Tensor:
    """A weight (N, K), transposed to (K, N), with both filled up."""
    return padded(padded(matrix.T.contiguous(), -1, sizes.padded), -2, sizes.padded)


def _by_columns(matrix: Tensor, columns: int) -> Tensor:
    """A matrix (K, N) as (N / columns, K, columns)."""
    return matrix.unflatten(1, (-1, columns)).transpose(0, 1).contiguous()


def _pack_block(block, sizes: Sizes, dtype: torch.dtype, chunk: int) -> Block:
    attn1, attn2, (up, _, down) = block.attn1, block.attn2, block.mlp
    factor = LOG2_E / math.sqrt(sizes.head)
    matrices, (query_bias, output_bias) = attention_parts(attn1.in_proj_weight, attn1.in_proj_bias, attn1.out_proj)
    query, key, value, output = (_filled(matrix, sizes) for matrix in matrices)
    by_head = torch.stack([_by_columns(matrix, sizes.head) for matrix in (query * factor, key, value)])
    centred_query, offset = (part.float() for part in centred(attn2.q_proj))
    filled_up = padded(padded(up.weight.T.contiguous(), -1, chunk), -2, sizes.padded)
    filled_down = padded(padded(down.weight.T.contiguous(), -2, chunk), -1, sizes.padded)

    def bias(vector: Tensor) -> Tensor:
        return padded(vector.detach().clone(), -1, sizes.padded)

    return Block(
        by_head.to(dtype),
        bias(query_bias * factor),
        output.to(dtype),
        bias(output_bias),
        _filled(centred_query, sizes).to(dtype),
        bias(offset),
        _filled(attn2.out_proj.weight, sizes).to(dtype),
        bias(attn2.out_proj.bias),
        _by_columns(filled_up, chunk).to(dtype),
        padded(up.bias.detach().clone(), -1, chunk),
        filled_down.to(dtype),
        bias(down.bias),
    )


def _pack_ends(denoiser: DiT, sizes: Sizes) -> Ends:
    weight, bias = denoiser.x_embedder.weight.T, denoiser.x_embedder.bias
    tables = rotary_tables(sizes.length, sizes.width, weight.device)
    parts = [
        torch.stack([weight, rotate_half(weight)]),
        torch.stack([bias, rotate_half(bias)]),
        *(torch.cat([table, table], dim=-1) for table in tables),
        denoiser.final_layer.weight,
    ]
    filled = [padded(part.detach().clone(), -1, sizes.padded) for part in parts]
    return Ends(*filled, denoiser.final_layer.bias.detach().clone())
