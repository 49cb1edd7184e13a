"""Training of DiffuSETS's U-Net on single records under their conditions (arXiv 2501.05932)."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data.store import Store
from ..data.text import text_encoder
from ..diffusets import prompt
from ..engine.training import training_forward
from ..models.diffusets import ConditionAttention, DiffuSETSUNet
from .autoencoder import draw_rows
from .configs import DiffuSETSConfig
from .latents import Latents
from .loop import Draw
from .noise import SAMPLES, draw_latents, draw_timesteps, noise_backward, sample_records
from .whitening import Whitening

_PROMPTS = 1024
"""Embedded at a time."""


class DiffuSETSStage:
    """Squared error of the noise summed per record, of records outside the test fold under their own conditions.

    Args:
        latents: of the store's records. decoder: for sample ECGs, which go to samples/step_XXXXXX.png in `folder`;
            without these two none are drawn. config.loop must have its steps.
    """

    name = "diffusets"

    def __init__(
        self,
        network: DiffuSETSUNet,
        store: Store,
        latents: Latents,
        config: DiffuSETSConfig,
        decoder: nn.Module | None = None,
        folder: Path | None = None,
    ):
        self.network, self.store, self.latents, self.config = network, store, latents, config
        self._decoder, self._folder = decoder, folder
        self._forward = training_forward(network, config.loop.backend)
        self._rows = store.rows(test=False)
        real = store.real[self._rows]
        self._pools = [self._rows] if config.real_share is None else [self._rows[real], self._rows[~real]]
        self._prompts, self._patient = embedded_prompts(store), patient_numbers(store, network.patient_keys)
        self._standard = self._whitening() if config.standardise else None

    def fetch(self, draw: Draw) -> tuple[np.ndarray, ...]:
        """This process's x0, noise (b, C, L), timesteps (b,) and condition tokens (b, 1, text width + numbers)."""
        batch = self.config.loop.batch
        rows = draw.share(draw_rows(self._pools, self.config.real_share, batch, draw.rng))
        t = draw_timesteps(draw, self.config, batch)
        return *draw_latents(draw, self.latents, rows, batch), t, self.tokens(rows)

    def step(self, draw: Draw) -> dict[str, Tensor]:
        x0, noise, t, tokens = map(draw.on_device, draw.batch)
        return noise_backward(self.config, self._predict(self._forward, tokens), x0, noise, t)

    def tokens(self, rows: np.ndarray) -> np.ndarray:
        """Condition tokens float32 (b, 1, text width + numbers) of records, standardised where the stage does that."""
        joined = np.concatenate([self._prompts[self.store.report_key[rows]], self._patient[rows]], axis=1)
        return (joined if self._standard is None else self._standard(joined))[:, None]

    def sample(self, network: DiffuSETSUNet, step: int) -> Path | None:
        """ECGs under the condition of a test record, with the weights of this step."""
        if self._decoder is None or self._folder is None:
            return None
        from ..plot import plot_twins

        row = next(iter((*self.store.rows(test=True), *self._rows)))
        device = next(self._decoder.parameters()).device
        tokens = torch.from_numpy(self.tokens(np.array([row]))).to(device).expand(SAMPLES, -1, -1)
        records = sample_records(
            self._predict(network, tokens),
            (network.channels, network.length),
            self._decoder,
            self.store.record(row),
            self.config.loop.seed,
        )
        path = self._folder / "samples" / f"step_{step:06d}.png"
        return plot_twins(None, records, path, title=f"ECGs after {step} steps")

    def finish(self, network: DiffuSETSUNet) -> None:
        """Fold the standardisation into the layers that take the condition token: they then take it as it is."""
        for module in network.modules():
            if self._standard is not None and isinstance(module, ConditionAttention):
                self._standard.fold(module.value_combiner)

    def _predict(self, forward, tokens: Tensor):
        """forward(x, t) under these tokens."""
        text, *numbers = tokens.split([self._prompts.shape[1], *[1] * self._patient.shape[1]], dim=-1)
        condition = dict(zip(self.network.patient_keys, numbers, strict=True))
        return functools.partial(forward, text_embed=text, condition=condition)

    def _whitening(self) -> Whitening:
        """By which tokens of the training records get mean 0, prompts are white, and the patient's numbers get as large
        a total variance as the prompt."""
        counts = np.bincount(self.store.report_key[self._rows], minlength=len(self._prompts))
        text, patient = Whitening.of(self._prompts, counts), self._patient[self._rows].astype(np.float64)
        spread = np.sqrt(np.average(np.square(text(self._prompts)).sum(1), weights=counts))
        deviation = patient.std(0) * np.sqrt(max(1, patient.shape[1]))
        scale = np.where(deviation > 1e-6, spread / np.maximum(deviation, 1e-6), 1.0)
        matrix = np.zeros((len(text.mean) + len(scale),) * 2)
        matrix[: len(text.mean), : len(text.mean)] = text.matrix
        np.fill_diagonal(matrix[len(text.mean) :, len(text.mean) :], scale)
        return Whitening(np.concatenate([text.mean, patient.mean(0)]), matrix)


def embedded_prompts(store: Store) -> np.ndarray:
    """Embedding float32 (R, text width) of the prompt of each distinct report, in the order of `store.report_key`."""
    encoder = text_encoder(store.text_encoder, store.text_width)
    _, firsts = np.unique(store.report_key, return_index=True)
    parts = [firsts[start : start + _PROMPTS] for start in range(0, len(firsts), _PROMPTS)]
    return np.concatenate([encoder.encode([prompt(store.report(row)) for row in part]) for part in parts])


def patient_numbers(store: Store, keys: tuple[str, ...]) -> np.ndarray:
    """Sex (0 F, 1 M), age in years and heart rate in bpm of all records, float32 (N, len(keys)), as far as `keys` names
    them. An unknown one stands at the mean of the known."""
    columns = {"gender": store.sex, "age": store.age, "heart rate": store.heart_rate}
    known = [np.nan_to_num(columns[key], nan=_mean(columns[key])) for key in keys]
    return np.stack(known, axis=1).astype(np.float32) if known else np.zeros((len(store), 0), np.float32)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else 0.0
