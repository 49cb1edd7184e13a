"""The autoencoder's decoder on a GPU: norm and SiLU in one, channels side by side, captured in a CUDA graph.

Activations are (B, C, 1, L) in the memory format of channels last: convolutions of two dimensions keep it, those of one
do not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.vae import LATENT_SCALE, AttentionResidual, Decoder, Residual
from ..ops import group_norm_silu
from .cpu_support import PackCache
from .cuda_graph import Function, Recent
from .gpu_support import network_reasons

MOST_RECORDS = 64
"""Decoded at once: enough to fill a GPU, and few enough for the graph's memory."""


class _Convolution:
    def __init__(self, conv: nn.Conv1d, dtype: torch.dtype):
        weight = conv.weight.detach().unsqueeze(2)
        self.weight = weight.to(dtype, copy=True, memory_format=torch.channels_last)
        self.bias, self.padding = conv.bias.detach().to(dtype, copy=True), (0, conv.padding[0])

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)


class _NormSiLU:
    def __init__(self, norm: nn.GroupNorm, dtype: torch.dtype):
        self.weight, self.bias = (value.detach().to(dtype, copy=True) for value in (norm.weight, norm.bias))
        self.groups, self.eps = norm.num_groups, norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return group_norm_silu(x.squeeze(2), self.weight, self.bias, self.groups, self.eps).unsqueeze(2)


class _Residual:
    def __init__(self, block: Residual, dtype: torch.dtype):
        self.first = _NormSiLU(block.groupnorm_1, dtype), _Convolution(block.conv_1, dtype)
        self.second = _NormSiLU(block.groupnorm_2, dtype), _Convolution(block.conv_2, dtype)
        shortcut = block.residual_layer
        self.shortcut = _Convolution(shortcut, dtype) if isinstance(shortcut, nn.Conv1d) else shortcut

    def __call__(self, x: Tensor) -> Tensor:
        h = x
        for norm, conv in (self.first, self.second):
            h = conv(norm(h))
        return h + self.shortcut(x)


class _Attention:
    def __init__(self, block: AttentionResidual, dtype: torch.dtype):
        self.attention = copy.deepcopy(block.attention).requires_grad_(False).to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.attention(x.squeeze(2).transpose(1, 2)).transpose(1, 2).unsqueeze(2)


_LAYERS = {Residual: _Residual, AttentionResidual: _Attention, nn.GroupNorm: _NormSiLU, nn.Conv1d: _Convolution}
"""By module; a GroupNorm stands for itself and the SiLU behind it."""


class PackedDecoder:
    """A `Decoder` in one precision. Values are copied: later changes of the module do not show."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype):
        self.dtype = dtype
        self._layers: list[Callable[[Tensor], Tensor]] = []
        for layer in decoder:
            if isinstance(layer, nn.Upsample):
                self._layers.append(lambda x: F.interpolate(x, scale_factor=(1, 2)))
            elif not isinstance(layer, nn.SiLU):
                self._layers.append(_LAYERS[type(layer)](layer, dtype))
        self._graphs = Recent()

    def _decode(self, latents: Tensor) -> Tensor:
        x = (latents / LATENT_SCALE).to(self.dtype).unsqueeze(2).contiguous(memory_format=torch.channels_last)
        for layer in self._layers:
            x = layer(x)
        return x.squeeze(2).transpose(1, 2).float()

    def __call__(self, latents: Tensor) -> Tensor:
        """ECGs (B, 8 L, leads) of latents (B, C, L), float32."""
        graph = self._graphs.get(latents.shape, lambda: Function(self._decode, [latents]))
        return graph(latents)


_decoders = PackCache(PackedDecoder)


def graph_reasons(decoder: nn.Module, dtype: torch.dtype, device: str = "cuda") -> list[str]:
    """Why this decoder cannot run so on a type of device; empty if it can. "cpu" is for the tests."""
    return network_reasons(decoder, dtype, device, Decoder, "dec")


def graph_decode(decoder: Decoder, latents: Tensor, dtype: torch.dtype) -> Tensor:
    """ECGs (B, 8 L, leads), float32, of latents (B, C, L), on the decoder's device."""
    device = decoder[0].weight.device
    packed = _decoders.get(decoder, dtype)
    parts = latents.to(device, torch.float32).contiguous().split(MOST_RECORDS)
    with torch.no_grad(), torch.cuda.device(device if device.type == "cuda" else -1):
        return torch.cat([packed(part) for part in parts])
