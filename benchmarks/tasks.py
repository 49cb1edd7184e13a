"""What the benchmark of the denoiser computes, in which ways, and when an answer counts as right."""

from __future__ import annotations

import copy
import sys
from typing import NamedTuple

import torch
from machine import ROOT
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

sys.path.insert(0, str(ROOT / "python_tests"))

from golden_data import inp, relative_error  # noqa: E402

from ecgtwin_fast.engine.backends import choose  # noqa: E402
from ecgtwin_fast.engine.decoder import decode  # noqa: E402
from ecgtwin_fast.engine.latents import generate_latents  # noqa: E402
from ecgtwin_fast.engine.request import PATIENT_WIDTH, Request  # noqa: E402
from ecgtwin_fast.models.ecgtwin import DiT  # noqa: E402
from ecgtwin_fast.samplers import COEFFICIENTS, Schedule  # noqa: E402

SAMPLER = "ddim"
ERROR_LIMIT, TRAJECTORY_LIMIT, TRAJECTORY_STEPS = 1e-5, 1e-4, 25
PROBED_TIMESTEPS = (960, 500, 40)


class WrongAnswer(Exception):
    """A contestant's result is further from the reference than allowed."""


class Contestant(NamedTuple):
    """One way to compute: kind "eager", "compile", "autotune" or "ours", in float32 or bfloat16 (for PyTorch that is
    autocast), by a backend of this package: of PyTorch's own ways that is the reference. Ours on a GPU are named by
    their backends."""

    kind: str
    dtype: torch.dtype
    backend: str = "reference"

    @property
    def name(self) -> str:
        way = self.kind if self.backend in ("reference", "cpu") else self.backend
        return f"{way} {str(self.dtype).removeprefix('torch.')}"


SINGLE, HALF = (Contestant("eager", dtype) for dtype in (torch.float32, torch.bfloat16))


class Denoising:
    """Whole calls of `generate_latents`; every record has a report, a patient and a base vector of its own. All of it
    is on the network's device.

    Attributes:
        network: the eager network; methods take it or its compiled form. batch: records. units: steps of a timed call.
        flop: of the reference's products, for one record and unit.
    """

    what = "denoiser"

    def __init__(self, network: DiT, batch: int, steps: int, tokens: int):
        self.network, self.batch, self.units = network, batch, steps
        self.flop = denoiser_flop(network)
        self._device = network.x_embedder.weight.device
        self.conditions = {
            "text_embed": inp("benchmark text", (batch, tokens, network.text_width), normalised=True).to(self._device),
            "text_mask": None,
            "patient": inp("benchmark patient", (batch, PATIENT_WIDTH)).to(self._device),
            "base_vector": inp("benchmark base", (batch, network.base_width)).to(self._device),
        }
        self._x = inp("benchmark x", (batch, network.channels, network.length)).to(self._device)

    def run(self, network: nn.Module, backend: str, dtype: torch.dtype, steps: int | None = None) -> Tensor:
        """What is timed, or with `steps` a shorter or longer one."""
        options = {"sampler": SAMPLER, "steps": steps or self.units, "backend": backend, "dtype": dtype}
        return generate_latents(network, **self.conditions, **options).latents

    def answer(self, network: nn.Module, backend: str, dtype: torch.dtype) -> Tensor:
        """The predicted noise at some timesteps, through a schedule whose only step hands it out as the result."""
        only_epsilon = torch.tensor([[float(name == "k_eps") for name in COEFFICIENTS]])
        found = []
        for timestep in PROBED_TIMESTEPS:
            schedule = Schedule("epsilon", torch.tensor([timestep]), only_epsilon)
            drawn = {"seed": 0, "first_index": 0, "x_init": self._x, "noise": None}
            request = Request(network, **self.conditions, schedule=schedule, **drawn, dtype=dtype, progress=None)
            found.append(choose(backend, request).run(request))
        return torch.stack(found)

    @torch.no_grad()
    def exact(self) -> Tensor:
        network = copy.deepcopy(self.network).double()
        given = [None if value is None else value.double() for value in self.conditions.values()]
        timesteps = (torch.full((self.batch,), timestep, device=self._device) for timestep in PROBED_TIMESTEPS)
        return torch.stack([network(self._x.double(), t, *given) for t in timesteps])


class Decoding:
    """Latents to signals; attributes as of `Denoising`, with one unit to a call."""

    what, units = "decoder", 1

    def __init__(self, network: nn.Module, batch: int, channels: int, length: int):
        self.network, self.batch = network, batch
        self._latents = inp("benchmark x", (batch, channels, length)).to(next(network.parameters()).device)
        with FlopCounterMode(display=False) as counter:
            copy.deepcopy(network).to("meta")(torch.empty(1, channels, length, device="meta"))
        self.flop = counter.get_total_flops()

    def run(self, network: nn.Module, backend: str, dtype: torch.dtype) -> Tensor:
        return decode(network, self._latents, backend=backend, dtype=dtype).signals

    answer = run

    @torch.no_grad()
    def exact(self) -> Tensor:
        return copy.deepcopy(self.network).double()(self._latents.double())


Task = Denoising | Decoding


def denoiser_flop(network: DiT) -> float:
    """Of one step for one record: the matrices of all blocks and the products of self-attention. What does not grow
    with the latent's length, and attention to the statements, is left out (2 % at 8 statements)."""
    width, block = network.x_embedder.out_features, network.blocks[0]
    matrices = 6 * width**2 + 2 * width * block.mlp[0].out_features
    attention = 2 * network.length * width
    return 2.0 * network.length * len(network.blocks) * (matrices + attention)


class Standard(NamedTuple):
    """The eager network's answers, by which others are judged: in float32, under autocast, in float64."""

    single: Tensor
    half: Tensor
    exact: Tensor

    @classmethod
    def of(cls, task: Task) -> Standard:
        return cls(*(task.answer(task.network, c.backend, c.dtype) for c in (SINGLE, HALF)), task.exact())


def verify(name: str, dtype: torch.dtype, answer: Tensor, standard: Standard) -> None:
    """Raises WrongAnswer unless the relative L2 error is at most 1e-5 against the float32 reference, or for bfloat16
    against float64 at most twice that of autocast."""
    if dtype == torch.float32:
        check(name, relative_error(answer, standard.single), ERROR_LIMIT)
    else:
        check(name, relative_error(answer, standard.exact), 2 * relative_error(standard.half, standard.exact))


def check(name: str, error: float, limit: float) -> None:
    if not error <= limit:
        raise WrongAnswer(f"{name}: its relative error is {error:.2g}, at most {limit:.2g} is allowed: it gets no time")


def verify_all(task: Task, networks: dict[Contestant, nn.Module], bar: tqdm) -> None:
    """Verifies every contestant on the task, which also compiles, packs and warms up."""
    standard = Standard.of(task)
    for contestant, network in networks.items():
        bar.set_description(f"{task.what}, batch {task.batch}, verifying {contestant.name}")
        if contestant.kind != "eager":
            name = f"{task.what} of {contestant.name} at batch {task.batch}"
            verify(name, contestant.dtype, task.answer(network, contestant.backend, contestant.dtype), standard)
        bar.update()
    if isinstance(task, Denoising):
        mine = next(contestant.backend for contestant in networks if contestant.kind == "ours")
        ours, eager = (task.run(task.network, name, torch.float32, TRAJECTORY_STEPS) for name in (mine, "reference"))
        name = f"{TRAJECTORY_STEPS} steps of ours float32 at batch {task.batch}"
        check(name, relative_error(ours, eager), TRAJECTORY_LIMIT)
