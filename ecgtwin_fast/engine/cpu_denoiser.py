"""The denoiser's weights and conditions as the CPU engine takes them (csrc/denoiser.h)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..models.ecgtwin import DiT, rotary_tables
from .conditions import Conditions, CrossAttention, distinct, pack_conditions, pack_cross_attention
from .cpu_support import attention_parts, mlp_chunks
from .packing import Layout, layout, on_huge_pages, strips


class PackedDenoiser(NamedTuple):
    """A `DiT` packed: `network` and `blocks` in the order that `cpu_denoise` reads them."""

    network: list[Tensor]
    blocks: list[Tensor]
    cross: CrossAttention
    heads: int
    ratio: int
    length: int


def _stacked(modules: list[nn.Module]) -> tuple[Tensor, Tensor]:
    return torch.stack([module.weight for module in modules]), torch.stack([module.bias for module in modules])


def centred(query: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of queries less their mean over channels: what a LayerNorm leaves of them."""
    weight, bias = query.weight.double(), query.bias.double()
    return weight - weight.mean(dim=0), bias - bias.mean()


def _triangle(query: nn.Linear, order: Layout) -> tuple[Tensor, Tensor]:
    """R as strips of rows, each from its first row's column on, and r: |R x + r| is the length of the centred queries
    (csrc/transformer.h)."""
    weight, bias = centred(query)
    _, triangle = torch.linalg.qr(torch.cat([weight, bias[:, None]], dim=1), mode="r")
    rows, offset = triangle[:, :-1].float(), triangle[:, -1].float()
    starts = range(0, len(rows), order.rows)
    return torch.cat([strips(rows[i : i + order.rows, i:], order).flatten() for i in starts]), offset


def _pack_cross_attention(denoiser: DiT) -> CrossAttention:
    layers = [block.attn2 for block in denoiser.blocks]
    weight, bias = _stacked([layer.kv_proj for layer in layers])
    scales, shifts = zip(*(_stacked([layer.k_norm, layer.v_norm]) for layer in layers), strict=True)
    scale, shift = _stacked([layer.q_norm for layer in layers])
    queries, offsets = zip(*(centred(layer.q_proj) for layer in layers), strict=True)
    return pack_cross_attention(
        (denoiser.text_projector.weight, denoiser.text_projector.bias),
        (weight.unflatten(1, (2, -1)), bias.unflatten(1, (2, -1))),
        (torch.stack(scales), torch.stack(shifts)),
        ((torch.stack(queries) * scale[..., None]).float(), (torch.stack(offsets) * scale).float(), shift),
        _stacked([layer.out_proj for layer in layers]),
        layers[0].heads,
        eps=1e-6,
    )


def pack_denoiser(denoiser: DiT, order: Layout) -> PackedDenoiser:
    """Pack the weights. Their values are copied: later changes of the denoiser do not show."""
    width = denoiser.x_embedder.out_features
    heads = denoiser.blocks[0].attn1.num_heads
    cosine, sine = rotary_tables(denoiser.length, width)
    blocks: list[Tensor] = []
    for block in denoiser.blocks:
        matrices, biases = attention_parts(block.attn1.in_proj_weight, block.attn1.in_proj_bias, block.attn1.out_proj)
        up, down = mlp_chunks(block.mlp[0].weight, block.mlp[2].weight)
        triangle, offset = _triangle(block.attn2.q_proj, order)
        blocks += [*(strips(matrix, order) for matrix in matrices), triangle, strips(up, order), strips(down, order)]
        blocks += [*biases, offset, block.attn2.out_proj.bias, block.mlp[0].bias, block.mlp[2].bias]
    by_step = layout(torch.bfloat16 if order.pack == 2 else torch.float32, narrow=True)
    modulations = [block.adaLN_modulation[1] for block in denoiser.blocks]
    network = [
        denoiser.x_embedder.weight,
        denoiser.x_embedder.bias,
        cosine.T,
        sine.T,
        denoiser.final_layer.weight,
        denoiser.final_layer.bias,
        strips(torch.cat([linear.weight for linear in modulations]), by_step),
        torch.cat([linear.bias for linear in modulations]),
    ]
    copies = on_huge_pages(blocks + network)
    ratio = denoiser.blocks[0].mlp[0].out_features // width
    cross = _pack_cross_attention(denoiser)
    return PackedDenoiser(copies[len(blocks) :], copies[: len(blocks)], cross, heads, ratio, denoiser.length)


def conditions(
    denoiser: DiT,
    cross: CrossAttention,
    text_embed: Tensor,
    text_mask: Tensor | None,
    patient: Tensor,
    order: Layout,
) -> Conditions:
    """Keys and values of every distinct condition; padding is left out."""
    every = torch.arange(text_embed.shape[1])
    valid = [every] * len(text_embed) if text_mask is None else [every[mask != 0] for mask in text_mask]
    first, of_record = distinct(
        (text[keep], keep, own) for text, keep, own in zip(text_embed, valid, patient, strict=True)
    )
    learned = denoiser.c_pos_embed.pos_encoding[0]
    tokens = [
        torch.cat([patient[record].expand(len(valid[record]), -1), text_embed[record][valid[record]]], dim=-1)
        for record in first
    ]
    positions = [learned[valid[record]] for record in first]
    unbiased = [torch.zeros(len(part)) for part in tokens]
    return pack_conditions(cross, tokens, positions, unbiased, of_record, order)


class Bases(NamedTuple):
    """Distinct base vectors projected (n, D), and which of them each record has (B,)."""

    rows: Tensor
    of_record: Tensor


def project_bases(denoiser: DiT, base_vector: Tensor) -> Bases:
    """Of base vectors (B, base width), float32 on the CPU."""
    first, of_record = distinct((row,) for row in base_vector)
    return Bases(_row_by_row(denoiser.ib_projector, base_vector[first]), of_record)


def embed_timesteps(denoiser: DiT, timesteps: Tensor) -> Tensor:
    """Of timesteps (S,): (S, D)."""
    return _row_by_row(denoiser.t_embedder, timesteps)


def _row_by_row(module: nn.Module, rows: Tensor) -> Tensor:
    """A product's rounding may depend on how many rows it has, and then on the number of threads."""
    return torch.cat([module(row.clone()) for row in rows.split(1)])


def denoise(
    packed: PackedDenoiser,
    known: Conditions,
    bases: Bases,
    time: Tensor,
    coefficients: Tensor,
    dtype: torch.dtype,
    status: Tensor,
    x_init: Tensor | None = None,
    noise: Tensor | None = None,
    seed: int = 0,
    first_index: int = 0,
    edit: tuple[int, int, Tensor | None, Tensor | None] = (1, 0, None, None),
) -> Tensor:
    """Latents (B, C, L) of whole trajectories; arguments as DenoiserArgs of csrc/denoiser.h has them, `edit` being its
    group, edit_step, token_counts and edit_scales."""
    # Operators take signed integers: the upper half of the seeds wraps around.
    signed = seed - 2**64 if seed >= 2**63 else seed
    return torch.ops.ecgtwin_fast.cpu_denoise(
        packed.network,
        packed.blocks,
        known.keys,
        known.scores,
        known.values,
        known.of_record,
        time,
        *bases,
        x_init,
        noise,
        coefficients,
        packed.heads,
        packed.ratio,
        packed.length,
        dtype == torch.bfloat16,
        signed,
        first_index,
        *edit,
        torch.get_num_threads(),
        status,
    )
