"""Ways to train stage 1 and stage 2 that the training benchmark sets beside one another, on the same draws."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ecgtwin_fast import models
from ecgtwin_fast.data.simulated import Patient, simulate_record
from ecgtwin_fast.data.store import Store
from ecgtwin_fast.data.store_writer import Entry, StoreWriter
from ecgtwin_fast.data.text import text_encoder
from ecgtwin_fast.samplers import alphas_cumprod
from ecgtwin_fast.training.configs import DenoiserConfig, ExtractorConfig
from ecgtwin_fast.training.denoiser import DenoiserStage
from ecgtwin_fast.training.distributed import Processes
from ecgtwin_fast.training.extractor import ExtractorStage
from ecgtwin_fast.training.latents import Latents
from ecgtwin_fast.training.loop import Draw, Stage, arithmetic

RATE = 1e-4


def build_store(folder: Path, people: int) -> Store:
    """Two visits of each simulated person; nobody is held out."""
    rng = np.random.default_rng(0)
    writer = StoreWriter(folder, "simulated", {"people": people})
    for number in range(people):
        patient = Patient.draw(rng)
        day = np.datetime64("2026-01-01", "s")
        visits = [simulate_record(patient, rng) for _ in range(2)]
        entries = [
            Entry.of(record, f"{number}-{visit}", str(number), day + visit, test=False)
            for visit, record in enumerate(visits)
        ]
        writer.write(entries)
    return writer.finish(text_encoder("hash", 768))


def random_latents(store: Store) -> Latents:
    rng = np.random.default_rng(1)
    mean, deviation = (rng.standard_normal((len(store), 4, 128)).astype(np.float16) for _ in range(2))
    return Latents(mean, np.abs(deviation) / 10, "random")


class Loop:
    """One contestant: steps of AdamW on the losses of the draws, which are those of our stage.

    compute(draw) -> loss, ready for backward() or already propagated.
    """

    def __init__(self, network: nn.Module, compute: Callable[[Draw], Tensor], fused: bool):
        self.compute = compute
        self.optimiser = torch.optim.AdamW(network.parameters(), RATE, fused=fused or None)

    def step(self, draw: Draw) -> float:
        self.optimiser.zero_grad()
        loss = self.compute(draw)
        if loss.requires_grad:
            loss.backward()
        self.optimiser.step()
        return float(loss.detach())


class Peer:
    """PyTorch's own ways under autocast to bfloat16: eager or compiled; `plain_attention` avoids the flash kernel."""

    def __init__(self, compiled: bool, plain_attention: bool):
        self.compiled, self.plain_attention = compiled, plain_attention

    def forward(self, network: nn.Module) -> Callable:
        function = torch.compile(network, dynamic=False) if self.compiled else network

        def call(*inputs):
            chosen = sdpa_kernel([SDPBackend.MATH]) if self.plain_attention else contextlib.nullcontext()
            with chosen, torch.autocast("cpu", torch.bfloat16):
                return function(*inputs)

        return call


def collate(store: Store, index: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Conditions of a batch as the published loop makes them: record by record, then padded to the longest."""
    reports = [
        torch.stack([torch.from_numpy(store.embeddings[token]) for token in store.tokens[row] if token])
        for row in index
    ]
    longest = max(map(len, reports))
    text = torch.stack([F.pad(report, (0, 0, 0, longest - len(report))) for report in reports])
    mask = torch.stack([torch.arange(longest) < len(report) for report in reports]).float()
    return text, mask, torch.stack([torch.from_numpy(store.patient[row]) for row in index])


class Task:
    """A stage to train. Every contestant starts from the same weights and gets the same draws.

    A subclass says what the stage is, and its loss in plain PyTorch from a draw and a function that gives the
    conditions of records.
    """

    name: str
    network: nn.Module

    def __init__(self, store: Store):
        self.store = store

    def stage(self, network: nn.Module) -> Stage:
        raise NotImplementedError

    def loss(self, forward: Callable, draw: Draw, condition: Callable) -> Tensor:
        raise NotImplementedError

    def draw(self, step: int) -> Draw:
        draw = Draw.of(0, step, Processes())
        draw.batch = self._drawing.fetch(draw)
        return draw

    @functools.cached_property
    def _drawing(self) -> Stage:
        return self.stage(self.network)

    def ours(self, bfloat16: bool) -> Loop:
        """The stage itself, reading its batches included; its loop would read ahead in the background."""
        network = copy.deepcopy(self.network)
        stage = self.stage(network)

        def compute(draw: Draw) -> Tensor:
            own = Draw.of(0, draw.step, Processes())
            own.batch = stage.fetch(own)
            with arithmetic(own.device, bfloat16):
                return torch.as_tensor(stage.step(own)["loss"])

        return Loop(network, compute, fused=True)

    def peer(self, peer: Peer) -> Loop:
        """PyTorch's own way with all that we give ours: cached base vectors, collation in one go, a fused optimiser."""
        network = copy.deepcopy(self.network)
        forward = peer.forward(network)
        longest = self.store.tokens.shape[1] if peer.compiled else 0
        conditions = functools.partial(self._conditions, longest=longest)
        return Loop(network, lambda draw: self.loss(forward, draw, conditions), fused=True)

    def published(self) -> Loop:
        """As the published loop works: eager, float32, conditions collated record by record."""
        network = copy.deepcopy(self.network)
        return Loop(network, lambda draw: self.loss(network, draw, lambda rows: collate(self.store, rows)), fused=False)

    def _conditions(self, rows: np.ndarray, longest: int) -> tuple[Tensor, ...]:
        """Of a batch, its reports padded to `longest`, so that a compiled network meets one shape."""
        text, mask, patient = map(torch.from_numpy, self.store.condition(rows))
        missing = max(0, longest - text.shape[1])
        return F.pad(text, (0, 0, 0, missing)), F.pad(mask, (0, missing)), patient


class DenoiserTask(Task):
    """Stage 2 from latents."""

    name = "denoiser"

    def __init__(self, store: Store, latents: Latents, batch: int, sizes: dict, extractor: nn.Module):
        super().__init__(store)
        self.latents, self.extractor = latents, extractor.eval().requires_grad_(False)
        torch.manual_seed(0)
        self.network = models.create("dit", **sizes)
        self.config = replace(DenoiserConfig(), loop=replace(DenoiserConfig().loop, steps=1, batch=batch))
        parts = np.array_split(np.arange(len(store)), 8)
        self.bases = torch.cat([self._base(rows) for rows in parts]).numpy()
        self._share = alphas_cumprod()

    def stage(self, network: nn.Module) -> Stage:
        return DenoiserStage(network, self.store, self.latents, self.bases, self.config)

    def loss(self, forward: Callable, draw: Draw, condition: Callable) -> Tensor:
        return self._loss(forward, draw, condition, torch.from_numpy(draw.batch[3]))

    def with_extractor(self) -> Loop:
        """The published loop without cached base vectors: the frozen extractor runs on each batch's references."""
        network = copy.deepcopy(self.network)

        def compute(draw: Draw) -> Tensor:
            kept = torch.from_numpy((draw.batch[3] != 0).any(0).astype(np.float32))
            base = self._base(self._pairs(draw.step)[:, 0]) * kept
            return self._loss(network, draw, lambda rows: collate(self.store, rows), base)

        return Loop(network, compute, fused=False)

    def _loss(self, forward: Callable, draw: Draw, condition: Callable, base: Tensor) -> Tensor:
        x0, noise, t = (torch.from_numpy(part) for part in draw.batch[:3])
        share = self._share[t][:, None, None]
        x = share.sqrt() * x0 + (1 - share).sqrt() * noise
        predicted = forward(x, t, *condition(self._pairs(draw.step)[:, 1]), base)
        return (predicted.float() - noise).square().sum((1, 2)).mean()

    def _pairs(self, step: int) -> np.ndarray:
        return self._drawing._draw_pairs(Draw.of(0, step, Processes()).rng, self.config.loop.batch)

    @torch.no_grad()
    def _base(self, rows: np.ndarray) -> Tensor:
        latents = torch.from_numpy(self.latents.means(rows)).transpose(1, 2)
        return self.extractor.extract_features(latents, *collate(self.store, rows))


class ExtractorTask(Task):
    """Stage 1 from latents, one mini-batch a step."""

    name = "extractor"

    def __init__(self, store: Store, latents: Latents, batch: int, sizes: dict):
        super().__init__(store)
        self.latents = latents
        torch.manual_seed(0)
        self.network = models.create("ibe", float_mask=False, **sizes)
        loop = replace(ExtractorConfig().loop, steps=1, batch=batch)
        self.config = replace(ExtractorConfig(), loop=loop, mini_batch=batch)

    def stage(self, network: nn.Module) -> Stage:
        return ExtractorStage(network, self.store, self.latents, self.config)

    def loss(self, forward: Callable, draw: Draw, condition: Callable) -> Tensor:
        (chunk,) = draw.batch
        views = []
        for rows in chunk.pairs.T:
            latents = torch.from_numpy(self.latents.means(rows)).transpose(1, 2)
            views.append((latents, *((None,) * 3 if chunk.dropped else condition(rows))))
        logits = forward(*views)[0].float()
        own = torch.arange(len(chunk))
        return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))


def distance(curve: list[float], reference: list[float]) -> float:
    """Largest relative difference of two loss curves over their common steps; infinite where a loss is not finite."""
    pairs = zip(curve, reference, strict=False)
    return max(abs(a - b) / abs(b) if math.isfinite(a) else math.inf for a, b in pairs)
