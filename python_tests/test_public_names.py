"""The names that users may rely on. A change here is a change for them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest

import ecgtwin_fast

NAMES = {
    "DiffuSETS", "ECGTwin", "Record", "__version__", "accelerate", "generate_latents", "models", "read_record",
    "restore", "samplers", "scheduler",
}  # fmt: skip
PARAMETERS = {
    "ECGTwin.from_pretrained": ["model", "device"],
    "ECGTwin.save_pretrained": ["self", "folder", "dtype"],
    "ECGTwin.base_vector": ["self", "record"],
    "ECGTwin.generate": ["self", "record", "report", "heart_rate", "age", "sex", "sampling"],
    "ECGTwin.sample": [
        "self", "base_vector", "condition", "count", "sampler", "steps", "seed", "first_index", "batch_size",
        "backend", "dtype", "progress",
    ],
    "ECGTwin.edit": ["self", "record", "report", "options"],
    "ECGTwin.attention": ["self", "record", "base_vector", "timestep", "seed"],
    "ECGTwin.warmup": ["self", "count", "dtype"],
    "DiffuSETS.from_pretrained": ["model", "device"],
    "DiffuSETS.save_pretrained": ["self", "folder", "dtype"],
    "DiffuSETS.generate": ["self", "report", "heart_rate", "age", "sex", "sampling"],
    "DiffuSETS.sample": [
        "self", "condition", "count", "sampler", "steps", "seed", "first_index", "batch_size", "backend", "dtype",
        "progress",
    ],
    "DiffuSETS.signals": [
        "self", "conditions", "sampler", "steps", "seed", "first_index", "backend", "dtype", "progress",
    ],
    "Record": ["signal", "sampling_rate", "leads", "age", "sex", "report", "heart_rate", "source"],
    "read_record": ["path", "offset", "seconds", "overrides"],
    "generate_latents": [
        "denoiser", "text_embed", "text_mask", "patient", "base_vector", "sampler", "steps", "seed", "first_index",
        "x_init", "noise", "edit", "backend", "dtype", "progress",
    ],
    "accelerate": ["module", "backend", "dtype", "heads"],
    "restore": ["module"],
    "scheduler.DDPMScheduler.step": ["self", "model_output", "timestep", "sample", "generator", "return_dict"],
    "scheduler.DDPMScheduler.set_timesteps": ["self", "num_inference_steps", "device"],
    "scheduler.DDPMScheduler.add_noise": ["self", "original_samples", "noise", "timesteps"],
    "scheduler.fast_ddpm_generation": [
        "diffused_model", "noise_predictor", "batch_size", "device", "text_embed", "text_embed_mask", "pat_info",
        "base_vector", "progress_bar", "seed", "backend", "dtype",
    ],
    "models.create": ["name", "sizes"],
    "samplers.ddpm": ["eps", "shape", "steps", "clip", "options"],
    "samplers.ddim": ["eps", "shape", "steps", "eta", "clip", "options"],
    "samplers.dpm_solver_pp": ["eps", "shape", "steps", "clip", "options"],
}  # fmt: skip


def test_public_names():
    assert set(ecgtwin_fast.__all__) == NAMES
    assert NAMES <= set(dir(ecgtwin_fast))
    for name in NAMES:
        assert getattr(ecgtwin_fast, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'generate_ecg'"):
        ecgtwin_fast.generate_ecg  # noqa: B018


@pytest.mark.parametrize("path", PARAMETERS)
def test_parameters(path):
    value = ecgtwin_fast
    for name in path.split("."):
        value = getattr(value, name)
    assert list(inspect.signature(value).parameters) == PARAMETERS[path]


def test_version_is_the_installed_one():
    assert ecgtwin_fast.__version__ == version("ecgtwin-fast")


@pytest.mark.parametrize("statement", ["import ecgtwin_fast", "import ecgtwin_fast.cli"])
def test_importing_loads_nothing_heavy(statement):
    heavy = "{'torch', 'numpy', 'matplotlib', 'wfdb', 'tqdm', 'huggingface_hub', 'transformers'}"
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_importing_everything_loads_no_optional_package():
    heavy = "{'matplotlib', 'sklearn', 'huggingface_hub', 'transformers', 'sentence_transformers', 'triton'}"
    code = (
        "import sys; from ecgtwin_fast import *; import ecgtwin_fast.cli, ecgtwin_fast.twin_folder, "
        f"ecgtwin_fast.published; print(sorted({heavy} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
