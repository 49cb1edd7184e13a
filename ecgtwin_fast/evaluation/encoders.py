"""What trained networks see in ECGs and reports: CLIP features and base vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..data.condition import split_report
from ..data.preprocess import SAMPLES
from ..data.store import Store
from ..data.text import text_encoder
from ..engine.extractor import extract
from ..errors import TextEncoderError
from ..generate import ECGTwin
from ..generator import Generator
from .ecgs import Ecgs

BATCH = 64


class Statements:
    """Embeddings of reports: a store's own statements by its table, others by its text encoder."""

    def __init__(self, store: Store):
        self.name, self.width = store.text_encoder, store.text_width
        self._known = dict(zip(store.statements[1:], store.embeddings[1:], strict=True))

    def embed(self, reports: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Reports (n,) as statements (n, T, width), float32, padded by zeros, and their mask (n, T)."""
        parts = [split_report(report) for report in reports]
        new = sorted({text for part in parts for text in part} - self._known.keys())
        if new:
            self._known |= dict(zip(new, text_encoder(self.name, self.width).encode(new), strict=True))
        longest = max(map(len, parts))
        text = np.zeros((len(parts), longest, self.width), np.float32)
        mask = np.zeros((len(parts), longest), np.float32)
        for row, part in enumerate(parts):
            text[row, : len(part)] = [self._known[statement] for statement in part]
            mask[row, : len(part)] = 1
        return text, mask


class ClipEncoder:
    """The ECG-text encoder of a run (`clip`), trained on reports that `statements` embeds.

    Raises TextEncoderError where the widths of their embeddings differ.
    """

    def __init__(self, network: nn.Module, statements: Statements, device: torch.device):
        width = next(network.text_projector.parameters()).shape[1]
        if width != statements.width:
            raise TextEncoderError(
                f"the CLIP encoder takes statements embedded {width} wide, the store's are {statements.width} wide"
            )
        self._network, self._statements, self._device = network.to(device).eval(), statements, device

    @torch.no_grad()
    def signals(self, ecgs: Ecgs) -> np.ndarray:
        """Features (n, width)."""
        parts = [self._network.encode_signal(part.to(self._device)) for part in _tensor(ecgs.signals).split(BATCH)]
        return torch.cat(parts).float().cpu().numpy()

    @torch.no_grad()
    def reports(self, ecgs: Ecgs) -> np.ndarray:
        """Features (n, width) of what is asked for."""
        text, mask = self._statements.embed(ecgs.reports)
        mean = _tensor(text.sum(1) / mask.sum(1, keepdims=True))
        return self._network.encode_text(mean.to(self._device)).float().cpu().numpy()


class BaseEncoder:
    """Base vectors by a model's Individual Base Extractor (arXiv 2508.02720), each ECG under its own condition.

    Raises TextEncoderError where the store's statements were embedded by another encoder than the model's.
    """

    def __init__(self, model: ECGTwin, statements: Statements):
        check_statements(model, statements)
        self._model, self._statements = model, statements

    @torch.no_grad()
    def bases(self, ecgs: Ecgs) -> np.ndarray:
        """(n, hidden)."""
        device, networks = self._model.device, self._model.networks
        no_noise = torch.zeros(1, networks["denoiser"].channels, SAMPLES // 8, device=device)
        parts = []
        for start in range(0, len(ecgs), BATCH):
            part = ecgs[np.arange(start, min(start + BATCH, len(ecgs)))]
            latents, _, _ = networks["encoder"](_tensor(part.signals).to(device), no_noise)
            parts.append(extract(networks["extractor"], latents, *self.conditions(part)).base_vectors.cpu())
        return torch.cat(parts).float().numpy()

    def conditions(self, ecgs: Ecgs) -> list[Tensor]:
        """Statements, mask and patient vectors on the model's device, as the networks take them."""
        condition = (*self._statements.embed(ecgs.reports), ecgs.patient_vectors())
        return [_tensor(values).to(self._model.device) for values in condition]


def check_statements(model: Generator, statements: Statements) -> None:
    """TextEncoderError unless the model takes these embeddings."""
    ours, theirs = (statements.name, statements.width), (model.config.text_encoder, model.config.text_width)
    if ours != theirs:
        raise TextEncoderError(f"the store's statements are embedded by {ours}, the model {model.name} takes {theirs}")


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
