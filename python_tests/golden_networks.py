"""Published networks with their drawn weights, and how every one of them is checked."""

from __future__ import annotations

import torch
from golden_data import inp, shapes, weights
from torch import Tensor, nn

from ecgtwin_fast import models
from ecgtwin_fast.engine.latents import generate_latents

TIMESTEPS = torch.tensor([1, 500, 998])


def load(name: str) -> nn.Module:
    """A network with its drawn weights, strictly loaded; constant tables keep their computed values."""
    network = models.create(name)
    tables = {key: value for key, value in network.named_buffers() if key.endswith("time_emb.embeddings")}
    network.load_state_dict(weights(name) | tables, strict=True)
    return network.eval().requires_grad_(False)


def ddpm25(dit: nn.Module, backend: str, dtype: torch.dtype) -> Tensor:
    """What `backend` makes of the golden trajectory of that name, on the CPU."""
    return generate_latents(
        dit,
        inp("te5", (3, 5, 768), normalised=True),
        None,
        inp("p", (3, 3)),
        inp("bv", (3, 256)),
        steps=25,
        x_init=inp("x0", (3, 4, 128)),
        noise=torch.stack([inp(f"n{i}", (3, 4, 128)) for i in range(25)]),
        backend=backend,
        dtype=dtype,
    ).latents.cpu()


def assert_published_parameters(name: str) -> None:
    """The state dict has the published names and shapes, no more and no fewer."""
    state = {key: list(value.shape) for key, value in models.create(name).state_dict().items()}
    assert state == shapes()[name]


def denoiser_inputs() -> tuple[Tensor, Tensor, Tensor, None, Tensor, Tensor]:
    """x, t, text_embed, text_mask, patient, base_vector of the ablations' expected outputs."""
    text = inp("te5", (3, 5, 768), normalised=True)
    return inp("x", (3, 4, 128)), TIMESTEPS, text, None, inp("p", (3, 3)), inp("bv", (3, 256))
