"""A complete model of tiny random networks, and records to give it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import ecgtwin_fast
from ecgtwin_fast import models
from ecgtwin_fast.data.record import Record, read_record
from ecgtwin_fast.pretrained import ModelConfig, write_model

PATIENT = Path(ecgtwin_fast.__file__).parent / "data" / "patient" / "patient.hea"
AUTOENCODER = {"widths": [16, 16, 16, 16], "groups": 4}
SIZES = {
    "encoder": AUTOENCODER,
    "decoder": AUTOENCODER,
    "extractor": {"hidden": 32, "layers": 1, "heads": 2, "feed_forward": 32},
    "denoiser": {"hidden": 32, "depth": 1, "heads": 2, "base_width": 32, "max_tokens": 4},
}
CONFIG = ModelConfig(SIZES)
DIFFUSETS_SIZES = {
    "decoder": AUTOENCODER,
    "denoiser": {"widths": [8, 16], "heads": 2, "bottleneck_hidden": 16, "bottleneck_heads": 2, "text_width": 64},
}
DIFFUSETS_CONFIG = ModelConfig(DIFFUSETS_SIZES, text_width=64, model_type="diffusets")


def states(seed: int = 0, config: ModelConfig = CONFIG) -> dict[str, dict[str, torch.Tensor]]:
    """Random weights of each network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {
            role: models.create(network, **config.sizes[role]).state_dict()
            for role, network in config.networks.items()
        }


def write_tiny_model(folder: Path, dtype: torch.dtype | None = None) -> Path:
    write_model(folder, CONFIG, states(), "# tiny\n", dtype)
    return folder


def write_tiny_diffusets(folder: Path) -> Path:
    write_model(folder, DIFFUSETS_CONFIG, states(config=DIFFUSETS_CONFIG), "# tiny\n")
    return folder


def patient(**overrides) -> Record:
    """The package's simulated patient: 12 leads at 500 Hz with age, sex, report and heart rate."""
    return read_record(PATIENT, **overrides)


def with_leads(record: Record, leads: list[str]) -> Record:
    """The record with these leads; those that it does not have are noise."""
    rng = np.random.default_rng(0)
    columns = [
        record.lead(name) if name in record.leads else 0.1 * rng.standard_normal(len(record.signal)) for name in leads
    ]
    return Record(np.stack(columns, axis=1), record.sampling_rate, leads, record.age, record.sex, record.report)


def tree(folder: Path) -> list[str]:
    """Every path below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
