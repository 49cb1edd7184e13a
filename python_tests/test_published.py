"""Import of the published checkpoint files: same names, same numbers, nothing executed."""

from __future__ import annotations

import pickle

import pytest
import torch
from tiny_model import tree

from ecgtwin_fast import models
from ecgtwin_fast.cli import main
from ecgtwin_fast.errors import CheckpointError
from ecgtwin_fast.pretrained import read_model
from ecgtwin_fast.published import import_published

CONFIG = """
meta: {model_type: DiT_ECGTwin}
hyper_para:
  epochs: 30
  ddpm: {num_train_steps: 1000, beta_start: 0.00085, beta_end: 0.0120}
  DiT: {hidden_size: 64, depth: 2, num_heads: 4, patient_info_size: 3}
  ibe: {embed_dim: 32, num_heads: 2, ff_hidden_size: 48, num_layers: 1, text_embed_dim: 768, patient_info_size: 3}
inference_setting: {hr: 70, inference_timestep: 1000}
"""
DENOISER = {"hidden": 64, "depth": 2, "heads": 4, "patient_width": 3, "base_width": 32, "text_width": 768}
EXTRACTOR = {
    "hidden": 32, "layers": 1, "heads": 2, "feed_forward": 48, "text_width": 768, "patient_width": 3,
}  # fmt: skip


def small(network: str) -> dict[str, torch.Tensor]:
    """A state dict of the published autoencoder's shapes, one number a parameter, so that the file is small."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in models.create(network).state_dict().items()}
    return {name: torch.tensor(float(index)).expand(shape) for index, (name, shape) in enumerate(shapes.items())}


@pytest.fixture
def files(tmp_path):
    """Checkpoints in the published form: `vae`, `extractor`, `denoiser`, and a configuration."""
    torch.save({"encoder": small("enc"), "decoder": small("dec")}, tmp_path / "vae.pth")
    torch.save(models.create("ibe", **EXTRACTOR).state_dict(), tmp_path / "ibe.pth")
    torch.save(models.create("dit", **DENOISER).state_dict(), tmp_path / "dit.pth")
    (tmp_path / "twin.yaml").write_text(CONFIG)
    paths = {"vae": "vae.pth", "extractor": "ibe.pth", "denoiser": "dit.pth"}
    return {name: tmp_path / file for name, file in paths.items()} | {"configs": [tmp_path / "twin.yaml"]}


def test_names_and_numbers_stay(files, tmp_path):
    import_published(**files, out=tmp_path / "model")
    config, networks, card = read_model(tmp_path / "model")
    assert (config.text_encoder, config.text_width) == ("nomic", 768)
    assert dict(config.sizes["denoiser"]) == DENOISER
    assert dict(config.sizes["extractor"]) == EXTRACTOR
    assert "`ddpm` sampler with 1000 steps" in card and "not for diagnosis" in card
    both = torch.load(files["vae"], weights_only=True)
    given = both | {role: torch.load(files[role], weights_only=True) for role in ("extractor", "denoiser")}
    for role, network in networks.items():
        state = network.state_dict()
        assert list(state) == list(given[role])
        assert all(torch.equal(state[name], value) for name, value in given[role].items())


def test_the_command(files, tmp_path, capsys):
    arguments = ["import-published", "--config", str(files["configs"][0]), str(tmp_path / "model")]
    arguments += [word for role in ("vae", "extractor", "denoiser") for word in (f"--{role}", str(files[role]))]
    assert main(arguments) == 0
    assert "text encoder nomic, 768 wide" in capsys.readouterr().out
    assert len(tree(tmp_path / "model")) == 6


def test_the_extractors_own_configuration(files, tmp_path):
    own = tmp_path / "ibe.yaml"
    own.write_text("epoch: 50\nembed_dim: 32\nnum_heads: 2\nff_hidden_size: 48\nnum_layers: 1\n")
    files["configs"][0].write_text("hyper_para: {DiT: {hidden_size: 64, depth: 2, num_heads: 4}}")
    config = import_published(**files | {"configs": [own, *files["configs"]]}, out=tmp_path / "model")
    assert dict(config.sizes["denoiser"]) == {"hidden": 64, "depth": 2, "heads": 4, "base_width": 32}


def remove(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[:2000])


def nothing(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not a checkpoint")


def number(path):
    torch.save(7, path)


def lacking(path):
    state = torch.load(path, weights_only=True)
    name = list(state)[-1]
    del state[name]
    torch.save(state, path)


def wrong_depth(path):
    path.write_text(CONFIG.replace("depth: 2", "depth: 3"))


def wrong_type(path):
    path.write_text(CONFIG.replace("depth: 2", "depth: deep"))


def wrong_noise(path):
    path.write_text(CONFIG.replace("0.0120", "0.02"))


@pytest.mark.parametrize(
    "which, damage, message",
    [
        ("vae", remove, "vae.pth: no such file"),
        ("vae", truncate, "vae.pth: not readable as PyTorch weights"),
        ("extractor", nothing, "ibe.pth: not readable as PyTorch weights"),
        ("extractor", text, "ibe.pth: not readable as PyTorch weights"),
        ("denoiser", number, "dit.pth: holds a int, expected a state dict"),
        ("vae", lacking, "vae.pth: holds no state dict 'decoder'; its first keys are: encoder"),
        ("denoiser", lacking, "dit.pth: parameter final_layer.bias is missing"),
        ("config", remove, "twin.yaml: no such file"),
        ("config", text, "twin.yaml: holds a str"),
        ("config", wrong_depth, r"dit.pth: parameter blocks\.2\.\S+ is missing"),
        ("config", wrong_type, "twin.yaml: depth is 'deep', expected a positive integer"),
        ("config", wrong_noise, "twin.yaml: hyper_para.ddpm.beta_end is 0.02, the samplers have 0.012"),
    ],
)
def test_bad_files_are_named_and_nothing_is_written(files, tmp_path, which, damage, message):
    damage(files["configs"][0] if which == "config" else files[which])
    before = tree(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        import_published(**files, out=tmp_path / "model")
    assert tree(tmp_path) == before


class Mischief:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_not_run(files, tmp_path):
    files["denoiser"].write_bytes(pickle.dumps({"x_embedder.weight": Mischief(tmp_path / "ran")}))
    with pytest.raises(CheckpointError, match="dit.pth: not readable as PyTorch weights"):
        import_published(**files, out=tmp_path / "model")
    assert not (tmp_path / "ran").exists()
