"""`decode`: from latents to ECGs, by whichever engine can."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ECGTwinError
from ..models.vae import Decoder
from .choice import engine_for
from .cpu_decoder import cpu_decode, decoder_reasons
from .graph_decoder import graph_decode, graph_reasons


class Decoded(NamedTuple):
    """ECGs (B, 8 L, leads) in mV, float32, and the backend that made them."""

    signals: Tensor
    backend: str


def _check(decoder: nn.Module, latents: Tensor) -> None:
    channels = decoder[0].in_channels if isinstance(decoder, Decoder) else "C"
    if latents.dim() != 3 or channels not in ("C", latents.shape[1]) or not latents.is_floating_point():
        raise ECGTwinError(
            f"latents must be floating-point numbers of shape (B, {channels}, L), but they are {latents.dtype} of "
            f"shape {tuple(latents.shape)}"
        )


@torch.no_grad()
def decode(
    decoder: nn.Module, latents: Tensor, *, backend: str = "auto", dtype: torch.dtype = torch.float32
) -> Decoded:
    """ECGs of scaled latents (arXiv 2501.05932).

    Args:
        latents: (B, channels, L), as the sampler gives them.
        backend: "cpu", "graph", "reference", or "auto" for the CPU engine where it can run; "triton" or "cuda", which
            made the latents, for "graph" where that can run. Where neither can, those take the reference.
        dtype: of the products, float32 or bfloat16; on the CPU engine sums, norms, softmax and the residual stream are
            float32, on a GPU activations are of this type too.

    Raises:
        BackendError: the backend is unknown or cannot run; the message lists every reason.
        ECGTwinError: latents of another shape or that are not floating-point numbers.
    """
    _check(decoder, latents)
    engine = engine_for(
        backend, "the decoder", lambda: decoder_reasons(decoder, latents, dtype), lambda: graph_reasons(decoder, dtype)
    )
    if engine == "cpu":
        return Decoded(cpu_decode(decoder, latents, dtype), engine)
    if engine == "graph":
        return Decoded(graph_decode(decoder, latents, dtype), engine)
    with torch.autocast(latents.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        return Decoded(decoder(latents.float()).float(), engine)
