"""The Individual Base Extractor in one call of C++ on the CPU (csrc/extractor.h)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..models.ecgtwin import rotary_tables
from ..models.extractor import BaseExtractor
from .conditions import Conditions, CrossAttention, distinct, pack_conditions, pack_cross_attention
from .cpu_support import PackCache, attention_parts, mlp_chunks, module_reasons, precision_reasons, size_reasons
from .packing import Layout, layout, on_huge_pages, strips


class PackedExtractor(NamedTuple):
    """A `BaseExtractor` packed: `embedding`, `modulation` and `blocks` in the order that `cpu_extract` reads them."""

    embedding: list[Tensor]
    modulation: Tensor
    blocks: list[Tensor]
    cross: CrossAttention
    heads: int
    ratio: int


def _with_norm(weight: Tensor, bias: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer that takes in the scale and shift of the LayerNorm before it."""
    return weight * norm.weight, bias + weight @ norm.bias


def _modulation(first: nn.LayerNorm, last: nn.LayerNorm) -> list[Tensor]:
    """The affine norms of a layer in the form of the denoiser's modulation: shift, scale - 1 and gate, twice."""
    gate = torch.ones_like(first.bias)
    return [first.bias, first.weight - 1, gate, last.bias, last.weight - 1, gate]


def pack_extractor(extractor: BaseExtractor, order: Layout) -> PackedExtractor:
    """Pack the weights. Their values are copied: later changes of the extractor do not show."""
    width, heads = extractor.signal_embedding.out_features, extractor.layers[0].self_attn.num_heads
    blocks: list[Tensor] = []
    modulation: list[Tensor] = []
    queries, projections = [], []
    unused = torch.empty(0, dtype=torch.int32), torch.empty(0)
    for layer in extractor.layers:
        attention, cross = layer.self_attn, layer.cross_attn
        matrices, biases = attention_parts(attention.in_proj_weight, attention.in_proj_bias, attention.out_proj)
        weight, bias = cross.in_proj_weight.split([width, 2 * width]), cross.in_proj_bias.split([width, 2 * width])
        queries.append(_with_norm(weight[0], bias[0], layer.layer_norm2))
        projections.append(_with_norm(weight[1], bias[1], layer.condition_norm))
        up, down = mlp_chunks(layer.feed_forward.fc1.weight, layer.feed_forward.fc2.weight)
        blocks += [*(strips(matrix, order) for matrix in matrices), unused[0], strips(up, order), strips(down, order)]
        blocks += [*biases, unused[1], cross.out_proj.bias, layer.feed_forward.fc1.bias, layer.feed_forward.fc2.bias]
        modulation += _modulation(layer.layer_norm1, layer.layer_norm3)
    both, both_bias = (torch.stack(parts).unflatten(1, (2, -1)) for parts in zip(*projections, strict=True))
    query, query_bias = map(torch.stack, zip(*queries, strict=True))
    outputs = [layer.cross_attn.out_proj for layer in extractor.layers]
    cross = pack_cross_attention(
        (extractor.text_projector.weight, extractor.text_projector.bias),
        (both, both_bias),
        None,
        (query, query_bias, torch.zeros_like(query_bias)),
        (torch.stack([output.weight for output in outputs]), torch.stack([output.bias for output in outputs])),
        heads,
        eps=1e-5,
    )
    embedding = [extractor.signal_embedding.weight.clone(), extractor.signal_embedding.bias.clone()]
    ratio = extractor.layers[0].feed_forward.fc1.out_features // width
    return PackedExtractor(embedding, torch.cat(modulation), on_huge_pages(blocks), cross, heads, ratio)


def extractor_reasons(extractor: nn.Module, latents: Tensor, dtype: torch.dtype) -> list[str]:
    """Why the CPU engine cannot run this extractor on these latents (B, channels, length); empty if it can."""
    reasons = precision_reasons(dtype)
    if type(extractor) is not BaseExtractor:
        return [*reasons, f"it runs models.create('ibe') alone, and this one is a {type(extractor).__name__}"]
    width, layer = extractor.signal_embedding.out_features, extractor.layers[0]
    reasons += module_reasons(extractor) + size_reasons(width, layer.self_attn.num_heads, latents.shape[-1])
    if layer.feed_forward.fc1.out_features % width:
        inner = layer.feed_forward.fc1.out_features
        reasons.append(f"the feed-forward width must be a multiple of {width}, but it is {inner}")
    return reasons


def _conditions(
    extractor: BaseExtractor,
    packed: PackedExtractor,
    batch: int,
    text_embed: Tensor | None,
    text_mask: Tensor | None,
    patient: Tensor | None,
    order: Layout,
) -> Conditions:
    """Keys and values of every distinct condition; padding is left out unless the mask is one that adds to scores."""
    if text_embed is None:
        # The class-free token is not projected: nothing is, and the projection's bias is taken off again.
        nothing = torch.zeros(1, extractor.text_projector.in_features)
        token = extractor.classfree_emb - extractor.text_projector.bias
        return pack_conditions(packed.cross, [nothing], [token], [torch.zeros(1)], torch.zeros(batch).long(), order)
    mask = torch.ones(text_embed.shape[:2]) if text_mask is None else (text_mask != 0).float()
    if not extractor.float_mask:
        text_embed = [text[keep != 0] for text, keep in zip(text_embed, mask, strict=True)]
        mask = [keep[keep != 0] for keep in mask]
    first, of_record = distinct(zip(text_embed, mask, patient, strict=True))
    tokens = [
        torch.cat([text_embed[record], patient[record].expand(len(text_embed[record]), -1)], dim=-1) for record in first
    ]
    return pack_conditions(packed.cross, tokens, None, [mask[record] for record in first], of_record, order)


_extractors = PackCache(pack_extractor)


def cpu_extract(extractor: BaseExtractor, dtype: torch.dtype, latents: Tensor, *condition: Tensor | None) -> Tensor:
    """Base vectors (B, hidden), float32. condition: text, mask and patient as of `extract`."""
    order = layout(dtype)
    packed = _extractors.get(extractor, order)
    given = (None if value is None else value.to("cpu", torch.float32) for value in condition)
    conditions = _conditions(extractor, packed, len(latents), *given, order)
    cosine, sine = rotary_tables(latents.shape[-1], extractor.signal_embedding.out_features)
    return torch.ops.ecgtwin_fast.cpu_extract(
        [*packed.embedding, cosine.T.contiguous(), sine.T.contiguous(), packed.modulation],
        packed.blocks,
        conditions.keys,
        conditions.scores,
        conditions.values,
        conditions.of_record,
        latents.to("cpu", torch.float32).contiguous(),
        packed.heads,
        packed.ratio,
        dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
