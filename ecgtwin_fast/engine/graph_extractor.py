"""The Individual Base Extractor on a GPU: by this package's operators, captured in a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.extractor import BaseExtractor
from .cpu_support import PackCache
from .cuda_graph import Function, Recent
from .gpu_support import network_reasons
from .graph_weights import copied, round_products, take_in
from .training import training_forward


class PackedExtractor:
    """A `BaseExtractor` in one precision. Values are copied: later changes of the module do not show."""

    def __init__(self, extractor: BaseExtractor, dtype: torch.dtype):
        self.dtype = dtype
        made = copied(extractor)
        for layer in made.layers:
            own, other, first = layer.self_attn, layer.cross_attn, layer.feed_forward.fc1
            queries = slice(other.embed_dim)
            take_in(layer.layer_norm1, own.in_proj_weight, own.in_proj_bias)
            take_in(layer.layer_norm2, other.in_proj_weight[queries], other.in_proj_bias[queries])
            take_in(layer.layer_norm3, first.weight, first.bias)
        round_products(made, dtype)
        self._forward = training_forward(made, "operators")
        self._graphs = Recent()

    def _extract(self, latents: Tensor, *condition: Tensor | None) -> Tensor:
        # The weights are cast already; what lies between products is, as they come.
        with torch.autocast(latents.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return self._forward(latents.transpose(1, 2), *condition).float()

    def __call__(self, *given: Tensor | None) -> Tensor:
        shapes = tuple(None if value is None else value.shape for value in given)
        return self._graphs.get(shapes, lambda: Function(self._extract, given))(*given)


_extractors = PackCache(PackedExtractor)


def graph_reasons(extractor: nn.Module, dtype: torch.dtype, device: str = "cuda") -> list[str]:
    """Why this extractor cannot run so on a type of device; empty if it can. "cpu" is for the tests."""
    return network_reasons(extractor, dtype, device, BaseExtractor, "ibe")


def graph_extract(extractor: BaseExtractor, dtype: torch.dtype, *given: Tensor | None) -> Tensor:
    """Base vectors (B, hidden), float32. given: latents (B, C, L), and text, mask and patient as of `extract`."""
    device = extractor.signal_embedding.weight.device
    packed = _extractors.get(extractor, dtype)
    given = [None if value is None else value.to(device, torch.float32).contiguous() for value in given]
    with torch.no_grad(), torch.cuda.device(device if device.type == "cuda" else -1):
        return packed(*given)
