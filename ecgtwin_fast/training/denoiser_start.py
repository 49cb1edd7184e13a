"""What a denoiser, or one of the paper's ablations in its place, begins its training as."""

from __future__ import annotations

import torch
from torch import nn

from ..models.baselines import DiTAdaLN, DiTAttn
from ..models.ecgtwin import DiT

Denoiser = DiT | DiTAdaLN | DiTAttn


@torch.no_grad()
def identity_start(denoiser: Denoiser) -> None:
    """Every block starts as the identity in its modulated branches and the output at zero (Peebles and Xie, DiT)."""
    for block in denoiser.blocks:
        if not isinstance(denoiser, DiTAttn):
            _zero(block.adaLN_modulation[-1])
        if not isinstance(denoiser, DiTAdaLN):
            _zero(block.attn2.out_proj)
        if isinstance(denoiser, DiTAttn):  # has no gates
            _zero(block.attn1.out_proj, block.mlp[-1])
    # Positions reach the network only as the rotation of this bias: a strong one makes rhythm learnable much sooner.
    nn.init.normal_(denoiser.x_embedder.bias)
    last = denoiser.final_layer
    if isinstance(denoiser, DiTAdaLN):
        _zero(last.linear, last.adaLN_modulation[-1])
    else:
        _zero(last[-1] if isinstance(denoiser, DiTAttn) else last)


@torch.no_grad()
def blind(denoiser: Denoiser, what: str) -> None:
    """The denoiser never sees the "base" vector, or the "report": weights that take it are zero, and training leaves
    them so. Of a report it still sees how many statements it has."""
    if what == "base":
        nn.init.zeros_(denoiser.ib_projector.weight).requires_grad_(False)
        return
    weight = denoiser.text_projector.weight
    seen = torch.ones_like(weight)
    seen[:, text_columns(denoiser)] = 0
    weight *= seen
    weight.register_hook(lambda gradient: gradient * seen.to(gradient))


def text_columns(denoiser: Denoiser) -> slice:
    """Where the statement is in the input of `denoiser.text_projector`: after the patient's numbers in ECGTwin's own
    denoiser, before them in the ablations."""
    width = denoiser.text_width
    return slice(-width, None) if isinstance(denoiser, DiT) else slice(width)


def _zero(*layers: nn.Linear) -> None:
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
