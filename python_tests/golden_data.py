"""Weights, inputs and expected outputs of the published networks, drawn or read from golden/ (see its README)."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "golden"
sys.path.insert(0, str(FOLDER))
import weights as drawn  # noqa: E402

TOLERANCE = 5e-6


@functools.cache
def _expected() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "golden.npz") as file:
        return dict(file)


@functools.cache
def shapes() -> dict[str, dict[str, list[int]]]:
    """Network name -> published parameter name -> shape."""
    return json.loads((FOLDER / "parameter_shapes.json").read_text())


def golden(key: str) -> torch.Tensor:
    """The expected output stored under `key`."""
    return torch.from_numpy(_expected()[key])


def weights(model: str) -> dict[str, torch.Tensor]:
    """The drawn state dict of a published network."""
    return {
        name: torch.as_tensor(value) for name, value in drawn.state_dict(f"public/{model}", shapes()[model]).items()
    }


def inp(name: str, shape, normalised: bool = False) -> torch.Tensor:
    """The drawn input `name`; `normalised` scales it to unit length over its last axis."""
    value = torch.from_numpy(drawn.tensor(f"public/{name}", shape))
    return value / value.norm(dim=-1, keepdim=True) if normalised else value


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 error in float64."""
    assert value.shape == expected.shape, f"shape {tuple(value.shape)}, expected {tuple(expected.shape)}"
    value, expected = value.detach().double(), expected.double()
    return float((value - expected).norm() / expected.norm())
