"""Backend "triton": why it cannot run, its kernels under Triton's interpreter, and on a GPU against the reference."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_data import golden, relative_error
from golden_networks import ddpm25, load

from ecgtwin_fast import info, models, samplers
from ecgtwin_fast.engine import triton_backend
from ecgtwin_fast.engine.edit import Edit
from ecgtwin_fast.engine.gpu_support import device_reasons
from ecgtwin_fast.engine.latents import generate_latents
from ecgtwin_fast.errors import BackendError

FOLDER = Path(__file__).parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
REASONS = triton_backend.machine_reasons()
needs_gpu = pytest.mark.skipif(bool(REASONS), reason="; ".join(REASONS))


def conditions(batch: int = 3, tokens: int = 5, text: int = 24, base: int = 16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    mask = (torch.rand(batch, tokens, generator=generator) < 0.7).float()
    mask[:, 0] = 1
    return {
        "text_embed": torch.randn(batch, tokens, text, generator=generator),
        "text_mask": mask,
        "patient": torch.randn(batch, 3, generator=generator),
        "base_vector": torch.randn(batch, base, generator=generator),
    }


@needs_triton
def test_kernels_under_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / "triton_interpreted.py")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    outcome = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=FOLDER.parent)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_importing_everything_leaves_triton_alone():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import ecgtwin_fast.engine.backends, ecgtwin_fast.info, ecgtwin_fast.ops, ecgtwin_fast.generate"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=FOLDER.parent)


def test_every_reason_is_listed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    network = models.create("dit", hidden=72, heads=9, length=96, depth=1, text_width=24, base_width=16)
    network.final_layer.half()
    network.register_forward_hook(lambda *given: None)
    given = conditions(2, 130)
    given["text_mask"] = None
    given["base_vector"][1] = given["base_vector"][0]
    edit = Edit(2, torch.ones(2))
    with pytest.raises(BackendError) as caught:
        generate_latents(network, **given, steps=1, edit=edit, dtype=torch.float16, backend="triton")
    for reason in (
        "backend 'triton' cannot run: triton is not installed (pip install triton)",
        "torch sees no CUDA device",
        "dtype must be torch.float32 or torch.bfloat16, but it is torch.float16",
        "it does not edit records",
        "it takes at most 128 statements",
        "the weights must be torch.float32, but some are torch.float16",
        "the weights must be on a CUDA device, but some are on cpu",
        "forward hooks",
        "the width must be a multiple of 32 of at most 1024, but it is 72",
        "the width of a head must be one of 16, 32, 64, 128, but width 72 has 9 heads",
        "the length of a latent must be a power of two in 16..256, but it is 96",
    ):
        assert reason in str(caught.value)


def test_another_denoiser_is_a_reason():
    with pytest.raises(BackendError, match="it runs the denoiser models.create.* alone, and this one is a function"):
        generate_latents(lambda x, *_: x, **conditions(), steps=1, backend="triton")


def test_an_old_gpu_is_a_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    reasons = device_reasons(torch.device("cuda:0"))
    assert reasons == ["it needs a GPU of compute capability 8.0 or newer, and cuda:0 has 7.5"]


def test_info_names_it():
    reasons = triton_backend.machine_reasons()
    assert info.build()["Triton engine"] == (f"no: {'; '.join(reasons)}" if reasons else "float32, bfloat16")


@pytest.fixture
def dit():
    return load("dit").cuda()


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_golden_ddpm_trajectory(dit, dtype):
    made, reference = (ddpm25(dit, backend, dtype) for backend in ("triton", "reference"))
    expected = golden("ddpm25")
    limit = 1e-5 if dtype == torch.float32 else 2 * relative_error(reference, expected)
    assert relative_error(made, expected) <= limit


@needs_gpu
@pytest.mark.parametrize("tokens", [5, 25])
@pytest.mark.parametrize("sampler", samplers.SCHEDULES)
def test_graphs_give_the_references_trajectories(dit, sampler, tokens):
    for seed in (1, 2**64 - 1):
        given = {**conditions(5, tokens, 768, 256), "sampler": sampler, "steps": 10 + seed % 3, "seed": seed}
        made, expected = (generate_latents(dit, **given, backend=name).latents for name in ("triton", "reference"))
        assert relative_error(made, expected) < 1e-4


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_record_does_not_depend_on_its_batch(dit, dtype):
    count = torch.cuda.get_device_properties(0).multi_processor_count + 3
    given = conditions(count, 20, 768, 256)
    options = {"steps": 4, "backend": "triton", "dtype": dtype}
    together = generate_latents(dit, **given, **options).latents
    for record in (0, 1, count - 1):
        alone = {name: value[record : record + 1] for name, value in given.items()}
        assert torch.equal(generate_latents(dit, **alone, first_index=record, **options).latents[0], together[record])


@needs_gpu
def test_auto_leaves_it_until_it_has_been_measured(dit):
    assert generate_latents(dit, **conditions(1, 3, 768, 256), steps=1).backend == "reference"
