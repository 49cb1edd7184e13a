"""Stage 1 and the ECG-text encoder: what a batch holds, that the condition drops, that they learn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from training_store import TEXT_WIDTH, write_store

from ecgtwin_fast import models
from ecgtwin_fast.errors import ECGTwinError
from ecgtwin_fast.training import extractor as extractor_module
from ecgtwin_fast.training.configs import ClipConfig, ExtractorConfig
from ecgtwin_fast.training.contrastive import contrast
from ecgtwin_fast.training.distributed import Processes
from ecgtwin_fast.training.ecg_text import ClipStage, mean_text
from ecgtwin_fast.training.extractor import ExtractorStage
from ecgtwin_fast.training.latents import Latents
from ecgtwin_fast.training.loop import Draw, LoopConfig, fit

SIZES = {"hidden": 32, "layers": 1, "heads": 2, "feed_forward": 32, "text_width": TEXT_WIDTH, "float_mask": False}
CLIP = {"stem": 16, "widths": (16, 32), "blocks": (2, 1), "text_hidden": 16, "width": 8, "text_width": TEXT_WIDTH}
LOOP = LoopConfig(steps=40, batch=12, learning_rate=3e-3, final_learning_rate=1e-3, bfloat16=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("stages"), people=16, test_people=4)


@pytest.fixture(scope="module")
def latents(store):
    """Noise that is alike for one person."""
    rng = np.random.default_rng(6)
    person = rng.normal(size=(16, 4, 128))
    mean = person[store.person] + 0.5 * rng.normal(size=(len(store), 4, 128))
    return Latents(mean.astype(np.float16), np.zeros_like(mean, np.float16), "test")


def extractor_stage(store, latents, **values) -> ExtractorStage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.create("ibe", **SIZES)
    return ExtractorStage(network, store, latents, ExtractorConfig(**{"loop": LOOP, "mini_batch": 4, **values}))


def draw_of(stage, step: int = 0) -> Draw:
    draw = Draw.of(0, step, Processes())
    draw.batch = stage.fetch(draw)
    return draw


@pytest.mark.parametrize("caching", [False, True])
def test_mini_batches_hold_pairs_of_different_people_outside_the_test_fold(caching, store, latents):
    stage = extractor_stage(store, latents, gradient_caching=caching)
    for step in range(20):
        batch = draw_of(stage, step).batch
        assert [len(part) for part in batch] == [4, 4, 4]
        for part in batch:
            reference, target = store.person[part.pairs].T
            assert (reference == target).all() and len(set(reference)) == 4
            assert not store.test[part.pairs].any() and (part.pairs[:, 0] != part.pairs[:, 1]).all()
        if caching:
            assert len({person for part in batch for person in store.person[part.pairs[:, 0]]}) == 12


def test_batches_larger_than_the_people_with_pairs_shrink(store, latents):
    loop = dataclasses.replace(LOOP, batch=64)
    assert [len(part) for part in draw_of(extractor_stage(store, latents, loop=loop, mini_batch=32)).batch] == [12, 12]
    cached = extractor_stage(store, latents, loop=loop, mini_batch=5, gradient_caching=True)
    assert [len(part) for part in draw_of(cached).batch] == [5, 5, 2]


def test_condition_drops_for_whole_mini_batches(store, latents):
    stage = extractor_stage(store, latents)
    shares = [part.dropped for step in range(400) for part in draw_of(stage, step).batch]
    assert 0.12 < np.mean(shares) < 0.18
    for dropout, learns, rests in ((1.0, "classfree_emb", "text_projector.weight"), (0.0, "layers", "classfree_emb")):
        stage = extractor_stage(store, latents, condition_dropout=dropout)
        stage.step(draw_of(stage))
        gradients = {name: value.grad for name, value in stage.network.named_parameters()}
        assert gradients[rests] is None
        assert any(value.any() for name, value in gradients.items() if name.startswith(learns))


def test_extractor_learns_whose_record_it_is(store, latents, tmp_path, capsys):
    stage = extractor_stage(store, latents, loop=dataclasses.replace(LOOP, sample_every=20))
    pairs = stage._pairs[np.arange(len(stage._pairs))]
    before = extractor_module.test_cosine(stage.network, store, latents, pairs)
    trained = fit(stage, stage.config.loop, tmp_path)
    rows = (tmp_path / "history.csv").read_text().splitlines()
    assert rows[0].startswith("step,loss,hit_rate,cosine")
    losses = [float(row.split(",")[1]) for row in rows[1:]]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    index = pairs.T
    features = [
        torch.nn.functional.normalize(trained.extract_features(*extractor_module.both_sides(
            store, latents, np.stack([side, side], 1), torch.device("cpu")
        ))[: len(side)], dim=-1)
        for side in index
    ]  # fmt: skip
    found = contrast(*features, trained.logit_scale)
    assert float(found.hit_rate) > 0.8 and before != pytest.approx(float(found.cosine))
    assert extractor_module.test_cosine(trained, store, latents, pairs, batch=5) == pytest.approx(float(found.cosine))
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("mean cosine of 4 test pairs") == 2


def test_extractor_needs_pairs_of_two_people(tmp_path, latents):
    lonely = write_store(tmp_path / "store", people=3, test_people=2)
    with pytest.raises(ECGTwinError, match="store: fewer than two people outside the test fold have a pair"):
        extractor_stage(lonely, latents)


def clip_stage(store, **values) -> ClipStage:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = models.create("clip", **CLIP).train()
    return ClipStage(network, store, ClipConfig(**{"loop": LOOP, "mini_batch": 4, **values}))


def direct_clip(stage: ClipStage, batch) -> dict[str, torch.Tensor]:
    """Gradients of the whole batch in one graph, with each mini-batch's own dropout and batch statistics."""
    sides = []
    for part in batch:
        torch.manual_seed(part.seed)
        sides.append(stage.network(torch.from_numpy(part.signal), torch.from_numpy(part.text)))
    first, second = (torch.nn.functional.normalize(torch.cat(side), dim=-1) for side in zip(*sides, strict=True))
    contrast(first, second, stage.network.logit_scale).loss.backward()
    return {name: value.grad for name, value in stage.network.named_parameters() if value.grad is not None}


def test_clip_gradient_is_the_whole_batchs_with_dropout_and_batch_norm(store):
    stage, other = clip_stage(store), clip_stage(store)
    draw = draw_of(stage)
    stage.step(draw)
    found = {name: value.grad for name, value in stage.network.named_parameters() if value.grad is not None}
    with torch.random.fork_rng():
        expected = direct_clip(other, draw.batch)
    assert found.keys() == expected.keys()
    scale = max(float(value.norm()) for value in expected.values())
    for name, value in expected.items():
        if value.norm() < 1e-5 * scale:  # a bias before a batch norm cancels: its gradient is rounding alone
            assert found[name].norm() < 1e-5 * scale, name
        else:
            assert (found[name] - value).norm() < 1e-5 * value.norm(), name


def test_clip_statistics_move_once_a_step_by_the_mean_over_mini_batches(store):
    stage = clip_stage(store)
    draw = draw_of(stage)
    stage.step(draw)
    convolution, norm = stage.network.resnet.first_conv, stage.network.resnet.first_bn
    with torch.no_grad():
        outputs = [convolution(torch.from_numpy(part.signal).transpose(1, 2)) for part in draw.batch]
    mean = torch.stack([output.mean((0, 2)) for output in outputs]).mean(0)
    variance = torch.stack([output.transpose(0, 1).flatten(1).var(1) for output in outputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, 0.1 * mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variance, rtol=1e-4, atol=1e-6)
    assert int(norm.num_batches_tracked) == 1 and norm.momentum == 0.1
    unused = stage.network.resnet.stage_list[0].block_list[0].bn1
    assert not unused.running_mean.any() and (unused.running_var == 1).all()


def test_clip_learns_and_ends_the_same_when_run_again(store, tmp_path):
    config = dataclasses.replace(LOOP, steps=14, batch=24)
    first, second = (fit(clip_stage(store, mini_batch=24, loop=config), config, tmp_path / name) for name in "ab")
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    losses = [float(row.split(",")[1]) for row in (tmp_path / "a" / "history.csv").read_text().splitlines()[1:]]
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])


def test_mean_text_is_the_mean_of_the_statements(store):
    rows = np.arange(6)
    for row, found in zip(rows, mean_text(store, rows), strict=True):
        tokens = store.tokens[row][store.tokens[row] > 0]
        np.testing.assert_allclose(found, store.embeddings[tokens].mean(0), atol=1e-6)
