"""The denoiser's weights and conditions as the CPU engine takes them (csrc/denoiser.h)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.ecgtwin import CrossAttention, DiT, rotary_tables
from .packing import Layout, on_huge_pages, strips

LOG2_E = math.log2(math.e)
HEAD_MULTIPLE, LENGTH_MULTIPLE = 8, 64
FAR_BELOW_ZERO = -1e30


def size_reasons(width: int, heads: int, length: int) -> list[str]:
    """What of these sizes the engine's kernels cannot take."""
    reasons = []
    if width % heads or width // heads % HEAD_MULTIPLE:
        reasons.append(
            f"the width of a head must be a multiple of {HEAD_MULTIPLE}, but width {width} has {heads} heads"
        )
    if length % LENGTH_MULTIPLE:
        reasons.append(f"the length of a latent must be a multiple of {LENGTH_MULTIPLE}, but it is {length}")
    return reasons


class PackedDenoiser(NamedTuple):
    """A `DiT` packed: `network` and `blocks` in the order that `cpu_denoise` reads them."""

    network: list[Tensor]
    blocks: list[Tensor]
    heads: int
    ratio: int
    length: int


class Conditions(NamedTuple):
    """Distinct conditions (keys, values and score biases, one each) and which of them each record has."""

    keys: list[Tensor]
    values: list[Tensor]
    bias: list[Tensor]
    of_record: Tensor


def chunks(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The MLP's matrices (ratio D, D) and (D, ratio D) by chunks of D hidden units, each (ratio, D, D)."""
    width = up.shape[1]
    return up.unflatten(0, (-1, width)), down.unflatten(1, (-1, width)).transpose(0, 1)


def pack_attention(in_weight: Tensor, in_bias: Tensor, out: torch.nn.Linear) -> tuple[list[Tensor], list[Tensor]]:
    """Query, key, value and output matrices of a torch.nn attention, and the biases of query and output.

    A bias of the keys adds the same to all scores of a position and cancels in the softmax; that of the values, whose
    weights add up to one, goes through the output projection.
    """
    query, key, value = in_weight.chunk(3)
    query_bias, _, value_bias = in_bias.chunk(3)
    output_bias = (out.bias.double() + out.weight.double() @ value_bias.double()).float()
    return [query, key, value, out.weight], [query_bias, output_bias]


def pack_denoiser(denoiser: DiT, order: Layout) -> PackedDenoiser:
    """Pack the weights. Their values are copied: later changes of the denoiser do not show."""
    width = denoiser.x_embedder.out_features
    heads = denoiser.blocks[0].attn1.num_heads
    cosine, sine = rotary_tables(denoiser.length, width)
    factor = LOG2_E / math.sqrt(width // heads)
    blocks: list[Tensor] = []
    for block in denoiser.blocks:
        cross = block.attn2
        matrices, biases = pack_attention(block.attn1.in_proj_weight, block.attn1.in_proj_bias, block.attn1.out_proj)
        up, down = chunks(block.mlp[0].weight, block.mlp[2].weight)
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
    return PackedDenoiser(copies[len(blocks) :], copies[: len(blocks)], heads, ratio, denoiser.length)


def distinct(rows: Iterable[tuple[Tensor, ...]]) -> tuple[list[int], Tensor]:
    """Where each distinct row occurs first, and for every row the number of the distinct one that it equals."""
    numbers: dict[bytes, int] = {}
    first, of_row = [], []
    for index, row in enumerate(rows):
        key = b"|".join(part.contiguous().numpy().tobytes() for part in row)
        if key not in numbers:
            numbers[key] = len(first)
            first.append(index)
        of_row.append(numbers[key])
    return first, torch.tensor(of_row)


def _norms(projected: Tensor, norms: list[torch.nn.LayerNorm]) -> Tensor:
    """(T, depth, D), each block's under its own LayerNorm."""
    weight, bias = (torch.stack([getattr(norm, name) for norm in norms]) for name in ("weight", "bias"))
    return F.layer_norm(projected, projected.shape[-1:], eps=norms[0].eps) * weight + bias


def fold_output(value: Tensor, weight: Tensor, heads: int) -> Tensor:
    """Values (depth, T, D) through the output projections (depth, D, D): (depth, D, heads, T), by head before the sum
    over heads, so that attention weights times this is the projected result."""
    value, weight = value.unflatten(-1, (heads, -1)), weight.unflatten(-1, (heads, -1))
    return torch.einsum("lnhd,lthd->lnht", weight, value)


def pack_condition(
    key: Tensor, folded: Tensor, score_bias: Tensor, heads: int, order: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys (depth, T, D), folded values (depth, D, heads, T) and score biases (T), padded to whole strips of tokens."""
    missing = -key.shape[1] % order.rows
    key = F.pad(key, (0, 0, 0, missing)).unflatten(-1, (heads, -1)).transpose(1, 2)
    folded = F.pad(folded, (0, missing)).flatten(2)
    return strips(key, order), strips(folded, order), F.pad(score_bias * LOG2_E, (0, missing), value=FAR_BELOW_ZERO)


def pack_conditions(
    denoiser: DiT, text_embed: Tensor, text_mask: Tensor | None, patient: Tensor, order: Layout
) -> Conditions:
    """Tokens, keys and values of every distinct condition, each computed by itself, whatever its batch is.

    Padding is left out. Where one token is left, every position attends to it alone: its values, projected, are all
    that there is, in float32, and there are no keys.
    """
    valid = [slice(None)] * len(text_embed) if text_mask is None else list(text_mask != 0)
    first, of_record = distinct(
        (text[keep], torch.arange(text.shape[0])[keep], own)
        for text, keep, own in zip(text_embed, valid, patient, strict=True)
    )
    cross: list[CrossAttention] = [block.attn2 for block in denoiser.blocks]
    width, heads = denoiser.x_embedder.out_features, cross[0].heads
    projection = torch.cat([layer.kv_proj.weight for layer in cross])
    projection_bias = torch.cat([layer.kv_proj.bias for layer in cross])
    output = torch.stack([layer.out_proj.weight for layer in cross])
    output_bias = torch.stack([layer.out_proj.bias for layer in cross])
    packed = []
    for record in first:
        text = text_embed[record]
        tokens = torch.cat([patient[record].expand(len(text), -1), text], dim=-1)
        tokens = denoiser.c_pos_embed(denoiser.text_projector(tokens)[None])[0]
        tokens = F.layer_norm(tokens[valid[record]], (width,), eps=1e-6)
        key, value = F.linear(tokens, projection, projection_bias).unflatten(-1, (len(cross), 2, width)).unbind(2)
        key, value = _norms(key, [layer.k_norm for layer in cross]), _norms(value, [layer.v_norm for layer in cross])
        folded = fold_output(value.transpose(0, 1), output, heads)
        if len(tokens) == 1:
            packed.append((torch.empty(0, dtype=torch.int32), folded.sum(dim=(2, 3)) + output_bias, torch.empty(0)))
        else:
            packed.append(pack_condition(key.transpose(0, 1), folded, torch.zeros(len(tokens)), heads, order))
    keys, values, bias = map(list, zip(*packed, strict=True))
    return Conditions(keys, values, bias, of_record)
