"""Backend "graph": a step of a transformer denoiser by PyTorch and our operators, captured in a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.baselines import DiTAdaLN, DiTAttn
from ..models.ecgtwin import DiT
from .cpu_support import DTYPES, PackCache
from .gpu_support import machine_reasons, request_reasons
from .graph_denoiser import Denoiser, pack_denoiser
from .graph_trajectory import trajectory
from .request import Request

LARGEST_HEAD = 128
SERVED = {DiT: "dit", DiTAdaLN: "dit_adaln", DiTAttn: "dit_attn"}


def _size_reasons(denoiser: Denoiser) -> list[str]:
    width, block = denoiser.x_embedder.out_features, denoiser.blocks[0]
    heads = getattr(block, "attn1", None) or block.attn
    reasons = []
    if width % 2:
        reasons.append(f"the width must be even, but it is {width}")
    if width // heads.num_heads > LARGEST_HEAD:
        wanted = f"at most {LARGEST_HEAD}"
        reasons.append(f"the width of a head must be {wanted}, but width {width} has {heads.num_heads} heads")
    return reasons


class Graph:
    """Takes a batch through all steps, any sampler's, by one graph for its shape and precision.

    In bfloat16 products and activations are; sums within an operator, softmax and the trajectory are float32. With a
    progress callback it waits for the device after each step.
    """

    name = "graph"

    def __init__(self, device: str = "cuda"):
        # "cpu" is for the tests, where the step is not captured.
        self.device = device
        self._denoisers = PackCache(pack_denoiser)

    def not_supported_reasons(self, request: Request) -> list[str]:
        reasons = machine_reasons() if self.device == "cuda" else []
        if request.dtype not in DTYPES:
            reasons.append(f"dtype must be torch.float32 or torch.bfloat16, but it is {request.dtype}")
        return reasons + request_reasons(request, self.device, _size_reasons, SERVED)

    def run(self, request: Request) -> Tensor:
        device = request.device
        packed = self._denoisers.get(request.denoiser, request.dtype)
        given = (request.text_embed, request.text_mask, request.patient, request.base_vector)
        given = (None if value is None else value.to(device, torch.float32) for value in given)
        with torch.no_grad(), torch.cuda.device(device if device.type == "cuda" else -1):
            known = packed.known(request.denoiser, *given)
            time = request.denoiser.t_embedder(request.schedule.timesteps.to(device))
            return trajectory(packed, known, request.noise is not None).run(request, known, time)
