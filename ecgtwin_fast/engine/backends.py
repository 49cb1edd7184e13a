"""The backends that can serve `generate_latents`, and the choice between them: the first that can.

A new backend is one object in `BACKENDS`: it says why it cannot serve a request, or serves it.
"""

from __future__ import annotations

import itertools
from typing import Protocol

import torch
from torch import Tensor

from ..errors import BackendError
from ..models.ecgtwin import DiT
from ..samplers import sample
from .choice import say_once
from .cpu import Cpu
from .cuda_backend import Cuda
from .graph_backend import Graph
from .request import Request
from .triton_backend import Triton


class Backend(Protocol):
    """Runs whole trajectories; all backends give the same latents, each within its tolerance."""

    name: str
    device: str | None
    """The type of device that it runs on alone; None: any."""

    def not_supported_reasons(self, request: Request) -> list[str]:
        """Every reason why this backend cannot serve the request; empty if it can."""

    def run(self, request: Request) -> Tensor:
        """Latents (B, C, L), float32, on the denoiser's device."""


class Reference:
    """The denoiser itself, called step by step: plain PyTorch, any device. The definition of correct."""

    name = "reference"
    device = None

    def not_supported_reasons(self, request: Request) -> list[str]:
        reasons = []
        if request.dtype not in (torch.float32, torch.bfloat16):
            reasons.append(f"dtype must be torch.float32 or torch.bfloat16, but it is {request.dtype}")
        other = ", ".join(sorted(str(dtype) for dtype in request.weight_dtypes - {torch.float32}))
        if other:
            reasons.append(f"the denoiser's weights must be torch.float32, but some are {other}")
        if request.edit is not None and not isinstance(request.denoiser, DiT):
            reasons.append(f"only models.create('dit') can be edited, not a {type(request.denoiser).__name__}")
        return reasons

    def run(self, request: Request) -> Tensor:
        device = request.device
        conditions = (request.text_embed, request.patient, request.base_vector)
        text, patient, base = (value.to(device, torch.float32) for value in conditions)
        mask = None if request.text_mask is None else request.text_mask.to(device)

        edit, counts, steps = request.edit, request.statements.to(device), itertools.count()
        first_edited = request.schedule.steps if edit is None else edit.first_step(request.schedule.timesteps)

        def eps(x: Tensor, t: Tensor) -> Tensor:
            if next(steps) < first_edited:
                return request.denoiser(x, t, text, mask, patient, base)
            return request.denoiser(x, t, text, mask, patient, base, edit=lambda _, maps: edit.maps(maps, counts))

        autocast = torch.autocast(device.type, torch.bfloat16, enabled=request.dtype == torch.bfloat16)
        with torch.no_grad(), autocast:
            return sample(
                request.schedule,
                eps,
                request.shape,
                seed=request.seed,
                first_index=request.first_index,
                group=1 if edit is None else edit.group,
                x_init=None if request.x_init is None else request.x_init.float(),
                noise=request.noise,
                device=device,
                progress=request.progress,
            )


# Behind the reference, backends run only by name: on no GPU have the numbers and speed of these been measured.
BACKENDS: list[Backend] = [Cpu(), Reference(), Triton(), Cuda(), Graph()]


def choose(name: str, request: Request) -> Backend:
    """The backend of this name, or for "auto" the first that can serve the request, of those for its device.

    "auto" warns once a process what it fell back to and why.

    Raises:
        BackendError: unknown name; or the backend, or with "auto" every backend, cannot serve the request.
    """
    known = [backend.name for backend in BACKENDS]
    if name not in ("auto", *known):
        raise BackendError(f"unknown backend {name!r}; known: auto, {', '.join(known)}")
    refusals = []
    for backend in BACKENDS:
        if name != backend.name and (name != "auto" or backend.device not in (None, request.device.type)):
            continue
        reasons = backend.not_supported_reasons(request)
        if not reasons:
            if refusals:
                say_once(f"using backend {backend.name!r}, because " + "; ".join(refusals), 4)
            return backend
        refusals.append(f"backend {backend.name!r} cannot run: {'; '.join(reasons)}")
    raise BackendError("; ".join(refusals))
