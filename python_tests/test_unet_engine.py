"""The fast U-Net: published outputs, other sizes and lengths, both precisions, with and without oneDNN's products."""

from __future__ import annotations

import copy

import pytest
import torch
from cpu_engine import needs
from golden_data import golden, inp, relative_error
from golden_networks import TIMESTEPS, load
from torch import Tensor, nn

from ecgtwin_fast import models
from ecgtwin_fast.engine import unet
from ecgtwin_fast.engine.kept import Kept
from ecgtwin_fast.engine.unet import PackedUNet, unet_reasons

PATIENT = torch.tensor([[0.0, 34, 58], [1, 61, 80], [1, 77, 121]])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return load("unet")


def joined() -> Tensor:
    return torch.cat([inp("ada", (3, 1, 1536), normalised=True), PATIENT[:, None]], dim=-1)


@torch.no_grad()
def run(network: nn.Module, x: Tensor, t: Tensor, condition: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    packed = PackedUNet(network, x.shape[-1], dtype)
    return packed(x, t, packed.tokens(condition))


@pytest.mark.parametrize(("onednn", "small"), [(True, 2**18), (True, 0), (False, 0)])
def test_golden_unet(network, monkeypatch, onednn, small):
    monkeypatch.setattr(unet, "ONEDNN", onednn and unet.ONEDNN)
    monkeypatch.setattr(unet, "SMALL", small)
    x = inp("x", (3, 4, 128))
    made = run(network, x, TIMESTEPS, joined())
    with torch.no_grad():
        exact = copy.deepcopy(network).double().denoise(x.double(), TIMESTEPS, joined().double())
    assert made.dtype == torch.float32 and relative_error(made, exact) <= 1e-6
    # The published output is itself 9e-7 away from float64.
    assert relative_error(made, golden("unet")) <= (1e-6 if small else 1.5e-6)


@torch.no_grad()
def test_bfloat16_is_closer_than_twice_autocast(network):
    x, condition = inp("x", (3, 4, 128)), joined()
    numbers = {key: condition[..., 1536 + i : 1537 + i] for i, key in enumerate(network.patient_keys)}
    double = copy.deepcopy(network).double()
    exact = double.denoise(x.double(), TIMESTEPS, condition.double())
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x, TIMESTEPS, condition[..., :1536], numbers).float()
    made = run(network, x, TIMESTEPS, condition, torch.bfloat16)
    assert made.dtype == torch.float32 and relative_error(made, exact) <= 2 * relative_error(half, exact)


@pytest.mark.parametrize("length", [64, 192])
@pytest.mark.parametrize(
    "sizes",
    [
        {"channels": 12, "widths": (16, 32, 32), "heads": 4, "text_width": 96, "patient_keys": ()},
        {"widths": (8, 24), "kernel": 5, "heads": 2, "bottleneck_hidden": 16, "bottleneck_heads": 2, "text_width": 5},
        {"widths": (12,), "kernel": 1, "heads": 1, "text_width": 7},
    ],
)
def test_other_sizes(sizes, length):
    torch.manual_seed(0)
    network = models.create("unet", **sizes).eval()
    width = network.bottelneck.cross_attention.value_combiner.in_features
    x, t = torch.randn(5, network.channels, length), torch.tensor([0, 999, 7, 7, 300])
    condition = torch.randn(5, 1, width)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.05 * torch.randn_like(weight)
        expected = network.denoise(x, t, condition)
    assert relative_error(run(network, x, t, condition), expected) <= 1e-6


@torch.no_grad()
def test_values_are_copied_and_records_independent(network):
    twin = copy.deepcopy(network)
    x, condition = inp("x", (3, 4, 128)), joined()
    packed = PackedUNet(twin, 128, torch.float32)
    for value in (*twin.parameters(), *twin.buffers()):
        value.zero_()
    made = packed(x, TIMESTEPS, packed.tokens(condition))
    assert relative_error(made, golden("unet")) <= 1e-6
    alone = packed(x[1:2], TIMESTEPS[1:2], packed.tokens(condition[1:2]))
    assert relative_error(alone, made[1:2]) <= 1e-6


def test_reasons(network):
    needs(torch.float32)
    assert unet_reasons(network, 128) == []
    assert unet_reasons(network, 96) == ["the length of a latent must be a multiple of 64, but it is 96"]
    assert "dtype must be torch.float32 or torch.bfloat16" in unet_reasons(network, 128, torch.float16)[0]


def test_kept_values_are_made_anew_only_for_other_tensors():
    kept, calls, owner, x = Kept(), [], object(), torch.ones(2, 3)

    def get(*given: Tensor | None, by: object = owner) -> int:
        return kept.get(by, given, lambda: calls.append(0) or len(calls))

    assert [get(x, None), get(x.clone(), None)] == [1, 1]
    x.data[0] = 5
    assert [get(x, None), get(x, None), get(x, x), get(x.double(), x), get(x, x, by=calls)] == [2, 2, 3, 4, 5]
    assert get(torch.ones(2, 4), x, by=calls) == 6 and get(by=calls) == 7 and get(by=calls) == 7
