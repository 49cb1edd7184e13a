"""DiffuSETS's U-Net against the published output."""

from __future__ import annotations

import pytest
import torch
from golden_data import TOLERANCE, golden, inp, relative_error
from golden_networks import TIMESTEPS, assert_published_parameters, load

from ecgtwin_fast import models

PATIENT = {"gender": [0, 1, 1], "age": [34, 61, 77], "heart rate": [58, 80, 121]}


def condition(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {key: torch.tensor(values, dtype=dtype).view(3, 1, 1) for key, values in PATIENT.items()}


@pytest.fixture(scope="module")
def unet():
    return load("unet")


def test_golden_unet_parameter_names_and_shapes():
    assert_published_parameters("unet")


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_golden_unet(unet, dtype):
    out = unet(inp("x", (3, 4, 128)), TIMESTEPS, inp("ada", (3, 1, 1536), normalised=True), condition(dtype))
    assert relative_error(out, golden("unet")) <= TOLERANCE


def test_golden_unet_size_with_tables():
    """14.18 M as published, the 13 constant tables included; these are saved but not trained."""
    network = models.create("unet")
    trained = sum(parameter.numel() for parameter in network.parameters())
    saved = sum(value.numel() for value in network.state_dict().values())
    assert saved - trained == 13 * 1000 * 64
    assert round(saved / 1e6, 2) == 14.18


def test_unet_on_raw_ecgs_without_patient():
    sizes = {"channels": 12, "length": 1024, "widths": (16, 32, 32), "heads": 4, "text_width": 96}
    network = models.create("unet", **sizes, patient_keys=()).eval()
    x, t, text = torch.randn(2, 12, 1024), torch.tensor([0, 999]), torch.randn(2, 1, 96)
    out = network(x, t, text, {})
    assert out.shape == x.shape
    assert not torch.equal(out, network(x, t, -text, {}))


def test_unet_refuses_a_length_it_cannot_halve(unet):
    with pytest.raises(ValueError, match="a length of 96, but the U-Net needs a multiple of 64"):
        unet(torch.zeros(3, 4, 96), TIMESTEPS, torch.zeros(3, 1, 1536), condition())
