"""The ablations of ECGTwin's paper against the published outputs."""

from __future__ import annotations

import pytest
import torch
from golden_data import TOLERANCE, golden, relative_error
from golden_networks import assert_published_parameters, denoiser_inputs, load

from ecgtwin_fast import models

ABLATIONS = ["dit_adaln", "dit_attn", "unet_adax"]
SMALL = {
    "dit_adaln": {"hidden": 32, "depth": 2, "heads": 2, "mlp_ratio": 2},
    "dit_attn": {"hidden": 32, "depth": 2, "heads": 2, "mlp_ratio": 2},
    "unet_adax": {"widths": (8, 16, 16), "heads": 2, "mlp_ratio": 2, "kernel": 3, "bottleneck_mlp": 8},
}
WIDTHS = {"text_width": 48, "base_width": 16, "time_width": 32}


def small(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return models.create(name, **SMALL[name], **WIDTHS).eval()


def small_inputs(statements: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"x": (2, 4, 64), "text_embed": (2, statements, 48), "patient": (2, 3), "base_vector": (2, 16)}
    drawn = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return drawn | {"t": torch.tensor([3, 900])}


@pytest.mark.parametrize("name", ABLATIONS)
def test_golden_ablation_parameter_names_and_shapes(name):
    assert_published_parameters(name)


@pytest.mark.parametrize("name", ABLATIONS)
def test_golden_ablation(name):
    assert relative_error(load(name)(*denoiser_inputs()), golden(name)) <= TOLERANCE


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablation_of_other_sizes_uses_every_input(name):
    network, inputs = small(name), small_inputs(statements=3)
    out = network(**inputs, text_mask=None)
    assert out.shape == (2, 4, 64)
    for key, value in inputs.items():
        other = network(**inputs | {key: value + 1}, text_mask=None)
        assert not torch.allclose(out, other, rtol=1e-4), key


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablation_mask_hides_padding(name):
    network, inputs = small(name), small_inputs(statements=3)
    masked = network(**inputs, text_mask=torch.tensor([[1.0, 1, 0], [1, 1, 0]]))
    alone = network(**inputs | {"text_embed": inputs["text_embed"][:, :2]}, text_mask=None)
    torch.testing.assert_close(masked, alone, rtol=1e-4, atol=1e-5)


def test_unet_adax_refuses_too_many_statements():
    network = models.create("unet_adax", **SMALL["unet_adax"], **WIDTHS, max_tokens=2)
    with pytest.raises(ValueError, match="3 statements, but the model takes at most 2"):
        network(**small_inputs(statements=3), text_mask=None)


def test_golden_adaln_averages_statements():
    """One token that is the mean of the statements gives the published output too."""
    x, t, text, mask, patient, base_vector = denoiser_inputs()
    out = load("dit_adaln")(x, t, text.mean(dim=1, keepdim=True), mask, patient, base_vector)
    assert relative_error(out, golden("dit_adaln")) <= TOLERANCE
