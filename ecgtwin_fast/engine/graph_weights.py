"""Copies of networks whose products are in another precision."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def copied(network: nn.Module) -> nn.Module:
    """Later changes of the network do not show in it."""
    return copy.deepcopy(network).requires_grad_(False)


def take_in(norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> None:
    """Moves a norm's scale and shift into the linear layer (weight, bias) behind it, all of copies in float32: rounded
    to bfloat16 by themselves they cost more precision than in a product."""
    bias += weight @ norm.bias
    weight *= norm.weight
    norm.weight.fill_(1)
    norm.bias.zero_()


def round_products(network: nn.Module, dtype: torch.dtype) -> None:
    """Takes matrices and their biases to `dtype`, and leaves all else as it is."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.MultiheadAttention)):
            module.to(dtype)
