"""Model directories: what is written is read back, and each thing that can be wrong with one has its message."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import CONFIG, SIZES, states, tree, write_tiny_model

from ecgtwin_fast import pretrained
from ecgtwin_fast.errors import CheckpointError, ECGTwinError, TextEncoderError
from ecgtwin_fast.pretrained import ModelConfig, find_model, read_model, write_model
from ecgtwin_fast.staging import staged_folder

FILES = [
    "README.md",
    "config.json",
    "decoder.safetensors",
    "denoiser.safetensors",
    "encoder.safetensors",
    "extractor.safetensors",
]


def test_a_directory_reads_back(tmp_path):
    write_tiny_model(tmp_path / "new" / "model")
    assert tree(tmp_path / "new" / "model") == FILES
    config, networks, card = read_model(tmp_path / "new" / "model")
    assert config == CONFIG
    assert card == "# tiny\n"
    for role, state in states().items():
        loaded = networks[role].state_dict()
        assert list(loaded) == list(state)
        assert all(torch.equal(loaded[name], value) for name, value in state.items())
        assert not networks[role].training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_files_load_as_float32(tmp_path, dtype):
    write_tiny_model(tmp_path, dtype)
    stored = load_file(tmp_path / "denoiser.safetensors")
    assert {value.dtype for value in stored.values()} == {dtype}
    loaded = read_model(tmp_path)[1]["denoiser"].state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    assert all(torch.equal(loaded[name], value.float()) for name, value in stored.items())


def test_reading_a_model_leaves_the_random_state_alone(tmp_path):
    write_tiny_model(tmp_path)
    before = torch.get_rng_state()
    read_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def edit(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def network(role, **sizes):
    return {role: {"network": pretrained.NETWORKS[role], "sizes": SIZES[role] | sizes}}


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"format_version": 2}, CheckpointError, "format_version is 2, this release reads 1"),
        ({"model_type": "diffusets"}, CheckpointError, "model_type is 'diffusets'"),
        ({"sampling_rate": 100}, CheckpointError, "sampling_rate is 100, this release reads 102.4"),
        ({"leads": ["I", "II"]}, CheckpointError, "leads is"),
        ({"denoiser": None}, CheckpointError, "denoiser is missing"),
        ({"denoiser": {"network": "dit"}}, CheckpointError, "denoiser.sizes is missing"),
        ({"denoiser": {"network": "dit", "sizes": [7]}}, CheckpointError, r"sizes of the denoiser are \[7\]"),
        ({"denoiser": {"network": "unet", "sizes": {}}}, CheckpointError, "network 'unet', expected 'dit'"),
        (network("denoiser", colour="red"), CheckpointError, "denoiser do not make a network.*colour"),
        (network("denoiser", heads=5), CheckpointError, "denoiser do not make a network"),
        (network("denoiser", base_width=48), CheckpointError, "base vectors of width 32, the denoiser takes 48"),
        (network("decoder", latent=8), CheckpointError, "channels of a latent differ"),
        ({"text_encoder": {"name": "hash", "width": 384}}, TextEncoderError, "width 384, the extractor takes 768"),
        (network("denoiser", text_width=512), TextEncoderError, "width 768, the denoiser takes 512"),
        (network("denoiser", depth=2), CheckpointError, r"denoiser.safetensors: parameter blocks.1.* is missing"),
        (network("denoiser", max_tokens=9), CheckpointError, r"c_pos_embed.pos_encoding has shape \(1, 4, 32\), the"),
    ],
)
def test_configurations_that_do_not_fit(tmp_path, changes, error, message):
    write_tiny_model(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(error, match=message) as caught:
        read_model(tmp_path)
    assert str(tmp_path) in str(caught.value)


def drop(state):
    del state["x_embedder.bias"]


def add(state):
    state["extra.weight"] = torch.zeros(1)


def reshape(state):
    state["x_embedder.bias"] = torch.zeros(31)


def integers(state):
    state["x_embedder.bias"] = torch.zeros(32, dtype=torch.int32)


@pytest.mark.parametrize(
    "change, message",
    [
        (drop, "parameter x_embedder.bias is missing"),
        (add, "parameter extra.weight is not in the network"),
        (reshape, r"parameter x_embedder.bias has shape \(31,\), the network has \(32,\)"),
        (integers, "parameter x_embedder.bias is torch.int32, expected floating-point"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, message):
    path = write_tiny_model(tmp_path) / "denoiser.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    with pytest.raises(CheckpointError, match=f"denoiser.safetensors: {message}"):
        read_model(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_truncated_weights(tmp_path, keep):
    path = write_tiny_model(tmp_path) / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="encoder.safetensors: not readable as safetensors"):
        read_model(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "decoder.safetensors"])
def test_missing_files(tmp_path, name):
    (write_tiny_model(tmp_path) / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: no such file"):
        read_model(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "\udcff"])
def test_configurations_that_are_no_configuration(tmp_path, text):
    write_tiny_model(tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match="config.json: "):
        read_model(tmp_path)


def test_a_model_that_does_not_fit_is_not_written(tmp_path):
    wrong = states()
    drop(wrong["denoiser"])
    with pytest.raises(CheckpointError, match="x_embedder.bias is missing"):
        write_model(tmp_path / "model", CONFIG, wrong, "")
    with pytest.raises(TextEncoderError, match="width 64"):
        write_model(tmp_path / "model", ModelConfig(SIZES, text_width=64), states(), "")
    assert tree(tmp_path) == []


def test_an_error_while_writing_leaves_the_old_model(tmp_path, monkeypatch):
    write_tiny_model(tmp_path / "model")
    old = (tmp_path / "model" / "denoiser.safetensors").read_bytes()

    def full_disk(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("json.dumps", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_model(tmp_path / "model", CONFIG, states(seed=1), "")
    assert tree(tmp_path / "model") == FILES
    assert (tmp_path / "model" / "denoiser.safetensors").read_bytes() == old


def test_finding_models(tmp_path, monkeypatch):
    assert find_model(tmp_path) == tmp_path
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file: is a file"):
        find_model(tmp_path / "file")
    with pytest.raises(CheckpointError, match="nowhere: no such model directory"):
        find_model(tmp_path / "nowhere")
    monkeypatch.setattr(pretrained, "BUNDLED", tmp_path)
    with pytest.raises(CheckpointError, match="carries no bundled model"):
        find_model("bundled")
    (tmp_path / "config.json").touch()
    assert find_model("bundled") == tmp_path


def test_hub_ids(tmp_path, monkeypatch):
    asked = []

    def download(hub_id, allow_patterns):
        asked.append((hub_id, allow_patterns))
        if hub_id == "nobody/nothing":
            raise ConnectionError("the network cannot be reached\nmore lines")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert find_model("some-lab/ecg.twin") == tmp_path
    assert asked == [("some-lab/ecg.twin", ["config.json", "README.md", "*.safetensors"])]
    with pytest.raises(CheckpointError, match="nobody/nothing: .*hub does not give it: the network cannot be reached$"):
        find_model("nobody/nothing")


def test_staged_folders_keep_other_files_and_drop_what_they_replace(tmp_path):
    target = tmp_path / "deep" / "out"
    with staged_folder(target) as scratch:
        (scratch / "twin_1.dat").write_text("old")
        (scratch / "notes").write_text("kept")
        assert not target.exists()
    with staged_folder(target, replaces=["twin_*"]) as scratch:
        (scratch / "twin_0.dat").write_text("new")
    assert tree(target) == ["notes", "twin_0.dat"]
    with pytest.raises(ZeroDivisionError), staged_folder(target, replaces=["*"]) as scratch:
        (scratch / "half").write_text("written")
        raise ZeroDivisionError
    assert tree(target) == ["notes", "twin_0.dat"]
    with pytest.raises(ECGTwinError, match="notes: is a file"), staged_folder(target / "notes"):
        pass


def test_weights_that_another_directory_has_are_read_from_there(tmp_path):
    write_tiny_model(tmp_path / "first")
    others = states(seed=1) | {role: states()[role] for role in ("encoder", "decoder")}
    shared = {role: f"../first/{role}.safetensors" for role in ("encoder", "decoder")}
    write_model(tmp_path / "second", CONFIG, others, "# shares\n", shared=shared)
    assert tree(tmp_path / "second") == ["README.md", "config.json", "denoiser.safetensors", "extractor.safetensors"]
    config, networks, _ = read_model(tmp_path / "second")
    assert config == CONFIG
    for role, network in networks.items():
        assert all(torch.equal(others[role][name], value) for name, value in network.state_dict().items()), role
    (tmp_path / "first" / "decoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"second/\.\./first/decoder\.safetensors: no such file"):
        read_model(tmp_path / "second")
