"""Gradient caching is the full batch's gradient; processes share a batch without changing it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from ecgtwin_fast import models
from ecgtwin_fast.training import contrastive
from ecgtwin_fast.training.configs import ClipConfig
from ecgtwin_fast.training.contrastive import batch_gradient, contrast, contrastive_backward
from ecgtwin_fast.training.distributed import Processes
from ecgtwin_fast.training.ecg_text import ClipStage
from ecgtwin_fast.training.loop import Draw, LoopConfig

SIZES = {"hidden": 32, "layers": 1, "heads": 2, "feed_forward": 32, "text_width": 16, "float_mask": False}
CLIP = {"stem": 16, "widths": (16, 32), "blocks": (1, 1), "text_hidden": 16, "width": 8, "text_width": 16}
PAIRS, LENGTH, TOKENS = 24, 16, 3
STEPS, RATE = 10, 0.02


@dataclass(frozen=True)
class Chunk:
    """Rows of `cases`, with or without their condition."""

    rows: range
    dropped: bool

    def __len__(self) -> int:
        return len(self.rows)


def extractor() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.create("ibe", **SIZES)


@functools.cache
def cases() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, text, mask and patient vectors of both sides, (2, PAIRS, ...)."""
    generator = torch.Generator().manual_seed(1)
    person = torch.randn(1, PAIRS, LENGTH, 4, generator=generator)
    x = person + 0.7 * torch.randn(2, PAIRS, LENGTH, 4, generator=generator)
    text = torch.randn(2, PAIRS, TOKENS, SIZES["text_width"], generator=generator)
    mask = (torch.arange(TOKENS) < torch.randint(1, TOKENS + 1, (2, PAIRS, 1), generator=generator)).float()
    return x, text, mask, torch.randn(2, PAIRS, 3, generator=generator)


def embed(network: torch.nn.Module, chunk: Chunk) -> tuple[Tensor, Tensor]:
    def side(index: int) -> Tensor:
        rows = slice(chunk.rows.start, chunk.rows.stop)
        x, *condition = (values[index, rows] for values in cases())
        return network.extract_features(x, *((None, None, None) if chunk.dropped else condition))

    return side(0), side(1)


def chunks_of(sizes: tuple[int, ...], dropped: tuple[int, ...] = (1,)) -> list[Chunk]:
    ends = np.cumsum(sizes)
    return [Chunk(range(end - size, end), k in dropped) for k, (size, end) in enumerate(zip(sizes, ends, strict=True))]


def gradients(network: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in network.named_parameters()
    }


def step_gradients(chunks: list[Chunk], caching: bool) -> tuple[dict[str, Tensor], dict[str, float]]:
    network = extractor()
    shown = contrastive_backward(network, functools.partial(embed, network), chunks, caching)
    return gradients(network), numbers(shown)


def direct_gradients(chunks: list[Chunk]) -> tuple[dict[str, Tensor], dict[str, float]]:
    network = extractor()
    sides = zip(*(embed(network, chunk) for chunk in chunks), strict=True)
    first, second = (torch.nn.functional.normalize(torch.cat(side), dim=-1) for side in sides)
    found = contrast(first, second, network.logit_scale)
    found.loss.backward()
    return gradients(network), numbers(found._asdict())


def numbers(shown: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in shown.items()}


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], limit: float = 1e-5) -> None:
    whole = torch.cat([value.flatten().float() for value in expected.values()]).norm()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # A key's bias cancels in the softmax, one before a batch norm in that: their gradients are rounding alone.
        assert (found[name] - value).float().norm() <= limit * max(value.float().norm(), 1e-2 * whole), name


@pytest.mark.parametrize("sizes", [(8, 8, 8), (10, 9, 5), (23, 1)], ids=str)
def test_gradient_caching_is_the_direct_gradient_of_the_whole_batch(sizes, monkeypatch):
    monkeypatch.setattr(contrastive, "BLOCK_ELEMENTS", 5 * PAIRS)
    expected, expected_numbers = direct_gradients(chunks_of(sizes))
    found, shown = step_gradients(chunks_of(sizes), caching=True)
    assert_same(found, expected)
    assert relative_error(found["logit_scale"], expected["logit_scale"]) < 1e-5
    assert shown == pytest.approx(expected_numbers, rel=1e-5)


def test_accumulation_is_the_mean_of_the_mini_batches_gradients():
    chunks = chunks_of((12, 12))
    (first, first_shown), (second, second_shown) = (direct_gradients([chunk]) for chunk in chunks)
    found, shown = step_gradients(chunks, caching=False)
    assert_same(found, {name: (first[name] + second[name]) / 2 for name in found})
    assert shown["loss"] == pytest.approx((first_shown["loss"] + second_shown["loss"]) / 2)


def test_loss_of_known_vectors():
    """Two pairs, orthogonal to each other: each softmax is 1 / (1 + exp(-scale))."""
    sides = torch.eye(2), torch.eye(2)
    log_scale = torch.tensor(2.0).log().requires_grad_()
    found = contrast(*sides, log_scale)
    expected = np.log1p(np.exp(-2.0))
    assert numbers(found._asdict()) == pytest.approx({"loss": expected, "hit_rate": 1.0, "cosine": 1.0})
    by_formula = batch_gradient(*sides, log_scale, torch.arange(2))
    assert numbers(by_formula.contrast._asdict()) == pytest.approx(numbers(found._asdict()))
    # d/d log s of log(1 + exp(-s)) is -s / (1 + exp(s)).
    assert float(by_formula.logit_scale) == pytest.approx(-2 / (1 + np.exp(2.0)))


def test_gradients_flow_under_autocast():
    """Autocast caches the weights that the pass without a graph casts; the pass with one must not use them."""
    with torch.autocast("cpu", torch.bfloat16):
        found, shown = step_gradients(chunks_of((8, 8, 8)), caching=True)
        expected, expected_numbers = direct_gradients(chunks_of((8, 8, 8)))
    whole = [torch.cat([value.flatten() for value in gradient.values()]) for gradient in (found, expected)]
    assert torch.nn.functional.cosine_similarity(*whole, dim=0) > 0.995
    assert found["signal_embedding.weight"].any()
    assert shown["loss"] == pytest.approx(expected_numbers["loss"], rel=1e-2)


class Recordings:
    """Stands in for a store: noise with an offset that its text tells."""

    path = "recordings"

    def rows(self, test: bool) -> np.ndarray:
        return np.arange(PAIRS)

    def signals(self, rows: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(3).normal(size=(PAIRS, 1024, 12)).astype(np.float32)
        return noise[rows] + self.condition(rows)[0].mean(1)[:, :1, None]

    def condition(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        text = np.random.default_rng(4).normal(size=(PAIRS, 2, SIZES["text_width"])).astype(np.float32)
        return text[rows], np.ones((len(rows), 2), np.float32), np.zeros((len(rows), 3), np.float32)


def clip_stage() -> ClipStage:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = models.create("clip", **CLIP)
    return ClipStage(network, Recordings(), ClipConfig(loop=LoopConfig(steps=STEPS, batch=16), mini_batch=8))


def extractor_steps(sizes: tuple[int, ...], caching: bool) -> tuple[torch.nn.Module, Callable]:
    network = extractor()

    def step(draw: Draw) -> dict[str, Tensor]:
        chunks = chunks_of(sizes, dropped=(draw.step % 4,) if len(sizes) > 1 else ())
        return contrastive_backward(network, functools.partial(embed, network), chunks, caching)

    return network, step


def clip_steps() -> tuple[torch.nn.Module, Callable]:
    stage = clip_stage()

    def step(draw: Draw) -> dict[str, Tensor]:
        draw.batch = stage.fetch(draw)
        return stage.step(draw)

    return stage.network.train(), step


RUNS = {
    "accumulated": lambda: extractor_steps((8, 8, 4, 4), False),
    "cached": lambda: extractor_steps((8, 8, 8), True),
    "cached in two chunks": lambda: extractor_steps((12, 12), True),
    "one chunk": lambda: extractor_steps((24,), True),
    "clip": clip_steps,
}


def curves(processes: Processes) -> dict[str, list]:
    """Loss curves of all RUNS, the gradients of their first step averaged over the processes, and their buffers."""
    results = {}
    for name, make in RUNS.items():
        network, step_of = make()
        parameters = list(network.parameters())
        optimiser = torch.optim.AdamW(parameters, RATE)
        losses, first = [], None
        for step in range(STEPS):
            optimiser.zero_grad()
            shown = step_of(Draw.of(0, step, processes))
            processes.average_gradients(parameters, stop=False)
            first = first or {**gradients(network), **{key: value.clone() for key, value in network.named_buffers()}}
            losses.append(processes.average(shown)["loss"])
            optimiser.step()
        results[name] = [losses, first]
    return results


def _process(rank: int, folder: str) -> None:
    """Three processes first, then two of them, so that none has to start twice."""
    torch.set_num_threads(1)
    for world in (3, 2):
        if rank < world:
            meeting = f"file://{folder}/meeting-{world}"
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
            torch.save(curves(Processes(rank, world)), f"{folder}/{world}-{rank}.pt")
            dist.destroy_process_group()


def test_two_and_three_processes_equal_one(tmp_path):
    expected = curves(Processes())
    mp.spawn(_process, (str(tmp_path),), nprocs=3)
    found = [torch.load(path, weights_only=True) for path in sorted(tmp_path.glob("*.pt"))]
    assert len(found) == 2 + 3
    for mode, (losses, first_step) in expected.items():
        assert losses[-1] < (1 if mode == "clip" else 0.8) * losses[0], mode
        for result in found:
            np.testing.assert_allclose(result[mode][0], losses, rtol=0, atol=1e-4, err_msg=mode)
            assert_same(result[mode][1], first_step)
