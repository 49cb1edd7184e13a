"""The autoencoder's decoder on the CPU, in one call of C++ (csrc/decoder.h)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..models.vae import LATENT_SCALE, AttentionResidual, Decoder, Residual
from .cpu_support import PackCache, attention_parts, module_reasons, precision_reasons
from .packing import Layout, layout, on_huge_pages, padded, strips
from .watch import watched

WIDTH_MULTIPLE, LENGTH_MULTIPLE = 8, 128
LATENT_MULTIPLE = 4
BLOCK_ROWS, CHUNK = 64, 256
"""As kBlockRows and kChunk in csrc/decoder.h."""

POINTWISE, CONVOLUTION, UPSAMPLING, ATTENTION = range(4)
"""As DecoderLayerKind in csrc/decoder.h."""


class PackedDecoder(NamedTuple):
    """A `Decoder` as `cpu_decode` takes it."""

    weights: list[Tensor]
    layers: list[int]
    leads: int
    eps: float


def at_points(weight: Tensor, kind: int) -> Tensor:
    """Weights (N, K, width) of a convolution at the points of csrc/cpu/convolution.h: (points, N, K)."""
    if kind == POINTWISE:
        return weight[None, ..., 0]
    taps = weight.double()
    if kind == UPSAMPLING:
        first, _, last = taps.unbind(-1)
        return torch.stack([first, taps.sum(-1), last])
    points = [0.0, 0.75, -0.75, 1.5, -1.5]
    scaled = []
    for point in points:
        distances = math.prod(point - other for other in points if other != point)
        powers = torch.tensor([1.0, point, point**2], dtype=torch.float64)
        scaled.append(taps @ (powers / distances))
    return torch.stack([*scaled, taps[..., 2]])


def in_order_of_use(weight: Tensor, order: Layout) -> Tensor:
    """Weights (points, N, K) as flat dwords [block of rows][point][chunk][strip][dword][row]."""
    blocks = strips(weight, order).split(BLOCK_ROWS // order.rows, dim=1)
    chunks = [chunk for block in blocks for point in block for chunk in point.split(CHUNK, dim=1)]
    return torch.cat([chunk.flatten() for chunk in chunks])


class _Packer:
    """Collects layers and their tensors; activations move between three buffers."""

    def __init__(self, order: Layout):
        self.order = order
        self.layers: list[int] = []
        self.weights: list[Tensor] = []
        self.current = 0

    def others(self) -> list[int]:
        return [buffer for buffer in range(3) if buffer != self.current]

    def convolution(
        self,
        conv: nn.Conv1d,
        source: int,
        target: int,
        norm: nn.GroupNorm | None = None,
        *,
        doubled: bool = False,
        accumulate: bool = False,
    ) -> None:
        kind = POINTWISE if conv.kernel_size == (1,) else UPSAMPLING if doubled else CONVOLUTION
        weight = padded(conv.weight, -2, LATENT_MULTIPLE)
        groups = norm.num_groups if norm else 0
        self.layers += [kind, weight.shape[1], conv.out_channels, source, target, groups, int(accumulate)]
        self.weights += [in_order_of_use(at_points(weight, kind), self.order)]
        self.weights += [padded(conv.bias, -1, self.order.rows), *((norm.weight, norm.bias) if norm else ())]

    def residual(self, block: Residual) -> None:
        inner, outer = self.others()
        self.convolution(block.conv_1, self.current, inner, block.groupnorm_1)
        if isinstance(block.residual_layer, nn.Conv1d):
            self.convolution(block.residual_layer, self.current, outer)
            self.current = outer
        self.convolution(block.conv_2, inner, self.current, block.groupnorm_2, accumulate=True)

    def attention(self, block: AttentionResidual) -> None:
        projections = block.attention
        matrices, (query_bias, output_bias) = attention_parts(
            projections.in_proj.weight, projections.in_proj.bias, projections.out_proj
        )
        query, key, value, output = (strips(matrix, self.order) for matrix in matrices)
        width = projections.out_proj.in_features
        self.layers += [ATTENTION, width, width, self.current, self.current, 0, 0]
        self.weights += [query, query_bias, key, value, output, output_bias]


def _norms(decoder: Decoder) -> Iterator[nn.GroupNorm]:
    return (module for module in decoder.modules() if isinstance(module, nn.GroupNorm))


def pack_decoder(decoder: Decoder, order: Layout) -> PackedDecoder:
    """Pack the weights. Their values are copied: later changes of the decoder do not show."""
    packer = _Packer(order)
    mix, *layers = decoder
    norm, doubled = None, False
    for layer in layers:
        if isinstance(layer, Residual):
            packer.residual(layer)
        elif isinstance(layer, AttentionResidual):
            packer.attention(layer)
        elif isinstance(layer, nn.GroupNorm):
            norm = layer
        elif isinstance(layer, nn.Upsample):
            doubled = True
        elif isinstance(layer, nn.Conv1d):
            target = packer.others()[0]
            packer.convolution(layer, packer.current, target, norm, doubled=doubled)
            packer.current, norm, doubled = target, None, False
    first = padded((mix.weight[..., 0].double() / LATENT_SCALE).float(), -2, LATENT_MULTIPLE)
    weights = [first, padded(mix.bias, -1, LATENT_MULTIPLE), *packer.weights]
    return PackedDecoder(on_huge_pages(weights), packer.layers, decoder[-1].out_channels, next(_norms(decoder)).eps)


def decoder_reasons(decoder: nn.Module, latents: Tensor, dtype: torch.dtype = torch.float32) -> list[str]:
    """Why the CPU engine cannot run this decoder on these latents (B, channels, length); empty if it can."""
    reasons = precision_reasons(dtype)
    if type(decoder) is not Decoder:
        return [*reasons, f"it runs models.create('dec') alone, and this one is a {type(decoder).__name__}"]
    reasons += module_reasons(decoder)
    convolutions = [module for module in decoder.modules() if isinstance(module, nn.Conv1d)]
    widths = sorted({conv.in_channels for conv in convolutions[2:]})
    if any(width % WIDTH_MULTIPLE for width in widths):
        reasons.append(f"widths must be multiples of {WIDTH_MULTIPLE}, but they are {widths}")
    if latents.shape[-1] % LENGTH_MULTIPLE or not latents.shape[-1]:
        length = latents.shape[-1]
        reasons.append(f"the length of a latent must be a multiple of {LENGTH_MULTIPLE}, but it is {length}")
    if len({norm.eps for norm in _norms(decoder)}) > 1:
        reasons.append("all GroupNorms must have the same eps")
    return reasons


_decoders = PackCache(pack_decoder)


def cpu_decode(decoder: Decoder, latents: Tensor, dtype: torch.dtype) -> Tensor:
    """ECGs (B, 8 L, leads), float32, of latents (B, C, L)."""
    packed = _decoders.get(decoder, layout(dtype, narrow=True))
    latents = latents.to("cpu", torch.float32).contiguous()

    def call(status: Tensor) -> Tensor:
        return torch.ops.ecgtwin_fast.cpu_decode(
            packed.weights,
            packed.layers,
            latents,
            packed.leads,
            packed.eps,
            dtype == torch.bfloat16,
            torch.get_num_threads(),
            status,
        )

    return watched(call, max(1, len(latents)), 1, None).transpose(1, 2)
