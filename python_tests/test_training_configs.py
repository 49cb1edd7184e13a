"""Configurations of the stages: published defaults, presets, files, overrides and their errors."""

from __future__ import annotations

import json

import pytest

from ecgtwin_fast import models
from ecgtwin_fast.errors import CheckpointError
from ecgtwin_fast.training.configs import PRESETS, STAGES, ConfigError, preset_config, stage_config, to_dict

PUBLISHED = """
hyper_para:
  epochs: 12
  batch_size: 128
  lr: 1e-4
  ddpm: {num_train_steps: 1000, beta_start: 0.00085, beta_end: 0.0120}
  DiT: {hidden_size: 64, depth: 2, num_heads: 4, patient_info_size: 3}
  ibe: {embed_dim: 32, num_heads: 2, ff_hidden_size: 48, num_layers: 1, text_embed_dim: 768, patient_info_size: 3}
inference_setting: {hr: 70, inference_timestep: 1000}
"""


def test_paper_preset_has_the_published_hyper_parameters():
    autoencoder, extractor, denoiser = (preset_config(s) for s in ("autoencoder", "extractor", "denoiser"))
    loop = autoencoder.loop
    assert (loop.learning_rate, loop.schedule, loop.batch) == (2e-4, "one-cycle", 256)
    assert autoencoder.kl_ramp_epochs == 10 and autoencoder.kl_ramp_steps is None
    loop = extractor.loop
    assert (loop.epochs, loop.learning_rate, loop.weight_decay, loop.batch) == (50, 1e-3, 1e-3, 65_536)
    assert (extractor.mini_batch, extractor.condition_dropout) == (512, 0.15)
    loop = denoiser.loop
    assert (loop.epochs, loop.learning_rate, loop.final_learning_rate, loop.batch) == (30, 1e-4, 1e-5, 512)
    assert (denoiser.first_timestep, denoiser.last_timestep, denoiser.base_dropout) == (1, 997, 0.15)
    assert (denoiser.x0_weight, denoiser.snr_weight, loop.ema) == (0.0, "none", 0.0)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_make_networks_and_survive_json(preset, tmp_path):
    names = {"autoencoder": "enc", "extractor": "ibe", "denoiser": "dit", "clip": "clip", "diffusets": "unet"}
    for stage in STAGES:
        config = preset_config(stage, preset)
        assert config.loop.steps or config.loop.epochs
        if preset != "paper":
            models.create(names[stage], **config.sizes)
        of_a_run = {"stage": stage, "inputs": {"store": "abc"}, **to_dict(config)}
        (tmp_path / "config.json").write_text(json.dumps(of_a_run))
        assert to_dict(stage_config(stage, "paper", tmp_path / "config.json")) == to_dict(config)


def test_overrides_go_over_the_file_over_the_preset(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("denoiser:\n  x0_weight: 0.1\n  loop: {steps: 7, learning_rate: 2e-3}\nclip: {mini_batch: 3}\n")
    overrides = ["loop.steps=9", "sizes.depth=2", "focus=[20, 30]", "loop.final_learning_rate=1e-6", "snr_weight=min"]
    config = stage_config("denoiser", "smoke", file, overrides)
    assert (config.x0_weight, config.loop.steps, config.loop.learning_rate) == (0.1, 9, 2e-3)
    assert (config.focus, config.loop.final_learning_rate, config.snr_weight) == ((20, 30), 1e-6, "min")
    assert config.sizes == {"hidden": 64, "depth": 2, "heads": 2, "clip_sample_range": 6.0}
    assert stage_config("clip", "smoke", file).mini_batch == 3


def test_epochs_replace_a_presets_steps():
    loop = stage_config("denoiser", "smoke", None, ["loop.epochs=3"]).loop
    assert (loop.epochs, loop.steps) == (3, None)


def test_published_yaml_is_read(tmp_path):
    file = tmp_path / "DiT_ECGTwin.yaml"
    file.write_text(PUBLISHED)
    denoiser = stage_config("denoiser", "paper", file)
    assert (denoiser.loop.epochs, denoiser.loop.batch, denoiser.loop.learning_rate) == (12, 128, 1e-4)
    assert denoiser.sizes == {
        "hidden": 64, "depth": 2, "heads": 4, "patient_width": 3, "base_width": 32, "text_width": 768,
    }  # fmt: skip
    extractor = stage_config("extractor", "paper", file)
    assert extractor.loop == preset_config("extractor").loop
    assert extractor.sizes["hidden"] == 32 and extractor.sizes["float_mask"] is False
    own = tmp_path / "ibe.yaml"
    own.write_text("epoch: 5\nembed_dim: 32\nnum_heads: 2\nff_hidden_size: 48\nnum_layers: 1\n")
    assert stage_config("extractor", "paper", own).loop.epochs == 5


@pytest.mark.parametrize(
    ("stage", "text", "message"),
    [
        ("denoiser", "hyper_para: {epochz: 3}", r"unknown key 'epochz'; known here: .*epochs"),
        ("denoiser", "hyper_para: {DiT: {width: 3}}", r"unknown key 'width'; known here: depth, hidden_size"),
        ("extractor", "embed_dim: 32\nmomentum: 1", r"unknown key 'momentum'; known here: batch_size"),
        ("denoiser", "loop: {stepz: 3}", r"unknown key 'loop\.stepz'; known here: steps, epochs"),
        ("denoiser", "loop: 3", r"loop is 3, expected a section"),
        ("denoiser", "loop: {steps: many}", r"loop\.steps is 'many', expected int or null"),
        ("denoiser", "focus: [1]", r"focus is \[1\], expected two whole numbers or null"),
        ("autoencoder", "standardise: 1", r"standardise is 1, expected bool"),
    ],
)
def test_errors_name_file_and_key(tmp_path, stage, text, message):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"own.yaml: {message}"):
        stage_config(stage, "smoke", file)


def test_other_errors():
    with pytest.raises(ConfigError, match=r"--set loop.steps: expected key=value"):
        stage_config("clip", "smoke", None, ["loop.steps"])
    with pytest.raises(ConfigError, match=r"--set loss=2: unknown key 'loss'; known here: loop, sizes"):
        stage_config("clip", "smoke", None, ["loss=2"])
    with pytest.raises(ConfigError, match=r"snr_weight is 'hard', expected 'none', 'min' or 'soft'"):
        stage_config("denoiser", "smoke", None, ["snr_weight=hard"])
    with pytest.raises(CheckpointError, match="missing.yaml: no such file"):
        stage_config("denoiser", "smoke", "missing.yaml")
