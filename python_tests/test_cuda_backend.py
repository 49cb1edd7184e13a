"""Backend "cuda": why it cannot run, its kernels emulated on the CPU, and on a GPU against the reference."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emulated_trajectory import EMULATED, linear
from golden_data import golden, relative_error
from golden_networks import ddpm25, load
from test_triton import conditions

from ecgtwin_fast import extension, info, models, samplers
from ecgtwin_fast.engine import cuda_backend, cuda_trajectory
from ecgtwin_fast.engine.cuda_backend import Cuda
from ecgtwin_fast.engine.cuda_denoiser import fragments
from ecgtwin_fast.engine.edit import Edit
from ecgtwin_fast.engine.latents import generate_latents
from ecgtwin_fast.engine.request import Request
from ecgtwin_fast.errors import BackendError

REASONS = cuda_backend.machine_reasons()
needs_gpu = pytest.mark.skipif(bool(REASONS), reason="; ".join(REASONS))
emulated = pytest.mark.skipif(sys.platform != "linux", reason="the fibers of the emulation are tried on Linux alone")
SIZES = {"narrow": {"hidden": 32, "heads": 2}, "wide": {"hidden": 64, "heads": 2, "mlp_ratio": 2, "channels": 3}}

# Whole 64 positions are multiplied by warpgroups where a GPU has them, others by warps.
GPU_SIZES = [{}, {"hidden": 128, "heads": 4, "depth": 6}, *({**SIZES["wide"], "length": n} for n in (32, 64))]


def test_every_reason_is_listed(monkeypatch):
    monkeypatch.setattr(extension, "CUDA_REASON", "the CUDA kernels are not built")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    network = models.create("dit", hidden=72, heads=9, channels=5, length=48, depth=1, text_width=24, base_width=16)
    network.final_layer.half()
    network.register_forward_hook(lambda *given: None)
    given = conditions(2, 5)
    given["text_mask"] = None
    given["base_vector"][1] = given["base_vector"][0]
    with pytest.raises(BackendError) as caught:
        generate_latents(network, **given, steps=1, edit=Edit(2, torch.ones(2)), backend="cuda")
    for reason in (
        "backend 'cuda' cannot run: the CUDA kernels are not built",
        "torch sees no CUDA device",
        "dtype must be torch.bfloat16, but it is torch.float32",
        "it does not edit records",
        "the weights must be torch.float32, but some are torch.float16",
        "the weights must be on a CUDA device, but some are on cpu",
        "forward hooks",
        "it is compiled for widths 256 in 8, 128 in 4, 64 in 2, 32 in 2 heads, and this one has 72 in 9",
        "the length of a latent must be one of 32, 64, 96, 128, but it is 48",
        "a latent must have at most 4 channels, but it has 5",
    ):
        assert reason in str(caught.value)


def test_another_denoiser_is_a_reason():
    with pytest.raises(BackendError, match="it runs the denoiser models.create.* alone, and this one is a function"):
        generate_latents(lambda x, *_: x, **conditions(), steps=1, backend="cuda")


def test_hidden_units_that_make_no_strips_are_a_reason():
    network = models.create("dit", hidden=64, heads=2, mlp_ratio=1, depth=1)
    assert cuda_backend._size_reasons(network) == []
    network.blocks[0].mlp[0] = torch.nn.Linear(64, 96)
    reason = "the hidden units of the MLP must be a multiple of 64, but there are 96"
    assert cuda_backend._size_reasons(network) == [reason]


def test_info_names_it():
    assert info.build()["CUDA engine"] == (f"no: {'; '.join(REASONS)}" if REASONS else "bfloat16")


def test_importing_the_backend_touches_no_gpu():
    code = "import ecgtwin_fast.engine.backends, torch; assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


@pytest.mark.parametrize("by_rows", [True, False])
def test_fragments_are_what_lanes_multiply(by_rows):
    matrix = torch.arange(32 * 48.0).view(32, 48) % 251
    found = fragments(matrix, by_rows).view(-1, 32, 8).float()
    tiles = [(n, k) for n in range(2) for k in range(3)] if by_rows else [(n, k) for k in range(3) for n in range(2)]
    for (n, k), tile in zip(tiles, found, strict=True):
        for lane in (0, 6, 31):
            row, column = 16 * n + lane // 4, 16 * k + 2 * (lane % 4)
            places = [(row + 8 * (i // 4), column + 8 * (i // 2 % 2) + i % 2) for i in range(8)]
            assert tile[lane].tolist() == [matrix[place] for place in places]


@emulated
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("x_groups", "weight_groups"), [(1, 1), (1, 2), (2, 1)])
def test_linear(dtype, x_groups, weight_groups):
    x, weight = torch.randn(x_groups, 67, 45).to(dtype), torch.randn(weight_groups, 70, 45).to(dtype)
    bias = torch.randn(weight_groups, 70)
    exact = x.double() @ weight.double().mT
    assert relative_error(linear(x, weight, bias), exact + bias[:, None]) < 1e-6
    assert relative_error(linear(x, weight, None), exact) < 1e-6


def network(**sizes) -> torch.nn.Module:
    torch.manual_seed(0)
    made = models.create("dit", **{"depth": 2, "length": 64, "text_width": 24, "base_width": 16, **sizes})
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    return made.eval().requires_grad_(False)


def request(denoiser: torch.nn.Module, sampler: str, batch: int = 3, tokens: int = 5, **options) -> Request:
    given = {"seed": 2**64 - 3, "first_index": 2**40, "x_init": None, "noise": None, "progress": None, **options}
    schedule = samplers.schedule(sampler, 3)
    return Request(denoiser, **conditions(batch, tokens), schedule=schedule, dtype=torch.bfloat16, **given)


@pytest.fixture
def poisoned():
    """torch.empty gives NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module", params=EMULATED)
def cuda(request) -> Cuda:
    return Cuda("cpu", EMULATED[request.param])


def check_trajectory(made: torch.Tensor, asked: Request) -> None:
    """Against float64 at most twice the error of PyTorch's autocast, on the same draws."""
    exact, half = (
        generate_latents(
            asked.denoiser, asked.text_embed, asked.text_mask, asked.patient, asked.base_vector,
            sampler=asked.schedule.name, steps=asked.schedule.steps, seed=asked.seed, first_index=asked.first_index,
            x_init=asked.x_init, noise=asked.noise, backend="reference", dtype=dtype,
        ).latents
        for dtype in (torch.float32, torch.bfloat16)
    )  # fmt: skip
    assert relative_error(made, exact) <= 2 * relative_error(half, exact)


@emulated
@pytest.mark.parametrize("sampler", samplers.SCHEDULES)
def test_emulated_trajectories(cuda, poisoned, sampler):
    asked = request(network(**SIZES["narrow"]), sampler)
    assert cuda.not_supported_reasons(asked) == []
    check_trajectory(cuda.run(asked), asked)


@emulated
def test_emulated_trajectory_of_given_noise_and_many_tokens(cuda, poisoned):
    noise = torch.randn(3, 2, 3, 128)
    asked = request(network(**SIZES["wide"], length=128), "ddpm", 2, 20, x_init=torch.randn(2, 3, 128), noise=noise)
    check_trajectory(cuda.run(asked), asked)


@emulated
@pytest.mark.parametrize("sizes", [{"hidden": 128, "heads": 4}, {"hidden": 256, "heads": 8, "mlp_ratio": 2}])
def test_emulated_trajectories_of_published_widths(cuda, poisoned, sizes):
    asked = request(network(**sizes, depth=1, length=128), "ddim", 1)
    asked = dataclasses.replace(asked, schedule=samplers.schedule("ddim", 1))
    check_trajectory(cuda.run(asked), asked)


@emulated
def test_an_emulated_record_depends_neither_on_its_batch_nor_on_launches(cuda, poisoned, monkeypatch):
    denoiser, calls = network(**SIZES["narrow"]), []
    together = request(denoiser, "dpmpp")
    made = cuda.run(together)
    alone = {name: getattr(together, name)[2:] for name in ("text_embed", "text_mask", "patient", "base_vector")}
    apart = Request(
        denoiser, **alone, schedule=together.schedule, seed=together.seed, first_index=together.first_index + 2,
        x_init=None, noise=None, dtype=torch.bfloat16, progress=lambda done, of: calls.append((done, of)),
    )  # fmt: skip
    assert torch.equal(cuda.run(apart)[0], made[2])
    assert calls == [(1, 3), (2, 3), (3, 3)]
    monkeypatch.setattr(cuda_trajectory, "MODULATION_BYTES", 2 * 4 * 3 * 2 * 8 * 32)
    assert torch.equal(cuda.run(together), made)


@pytest.fixture
def dit():
    return load("dit").cuda()


@needs_gpu
def test_golden_ddpm_trajectory(dit):
    made, reference = (ddpm25(dit, backend, torch.bfloat16) for backend in ("cuda", "reference"))
    expected = golden("ddpm25")
    assert relative_error(made, expected) <= 2 * relative_error(reference, expected)


@needs_gpu
@pytest.mark.parametrize("tokens", [5, 25])
@pytest.mark.parametrize("sampler", samplers.SCHEDULES)
@pytest.mark.parametrize("sizes", GPU_SIZES)
def test_trajectories_on_a_gpu(sampler, tokens, sizes):
    torch.manual_seed(0)
    denoiser = models.create("dit", **sizes).eval().requires_grad_(False).cuda()
    given = {**conditions(5, tokens, 768, 256), "sampler": sampler, "steps": 10, "seed": 2**64 - 1}
    dtypes = {"cuda": torch.bfloat16, "reference": torch.float32}
    made, exact = (generate_latents(denoiser, **given, backend=n, dtype=d).latents for n, d in dtypes.items())
    half = generate_latents(denoiser, **given, backend="reference", dtype=torch.bfloat16).latents
    assert relative_error(made, exact) <= 2 * relative_error(half, exact)


@needs_gpu
def test_a_record_does_not_depend_on_its_batch(dit):
    count = torch.cuda.get_device_properties(0).multi_processor_count + 3
    given = conditions(count, 20, 768, 256)
    options = {"steps": 4, "backend": "cuda", "dtype": torch.bfloat16}
    together = generate_latents(dit, **given, **options).latents
    for record in (0, 1, count - 1):
        alone = {name: value[record : record + 1] for name, value in given.items()}
        assert torch.equal(generate_latents(dit, **alone, first_index=record, **options).latents[0], together[record])
