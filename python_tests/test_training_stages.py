"""The stages in a run folder: losses, caches, interruption, errors, and the model directory that comes out."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import patient, write_tiny_model
from training_store import TEXT_WIDTH, write_store

from ecgtwin_fast import ECGTwin, models, samplers
from ecgtwin_fast.cli import main
from ecgtwin_fast.data.pairs import Pairs
from ecgtwin_fast.data.store import Store
from ecgtwin_fast.errors import CheckpointError, ECGTwinError
from ecgtwin_fast.training import autoencoder as autoencoder_module
from ecgtwin_fast.training.autoencoder import LATENT_STD, Autoencoder, AutoencoderStage, draw_rows, standardise
from ecgtwin_fast.training.checkpoint import newest_checkpoint, read_json
from ecgtwin_fast.training.configs import stage_config
from ecgtwin_fast.training.denoiser import DenoiserStage
from ecgtwin_fast.training.distributed import Processes
from ecgtwin_fast.training.latents import Latents, base_vectors, encoded
from ecgtwin_fast.training.log import read_history
from ecgtwin_fast.training.loop import Draw
from ecgtwin_fast.training.run import load_trained, train_stage
from ecgtwin_fast.training.whitening import Whitening

STAGES = ("autoencoder", "extractor", "denoiser", "clip", "diffusets")
TINY = {"widths": (16, 16, 16, 16), "groups": 4}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return write_store(tmp_path_factory.mktemp("data") / "store", real_people=4)


@pytest.fixture(scope="module")
def run_folder(store, tmp_path_factory) -> Path:
    """All stages of the smoke preset, trained by the command line."""
    out = tmp_path_factory.mktemp("run") / "out"
    for stage in STAGES:
        assert main(["train", stage, str(store.path), str(out), "--preset", "smoke", "--seed", "3"]) == 0
    return out


def test_every_stage_leaves_what_its_folder_promises(run_folder):
    for stage in STAGES:
        folder = run_folder / stage
        rows = read_history(folder)
        assert [row["step"] for row in rows] == list(range(1, 7))
        assert read_json(folder / "summary.json")["final"] == rows[-1]
        assert read_json(folder / "config.json")["loop"]["seed"] == 3
        assert newest_checkpoint(folder).name == "checkpoint-00000006"
        assert list(folder.glob("events.out.tfevents.*"))
    for stage in ("denoiser", "diffusets"):
        assert (run_folder / stage / "samples" / "step_000006.png").stat().st_size > 10_000


def test_a_finished_stage_says_so_and_stays(run_folder, store, capsys):
    before = (run_folder / "clip" / "summary.json").stat().st_mtime_ns
    assert main(["train", "clip", str(store.path), str(run_folder), "--preset", "smoke", "--seed", "3"]) == 0
    assert "clip: trained already, nothing to do" in capsys.readouterr().err
    assert (run_folder / "clip" / "summary.json").stat().st_mtime_ns == before


def test_the_model_generates_twins_and_its_card_tells_where_it_is_from(run_folder, store):
    model = ECGTwin.from_pretrained(run_folder / "model", device="cpu")
    twins = model.generate(patient(), "sinus tachycardia", heart_rate=110, count=2, steps=3)
    assert len(twins) == 2 and all(np.isfinite(twin.signal).all() for twin in twins)
    assert (model.config.text_encoder, model.config.text_width) == ("hash", TEXT_WIDTH)
    assert model.config.sizes["extractor"]["float_mask"] is False
    final = read_history(run_folder / "denoiser")[-1]
    for text in ("simulated", "not for diagnosis", f"loss {final['loss']:.4g}", '"snr_weight": "none"', "26 of them"):
        assert text in model.card, text
    averaged = load_trained(run_folder, "denoiser").state_dict()
    assert all(torch.equal(value, averaged[name]) for name, value in model.networks["denoiser"].state_dict().items())


def test_generate_command_takes_the_model(run_folder, tmp_path):
    reference = Path(__file__).parents[1] / "ecgtwin_fast" / "data" / "patient" / "patient.hea"
    options = ["--report", "sinus rhythm", "--heart-rate", "70", "--count", "1", "--steps", "2"]
    model = ["--model", str(run_folder / "model"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["generate", "--reference", str(reference), *options, *model]) == 0
    assert (tmp_path / "out" / "twin_000.hea").is_file()


def test_sigkill_and_resume_repeat_the_uninterrupted_run(store, tmp_path, capsys):
    options = ["--preset", "smoke", "--set", "loop.steps=60"]
    often = [*options, "--set", "loop.checkpoint_seconds=0"]
    command = ["train", "autoencoder", str(store.path)]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert main([*command, str(whole), *options]) == 0
    # Sums are cut into as many parts as there are threads: the same number rounds the same.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = [sys.executable, "-m", "ecgtwin_fast", *command, str(halves), *often]
    process = subprocess.Popen(killed, env=environment, stderr=subprocess.PIPE)
    while process.poll() is None and newest_checkpoint(halves / "autoencoder") is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    done = int(newest_checkpoint(halves / "autoencoder").name.split("-")[1])
    assert 0 < done < 60
    capsys.readouterr()
    assert main([*command, str(halves), *options]) == 2
    assert re.search("autoencoder: holds an unfinished run; go on with it by --resume", capsys.readouterr().err)
    assert main([*command, str(halves), *options, "--resume"]) == 0
    histories = [(folder / "autoencoder" / "history.csv").read_bytes() for folder in (whole, halves)]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_resumes_to_the_same_numbers(run_folder, store, tmp_path, monkeypatch, stage):
    """Also under bfloat16 (denoiser), dropout and batch norms (clip), averaged weights (denoiser)."""
    out = tmp_path / "out"
    shutil.copytree(run_folder, out, ignore=shutil.ignore_patterns(stage, "model"))
    optimise, steps = torch.optim.AdamW.step, []

    def crash(self, *arguments):
        steps.append(None)
        if len(steps) == 4:
            raise RuntimeError("power cut")
        return optimise(self, *arguments)

    config = stage_config(stage, "smoke", None, ["loop.seed=3", "loop.checkpoint_seconds=0"])
    monkeypatch.setattr(torch.optim.AdamW, "step", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        train_stage(stage, store, out, config)
    assert newest_checkpoint(out / stage).name == "checkpoint-00000003"
    if stage == "denoiser":  # of a denoiser trained before, in another way
        write_tiny_model(out / "model")
    trained = train_stage(stage, store, out, config, resume=True).state_dict()
    if stage == "denoiser":
        written = [(folder / "model" / "denoiser.safetensors").read_bytes() for folder in (out, run_folder)]
        assert written[0] == written[1]
    assert (out / stage / "history.csv").read_bytes() == (run_folder / stage / "history.csv").read_bytes()
    expected = load_trained(run_folder, stage).state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in expected.items())


def test_ctrl_c_exits_with_130_and_says_how_to_go_on(store, tmp_path, capsys, monkeypatch):
    step = AutoencoderStage.step

    def interrupted(self, draw):
        if draw.step == 2:
            os.kill(os.getpid(), 2)
        return step(self, draw)

    monkeypatch.setattr(AutoencoderStage, "step", interrupted)
    with pytest.raises(SystemExit) as exit_status:
        main(["train", "autoencoder", str(store.path), str(tmp_path), "--preset", "smoke"])
    assert exit_status.value.code == 130
    assert "autoencoder stopped after 3 of 6 steps" in capsys.readouterr().err
    assert newest_checkpoint(tmp_path / "autoencoder").name == "checkpoint-00000003"


def test_missing_stages_name_the_command(store, tmp_path):
    for stage in ("extractor", "denoiser"):
        command = f"ecgtwin-fast train autoencoder {store.path} {tmp_path}"
        message = f"the {stage} needs a trained autoencoder: run `{command}` first"
        with pytest.raises(ECGTwinError, match=re.escape(message)):
            train_stage(stage, store, tmp_path, stage_config(stage, "smoke"))
    assert not list(tmp_path.iterdir())


def test_another_store_or_configuration_is_refused(run_folder, store, tmp_path):
    with pytest.raises(CheckpointError, match=r"written with loop\.seed = 3, this run has 0"):
        train_stage("clip", store, run_folder, stage_config("clip", "smoke"))
    other = write_store(tmp_path / "other", people=14)
    with pytest.raises(CheckpointError, match=r"written with inputs\.store = "):
        train_stage("clip", other, run_folder, stage_config("clip", "smoke", None, ["loop.seed=3"]))


def test_sizes_that_make_no_network_are_an_error(store, tmp_path):
    config = stage_config("autoencoder", "smoke", None, ["sizes.depth=3"])
    with pytest.raises(CheckpointError, match=r"sizes .*'depth': 3.* do not make a network of the autoencoder"):
        train_stage("autoencoder", store, tmp_path, config)


def test_latents_are_kept_until_store_or_weights_change(store, tmp_path):
    torch.manual_seed(0)
    encoder = models.create("enc", **TINY).eval()
    latents = encoded(encoder, store, tmp_path, batch=5)
    with torch.no_grad():
        _, mean, log_variance = encoder(torch.from_numpy(store.signals([7])), torch.zeros(()))
    np.testing.assert_allclose(latents.means([7]), mean * 0.18215, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(latents.deviations([7]), (0.5 * log_variance).exp() * 0.18215, rtol=2e-3, atol=1e-4)
    written = (tmp_path / "mean.npy").stat().st_mtime_ns
    encoded(encoder, store, tmp_path)
    assert (tmp_path / "mean.npy").stat().st_mtime_ns == written
    with torch.no_grad():
        encoder[0].bias += 1
    changed = encoded(encoder, store, tmp_path)
    assert (tmp_path / "mean.npy").stat().st_mtime_ns != written
    assert np.abs(changed.means([7]) - mean.numpy() * 0.18215).max() > 1e-3
    sizes = {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 16, "text_width": TEXT_WIDTH, "float_mask": False}
    extractor = models.create("ibe", **sizes)
    bases = base_vectors(extractor.eval(), changed, store, tmp_path, batch=5)
    alone = (torch.from_numpy(part) for part in (changed.means([7]).swapaxes(1, 2), *store.condition([7])))
    np.testing.assert_allclose(bases[7], extractor.extract_features(*alone)[0].detach(), rtol=1e-4, atol=1e-5)


def fixed_latents(store: Store) -> Latents:
    values = np.random.default_rng(0).normal(size=(2, len(store), 4, 128)).astype(np.float16)
    return Latents(values[0], np.abs(values[1]), "fixed")


def denoiser_stage(store: Store, *options: str) -> DenoiserStage:
    config = stage_config("denoiser", "smoke", None, ["loop.batch=6", *options])
    torch.manual_seed(0)
    sizes = {"hidden": 32, "depth": 1, "heads": 2, "base_width": 16, "text_width": TEXT_WIDTH}
    bases = np.random.default_rng(1).normal(size=(len(store), 16)).astype(np.float32)
    return DenoiserStage(models.create(config.network, **sizes), store, fixed_latents(store), bases, config)


def one_step(stage, step: int = 0) -> tuple[Draw, dict[str, float]]:
    draw = Draw.of(0, step, Processes())
    draw.batch = stage.fetch(draw)
    return draw, {name: float(value) for name, value in stage.step(draw).items()}


@pytest.mark.parametrize("weight", ["none", "min", "soft"])
def test_denoiser_loss_is_the_weighted_noise_error_summed_per_record(store, weight):
    stage = denoiser_stage(store, f"snr_weight={weight}", "snr_gamma=2", "x0_weight=0.1")
    draw, numbers = one_step(stage)
    x0, noise, t, base, text, mask, vector = map(torch.from_numpy, draw.batch)
    assert x0.shape == noise.shape == (6, 4, 128) and int(t.min()) >= 1 and int(t.max()) <= 997
    share = samplers.alphas_cumprod()[t].view(-1, 1, 1)
    x = share.sqrt() * x0 + (1 - share).sqrt() * noise
    with torch.no_grad():
        predicted = stage.network(x, t, text, mask, vector, base)
    error = (predicted - noise).square().sum((1, 2))
    snr = (share / (1 - share)).flatten()
    factor = {"none": 1.0, "min": torch.minimum(snr, torch.tensor(2.0)) / snr, "soft": 2 / (2 + snr)}[weight]
    clean = ((x - (1 - share).sqrt() * predicted) / share.sqrt() - x0).square().sum((1, 2)).mean()
    assert numbers["loss"] == pytest.approx(float((factor * error).mean() + 0.1 * clean), rel=1e-4)
    assert numbers["noise_error"] == pytest.approx(float(error.mean()) / 512, rel=1e-4)
    assert all(p.grad is not None for p in stage.network.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", ["dit", "dit_adaln", "dit_attn"])
def test_training_on_whitened_statements_folds_into_the_network(store, name):
    stages = [denoiser_stage(store, f"network={name}", f"standardise={value}") for value in ("true", "false")]
    folded = copy.deepcopy(stages[0].network)
    for parameter in folded.parameters():
        parameter.normal_(0, 0.1)
    trained = copy.deepcopy(folded)
    stages[0].finish(folded)
    (_, _, *whitened), (x, _, *plain) = (
        map(torch.from_numpy, stage.fetch(Draw.of(0, 0, Processes()))) for stage in stages
    )
    predictions = []
    for network, (t, base, text, mask, vector) in ((trained, whitened), (folded, plain)):
        predictions.append(network(x, t, text, mask, vector, base))
    assert float((whitened[2] - plain[2]).abs().max()) > 0.1
    torch.testing.assert_close(predictions[0], predictions[1], rtol=1e-3, atol=1e-4)


def test_whitening_makes_mean_zero_and_directions_alike():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 4)) @ np.diag([1, 0.5, 0.2, 0]) + rng.normal(size=4)
    weights = rng.integers(1, 9, size=50)
    white = Whitening.of(vectors, weights)(vectors)
    np.testing.assert_allclose(np.average(white, axis=0, weights=weights), 0, atol=1e-6)
    spread = np.linalg.eigvalsh(np.cov(white.T, aweights=weights, ddof=0))
    assert spread[0] == pytest.approx(0, abs=1e-6) and spread[1] > 0.9 and spread[3] < 1


def test_base_dimensions_are_dropped_for_the_whole_batch(store):
    stage = denoiser_stage(store, "base_dropout=0.5")
    base = one_step(stage)[0].batch[3]
    dropped = base == 0
    assert (dropped == dropped[0]).all() and 0 < dropped[0].sum() < 16


def test_real_share_and_focus_decide_what_is_drawn(store):
    stage = denoiser_stage(store, "real_share=1.0", "focus=[300, 310]", "focus_share=1.0", "loop.batch=64")
    draw = Draw.of(0, 0, Processes())
    pairs = stage._draw_pairs(draw.rng, 64)
    assert store.real[pairs].all() and (store.person[pairs[:, 0]] == store.person[pairs[:, 1]]).all()
    t = one_step(stage)[0].batch[2]
    assert t.min() >= 300 and t.max() <= 310


def test_training_draws_no_pair_of_the_test_fold(store):
    stage = denoiser_stage(store, "loop.batch=200")
    drawn = stage._draw_pairs(np.random.default_rng(0), 200)
    assert not store.test[drawn].any()
    assert store.test[stage._sample_pair()].all()
    assert len(Pairs(store, store.rows(test=True))) > 0


def test_autoencoder_loss_is_error_and_ramped_kl(store):
    torch.manual_seed(0)
    network = Autoencoder(models.create("enc", **TINY), models.create("dec", **TINY))
    config = stage_config("autoencoder", "smoke", None, ["loop.batch=3", "kl_ramp_steps=10", "scale_range=[2, 2]"])
    stage = AutoencoderStage(network, store, config)
    for step, weight in ((0, 0.1), (5, 0.55), (30, 1.0)):
        draw, numbers = one_step(stage, step)
        signal, noise = map(draw.on_device, draw.batch)
        with torch.no_grad():
            z, mean, log_variance = network.encoder(signal, noise)
            error = (network.decoder(z) - signal).square().sum() / 3
            kl = autoencoder_module.kl_divergence(mean, log_variance)
        assert numbers["loss"] == pytest.approx(float(error + weight * kl), rel=1e-4)
    rows = [row for row in store.rows(test=False) if np.allclose(store.signals([row])[0] * 2, signal[0], atol=1e-5)]
    assert len(rows) == 1


def test_draw_rows_mixes_pools_by_share():
    rng = np.random.default_rng(0)
    pools = [np.arange(10), np.arange(10, 100)]
    drawn = draw_rows(pools, 0.25, 4000, rng)
    assert 0.22 < (drawn < 10).mean() < 0.28
    assert (draw_rows([np.array([], int), pools[1]], 0.25, 50, rng) >= 10).all()


def test_standardise_keeps_reconstructions_and_sets_the_scale():
    torch.manual_seed(0)
    sizes = {"widths": (16, 16, 16, 16), "groups": 4}
    encoder, decoder = models.create("enc", **sizes), models.create("dec", **sizes)
    signal, noise = torch.randn(2, 1024, 12), torch.randn(2, 4, 128)
    with torch.no_grad():
        before, mean, _ = encoder(signal, noise)
        expected = decoder(before)
        scale, offset = standardise(encoder, decoder, mean * 0.18215)
        after, new_mean, _ = encoder(signal, noise)
        torch.testing.assert_close(decoder(after), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(after, before * scale[:, None] + offset[:, None], rtol=1e-4, atol=1e-4)
    scaled = new_mean * 0.18215
    torch.testing.assert_close(scaled.std((0, 2)), torch.full((4,), LATENT_STD), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scaled.mean((0, 2)), torch.zeros(4), rtol=0, atol=1e-3)
