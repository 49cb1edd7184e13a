"""Backend "triton": whole trajectories of the denoiser `dit` by Triton kernels, captured in a CUDA graph."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from ..models.ecgtwin import DiT
from ..samplers import Progress
from .cpu_support import DTYPES, PackCache
from .gpu_support import request_reasons
from .request import Request

LARGEST_WIDTH, LARGEST_LENGTH, LARGEST_TOKENS = 1024, 256, 128
HEADS = (16, 32, 64, 128)


def machine_reasons() -> list[str]:
    """Why no Triton kernel can run here; empty if one can."""
    reasons = []
    if importlib.util.find_spec("triton") is None:
        reasons.append("triton is not installed (pip install triton)")
    if not torch.cuda.is_available():
        reasons.append("torch sees no CUDA device")
    return reasons


def _size_reasons(denoiser: DiT) -> list[str]:
    width, heads = denoiser.x_embedder.out_features, denoiser.blocks[0].attn1.num_heads
    reasons = []
    if width % 32 or width > LARGEST_WIDTH:
        reasons.append(f"the width must be a multiple of 32 of at most {LARGEST_WIDTH}, but it is {width}")
    if width % heads or width // heads not in HEADS:
        allowed = ", ".join(map(str, HEADS))
        reasons.append(f"the width of a head must be one of {allowed}, but width {width} has {heads} heads")
    length = denoiser.length
    if length & (length - 1) or not 16 <= length <= LARGEST_LENGTH:
        wanted = f"a power of two in 16..{LARGEST_LENGTH}"
        reasons.append(f"the length of a latent must be {wanted}, but it is {length}")
    return reasons


class Triton:
    """Takes as many records as the GPU has multiprocessors through all steps, then the next: their activations stay in
    the L2 cache. A record has the same bits in any batch.

    In bfloat16 the operands of products are; sums, norms, softmax and the residual stream are float32. With a progress
    callback it waits for the device after each step.
    """

    name = "triton"

    def __init__(self, device: str = "cuda"):
        # "cpu" is for the tests, where Triton's interpreter runs the kernels.
        self.device = device
        self._denoisers: PackCache | None = None

    def not_supported_reasons(self, request: Request) -> list[str]:
        reasons = machine_reasons() if self.device == "cuda" else []
        if request.dtype not in DTYPES:
            reasons.append(f"dtype must be torch.float32 or torch.bfloat16, but it is {request.dtype}")
        if int(request.statements.max()) > LARGEST_TOKENS:
            reasons.append(f"it takes at most {LARGEST_TOKENS} statements, but a record has more")
        return reasons + request_reasons(request, self.device, _size_reasons)

    def run(self, request: Request) -> Tensor:
        from .triton_denoiser import pack_denoiser, sizes_of
        from .triton_tiles import tiles_for

        if self._denoisers is None:
            self._denoisers = PackCache(lambda denoiser, key: pack_denoiser(denoiser, *key))
        device, sizes = request.device, sizes_of(request.denoiser)
        hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
        tiles = tiles_for(request.dtype, sizes.padded, sizes.length, hopper)
        packed = self._denoisers.get(request.denoiser, (request.dtype, tiles))
        with torch.no_grad(), torch.cuda.device(device if device.type == "cuda" else -1), packed.lock:
            return _run(request, packed)


def _waves(request: Request, device: torch.device) -> list[tuple[int, Tensor]]:
    """Records that run together: of one class of tokens, which so depends on the record alone."""
    from .triton_conditions import token_class

    # Under the interpreter any number does.
    size = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
    classes = torch.tensor([token_class(count) for count in request.statements.tolist()])
    return [
        (int(tokens), wave)
        for tokens in classes.unique()
        for wave in (classes == tokens).nonzero().flatten().split(size)
    ]


class _Reporter:
    """Calls `progress` for every step that so much of the work of all waves amounts to."""

    def __init__(self, progress: Progress, waves: int, steps: int):
        self.progress, self.waves, self.steps = progress, waves, steps
        self.work = 0

    def __call__(self) -> None:
        self.work += 1
        if self.work % self.waves == 0:
            self.progress(self.work // self.waves, self.steps)


def _run(request: Request, packed) -> Tensor:
    from .gpu_conditions import project_bases
    from .triton_conditions import known_conditions
    from .triton_launch import linear
    from .triton_trajectory import Draws, trajectory

    device, schedule = packed.device, request.schedule
    given = (request.text_embed, request.patient, request.base_vector)
    text, patient, base = (value.to("cpu", torch.float32) for value in given)
    mask = None if request.text_mask is None else request.text_mask.cpu()
    time = request.denoiser.t_embedder(schedule.timesteps.to(device))
    noise, x_init = (
        None if value is None else value.to(device, torch.float32) for value in (request.noise, request.x_init)
    )
    waves = _waves(request, device)
    report = None if request.progress is None else _Reporter(request.progress, len(waves), schedule.steps)
    made = torch.empty(request.shape, device=device)
    for tokens, wave in waves:
        draws = Draws(
            request.seed,
            request.first_index + wave,
            None if x_init is None else x_init[wave],
            None if noise is None else noise[:, wave].contiguous(),
        )
        known = known_conditions(packed, text[wave], None if mask is None else mask[wave], patient[wave], tokens)
        bases = project_bases(packed.modulation, linear, base[wave])
        made[wave] = trajectory(packed, len(wave), tokens).run(known, bases, time, schedule, draws, report)
    return made
