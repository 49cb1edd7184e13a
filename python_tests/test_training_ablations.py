"""The paper's ablations in the denoiser's place: trained alike, stored, loaded, sampled from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import patient
from training_store import write_store

from ecgtwin_fast import ECGTwin, models
from ecgtwin_fast.data.store import Store
from ecgtwin_fast.errors import CheckpointError, ECGTwinError
from ecgtwin_fast.pretrained import CONFIG_FILE
from ecgtwin_fast.training.configs import DenoiserConfig, stage_config
from ecgtwin_fast.training.denoiser_start import blind, identity_start
from ecgtwin_fast.training.run import load_trained, train_stage

ABLATIONS = {"adaln": {"network": "dit_adaln"}, "attn": {"network": "dit_attn"}}
ABLATIONS |= {"base": {"without": "base"}, "report": {"without": "report"}}
SIZES = {"hidden": 32, "depth": 2, "heads": 2, "text_width": 24, "base_width": 16, "time_width": 32}
NETWORKS = ("dit", "dit_adaln", "dit_attn")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return write_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def before(store, tmp_path_factory) -> Path:
    """A run folder with the stages that a denoiser builds on."""
    out = tmp_path_factory.mktemp("run") / "out"
    for stage in ("autoencoder", "extractor"):
        train_stage(stage, store, out, stage_config(stage, "smoke"))
    return out


def inputs(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": (2, 4, 64), "text_embed": (2, 3, 24), "patient": (2, 3), "base_vector": (2, 16)}
    drawn = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return drawn | {"t": torch.tensor([3, 900]), "text_mask": None}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_trains_and_its_model_makes_twins(store, before, tmp_path, name):
    out = tmp_path / "out"
    shutil.copytree(before, out)
    overrides = [f"{key}={value}" for key, value in ABLATIONS[name].items()]
    train_stage("denoiser", store, out, stage_config("denoiser", "smoke", None, overrides))
    model = ECGTwin.from_pretrained(out / "model", device="cpu")
    denoiser = model.networks["denoiser"]
    assert type(denoiser) is type(models.create(ABLATIONS[name].get("network", "dit")))
    trained = load_trained(out, "denoiser").state_dict()
    assert all(torch.equal(value, trained[key]) for key, value in denoiser.state_dict().items())
    twins = model.generate(patient(), "sinus rhythm|abnormal ECG", heart_rate=70, count=2, steps=3)
    assert np.isfinite(np.stack([twin.signal for twin in twins])).all()
    model.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / CONFIG_FILE).read_bytes() == (out / "model" / CONFIG_FILE).read_bytes()


@pytest.mark.parametrize("what", ["base", "report"])
def test_a_blind_denoiser_stays_blind_in_training(store, before, tmp_path, what):
    out = tmp_path / "out"
    shutil.copytree(before, out)
    train_stage("denoiser", store, out, stage_config("denoiser", "smoke", None, [f"without={what}"]))
    denoiser = load_trained(out, "denoiser")
    if what == "base":
        assert not denoiser.ib_projector.weight.any() and denoiser.ib_projector.bias.any()
    else:
        text = denoiser.text_projector.weight[:, -denoiser.text_width :]
        assert not text.any() and denoiser.text_projector.weight[:, : -denoiser.text_width].any()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("what", "unseen"), [("base", "base_vector"), ("report", "text_embed")])
def test_blind_to_one_input_and_to_no_other(name, what, unseen):
    torch.manual_seed(0)
    network = models.create(name, **SIZES).eval()
    blind(network, what)
    with torch.no_grad():
        first = network(**inputs())
        for key in ("x", "patient", "base_vector", "text_embed"):
            changed = network(**inputs() | {key: inputs(1)[key]})
            assert torch.equal(changed, first) == (key == unseen), key


@pytest.mark.parametrize("name", NETWORKS)
def test_identity_start_predicts_nothing_and_every_weight_can_learn(name):
    torch.manual_seed(0)
    network = models.create(name, **SIZES)
    identity_start(network)
    assert not network(**inputs()).any()
    optimiser = torch.optim.SGD(network.parameters(), 0.5)
    for _ in range(4):
        optimiser.zero_grad()
        (network(**inputs()) - inputs()["x"]).square().mean().backward()
        optimiser.step()
    still = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert not [key for key in still if not key.endswith(("in_proj_bias", "k_norm.bias"))], still


def test_wrong_names_are_told(tmp_path, store, before):
    with pytest.raises(ECGTwinError, match="network is 'unet', expected one of dit, dit_adaln, dit_attn"):
        DenoiserConfig(network="unet")
    with pytest.raises(ECGTwinError, match="without is 'age', expected 'base' or 'report'"):
        DenoiserConfig(without="age")
    out = tmp_path / "out"
    shutil.copytree(before, out)
    train_stage("denoiser", store, out, stage_config("denoiser", "smoke", None, ["network=dit_attn"]))
    config = out / "model" / CONFIG_FILE
    config.write_text(config.read_text().replace("dit_attn", "unet"))
    with pytest.raises(CheckpointError, match="denoiser is a network 'unet', expected 'dit'"):
        ECGTwin.from_pretrained(out / "model", device="cpu")
