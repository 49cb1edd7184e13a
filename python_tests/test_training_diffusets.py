"""DiffuSETS's training: its loss, its condition tokens, and the model directory that comes out of a run."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from training_store import TEXT_WIDTH, write_store

from ecgtwin_fast import DiffuSETS, ECGTwin, models, samplers
from ecgtwin_fast.cli import main
from ecgtwin_fast.data.store import Store
from ecgtwin_fast.data.text import text_encoder
from ecgtwin_fast.diffusets import prompt
from ecgtwin_fast.errors import CheckpointError
from ecgtwin_fast.training.checkpoint import read_json
from ecgtwin_fast.training.configs import ConfigError, preset_config, stage_config
from ecgtwin_fast.training.diffusets import DiffuSETSStage, embedded_prompts, patient_numbers
from ecgtwin_fast.training.distributed import Processes
from ecgtwin_fast.training.latents import Latents
from ecgtwin_fast.training.log import read_history
from ecgtwin_fast.training.loop import Draw
from ecgtwin_fast.training.run import load_trained


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return write_store(tmp_path_factory.mktemp("data") / "store", people=10, real_people=3)


@pytest.fixture(scope="module")
def run_folder(store, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    for stage in ("autoencoder", "diffusets"):
        assert main(["train", stage, str(store.path), str(out), "--preset", "smoke"]) == 0
    return out


def diffusets_stage(store: Store, *options: str, **sizes) -> DiffuSETSStage:
    config = stage_config("diffusets", "smoke", None, ["loop.batch=6", *options])
    values = np.random.default_rng(0).normal(size=(2, len(store), 4, 128)).astype(np.float16)
    torch.manual_seed(0)
    network = models.create("unet", widths=(8, 16), heads=2, text_width=TEXT_WIDTH, **sizes)
    return DiffuSETSStage(network, store, Latents(values[0], np.abs(values[1]), "fixed"), config)


def one_step(stage: DiffuSETSStage) -> tuple[Draw, dict[str, float]]:
    draw = Draw.of(0, 0, Processes())
    draw.batch = stage.fetch(draw)
    return draw, {name: float(value) for name, value in stage.step(draw).items()}


def test_loss_is_the_noise_error_summed_per_record(store):
    stage = diffusets_stage(store, "standardise=false")
    draw, numbers = one_step(stage)
    x0, noise, t, tokens = map(torch.from_numpy, draw.batch)
    assert x0.shape == noise.shape == (6, 4, 128) and int(t.min()) >= 1 and int(t.max()) <= 997
    share = samplers.alphas_cumprod()[t].view(-1, 1, 1)
    with torch.no_grad():
        predicted = stage.network.denoise(share.sqrt() * x0 + (1 - share).sqrt() * noise, t, tokens)
    error = (predicted - noise).square().sum((1, 2)).mean()
    assert numbers["loss"] == pytest.approx(float(error), rel=1e-4)
    assert numbers["noise_error"] == pytest.approx(float(error) / 512, rel=1e-4)


def test_tokens_are_what_the_trained_model_is_given(store):
    stage = diffusets_stage(store, "standardise=false")
    rows = np.array([3, 11])
    tokens = stage.tokens(rows)[:, 0]
    expected = text_encoder("hash", TEXT_WIDTH).encode([prompt(store.report(row)) for row in rows])
    np.testing.assert_allclose(tokens[:, :TEXT_WIDTH], expected, atol=1e-6)
    raw = np.stack([store.sex, store.age, store.heart_rate], axis=1)[rows]
    np.testing.assert_allclose(tokens[:, TEXT_WIDTH:], raw)
    assert diffusets_stage(store, patient_keys=()).tokens(rows).shape == (2, 1, TEXT_WIDTH)


def test_prompts_stand_in_the_order_of_the_reports(store):
    prompts = embedded_prompts(store)
    encoder = text_encoder("hash", TEXT_WIDTH)
    for row in range(len(store)):
        expected = encoder.encode([prompt(store.report(row))])[0]
        np.testing.assert_array_equal(prompts[store.report_key[row]], expected)


def test_unknown_numbers_stand_at_the_mean():
    class Few:
        sex, age, heart_rate = (np.array(v, np.float32) for v in ([0, 1, np.nan], [np.nan] * 3, [60, np.nan, 90]))

    expected = [[75, 0, 0], [75, 0, 1], [75, 0, 0.5]]
    expected[0][0], expected[2][0] = 60, 90
    np.testing.assert_array_equal(patient_numbers(Few, ("heart rate", "age", "gender")), expected)


@torch.no_grad()
def test_standardised_training_folds_into_the_network(store):
    stage, plain = diffusets_stage(store), diffusets_stage(store, "standardise=false")
    rows = store.rows(test=False)
    tokens = stage.tokens(rows)[:, 0]
    np.testing.assert_allclose(tokens.mean(0), 0, atol=1e-3)
    variances = tokens.var(0)
    np.testing.assert_allclose(variances[TEXT_WIDTH:], variances[:TEXT_WIDTH].sum() / 3, rtol=1e-3)
    folded = copy.deepcopy(stage.network)
    stage.finish(folded)
    x, t = torch.randn(2, 4, 128), torch.tensor([5, 700])
    before = stage.network.denoise(x, t, torch.from_numpy(stage.tokens(rows[:2])))
    after = folded.denoise(x, t, torch.from_numpy(plain.tokens(rows[:2])))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


def test_training_draws_no_record_of_the_test_fold(store):
    stage = diffusets_stage(store, "loop.batch=200", "real_share=1.0", "focus=[300, 310]", "focus_share=1.0")
    drawn = []
    stage.tokens = lambda rows: drawn.append(rows)
    _, _, t, _ = stage.fetch(Draw.of(0, 0, Processes()))
    assert len(drawn[0]) == 200 and store.real[drawn[0]].all() and not store.test[drawn[0]].any()
    assert t.min() >= 300 and t.max() <= 310


def test_the_run_leaves_a_model(run_folder, store, tmp_path):
    folder = run_folder / "diffusets"
    assert [row["step"] for row in read_history(folder)] == list(range(1, 7))
    assert read_json(folder / "summary.json")["stage"] == "diffusets"
    assert (folder / "samples" / "step_000006.png").stat().st_size > 10_000
    model = DiffuSETS.from_pretrained(run_folder / "diffusets-model", device="cpu")
    records = model.generate("sinus tachycardia", 110, 60, "F", count=2, steps=3)
    assert len(records) == 2 and all(np.isfinite(record.signal).all() for record in records)
    trained = load_trained(run_folder, "diffusets").state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in model.networks["denoiser"].state_dict().items())
    assert model.networks["denoiser"].clip_sample_range == 6.0
    final = read_history(folder)[-1]
    for text in ("# DiffuSETS, trained", "not for diagnosis", f"loss {final['loss']:.4g}", '"standardise": true'):
        assert text in model.card, text
    with pytest.raises(CheckpointError, match="DiffuSETS loads it"):
        ECGTwin.from_pretrained(run_folder / "diffusets-model")
    options = ["--report", "sinus rhythm", "--heart-rate", "70", "--age", "50", "--sex", "M", "--steps", "2"]
    where = ["--model", str(run_folder / "diffusets-model"), "--out", str(tmp_path / "out"), "--count", "1"]
    assert main(["generate", *options, *where]) == 0


def test_without_an_autoencoder_the_command_is_named(store, tmp_path, capsys):
    assert main(["train", "diffusets", str(store.path), str(tmp_path / "out"), "--preset", "smoke"]) == 2
    command = f"ecgtwin-fast train autoencoder {store.path} {tmp_path / 'out'}"
    assert f"the diffusets needs a trained autoencoder: run `{command}` first" in capsys.readouterr().err


def test_presets():
    paper, small = preset_config("diffusets"), preset_config("diffusets", "small")
    assert (paper.first_timestep, paper.last_timestep, paper.snr_weight, paper.standardise) == (1, 997, "none", False)
    assert 512 <= paper.loop.batch <= 2048 and paper.sizes == {}
    with torch.device("meta"):
        state = models.create("unet", **small.sizes, text_width=768).state_dict()
    assert sum(value.numel() for value in state.values()) <= 4e6
    with pytest.raises(ConfigError, match="timesteps 5..4"):
        stage_config("diffusets", "smoke", None, ["first_timestep=5", "last_timestep=4"])
