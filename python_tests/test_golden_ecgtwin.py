"""ECGTwin's own networks against the published outputs: denoiser, editing, extractor, autoencoder."""

from __future__ import annotations

import pytest
import torch
from golden_data import TOLERANCE, golden, inp, relative_error
from golden_networks import assert_published_parameters, load

from ecgtwin_fast import models

T = torch.tensor([1, 500, 998])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]).float()


@pytest.fixture(scope="module")
def dit():
    return load("dit")


@pytest.fixture(scope="module")
def ibe():
    return load("ibe")


def text(name: str) -> torch.Tensor:
    return inp(name, (3, int(name[2:]), 768), normalised=True)


def conditions() -> tuple[torch.Tensor, torch.Tensor]:
    return inp("p", (3, 3)), inp("bv", (3, 256))


@pytest.mark.parametrize("name", ["dit", "ibe", "enc", "dec"])
def test_golden_parameter_names_and_shapes(name):
    assert_published_parameters(name)


@pytest.mark.parametrize("tokens", [1, 5, 17])
def test_golden_dit(dit, tokens):
    out = dit(inp("x", (3, 4, 128)), T, text(f"te{tokens}"), None, *conditions())
    assert relative_error(out, golden(f"dit_L{tokens}")) <= TOLERANCE


def test_golden_dit_masked(dit):
    out = dit(inp("x", (3, 4, 128)), T, text("te5"), MASK, *conditions())
    assert relative_error(out, golden("dit_masked")) <= TOLERANCE


def test_golden_attention_map(dit):
    _, maps = dit(inp("x", (3, 4, 128)), T, text("te5"), None, *conditions(), need_weights=True)
    assert len(maps) == 7
    assert relative_error(maps[3], golden("attn_map_L5_block3")) <= TOLERANCE


@pytest.mark.parametrize("mode", ["swap", "add"])
def test_golden_editing(dit, mode):
    source_maps = []

    def record(_, maps):
        source_maps.append(maps)
        return maps

    def replace(block, maps):
        if mode == "swap":
            return source_maps[block]
        return torch.cat([source_maps[block], 0.7 * maps[..., -1:]], dim=-1)

    source = dit(inp("x", (3, 4, 128)), T, text("te5"), None, *conditions(), edit=record)
    edited_text = text("ee5") if mode == "swap" else torch.cat([text("te5"), text("ea1")], dim=1)
    edited = dit(inp("xe", (3, 4, 128)), T, edited_text, None, *conditions(), edit=replace)
    assert relative_error(source, golden(f"{mode}_src")) <= TOLERANCE
    assert relative_error(edited, golden(f"{mode}_edit")) <= TOLERANCE


def test_dit_refuses_too_many_statements(dit):
    with pytest.raises(ValueError, match="26 statements, but the model takes at most 25"):
        dit(inp("x", (3, 4, 128)), T, torch.zeros(3, 26, 768), None, *conditions())


@pytest.mark.parametrize(
    "key, embed, mask",
    [("ibe", "te5", None), ("ibe_masked_float", "te5", MASK), ("ibe_classfree", None, None)],
)
def test_golden_extractor(ibe, key, embed, mask):
    x = inp("x", (3, 4, 128)).transpose(1, 2)
    embed = None if embed is None else text(embed)
    out = ibe.extract_features(x, embed, mask, None if embed is None else inp("p", (3, 3)))
    assert relative_error(out, golden(key)) <= TOLERANCE


def test_golden_extractor_pairs(ibe):
    first = (inp("x", (3, 4, 128)).transpose(1, 2), text("te5"), None, inp("p", (3, 3)))
    second = (inp("x2", (3, 128, 4)), text("ee5"), None, inp("p2", (3, 3)))
    logits1, logits2 = ibe(first, second)
    assert relative_error(logits1, golden("ibe_logits1")) <= TOLERANCE
    assert relative_error(logits2, golden("ibe_logits2")) <= TOLERANCE


def test_extractor_proper_mask_excludes_padding():
    ibe = models.create("ibe", hidden=32, layers=1, heads=2, feed_forward=32, float_mask=False).eval()
    x, embed, patient = torch.randn(2, 16, 4), torch.randn(2, 3, 768), torch.randn(2, 3)
    mask = torch.tensor([[1.0, 1, 0], [1, 1, 0]])
    alone = ibe.extract_features(x, embed[:, :2], None, patient)
    torch.testing.assert_close(ibe.extract_features(x, embed, mask, patient), alone)


def test_golden_decoder():
    out = load("dec")(0.18215 * inp("x", (3, 4, 128))[:2])
    assert relative_error(out, golden("dec")) <= TOLERANCE


def test_golden_encoder():
    z, mean, log_variance = load("enc")(inp("sig", (2, 1024, 12)), inp("encnoise", (2, 4, 128)))
    assert relative_error(z, golden("enc_z")) <= TOLERANCE
    assert relative_error(mean, golden("enc_mu")) <= TOLERANCE
    assert relative_error(log_variance, golden("enc_lv")) <= TOLERANCE


@pytest.mark.parametrize("name, sizes", [("dit", {"hidden": 64, "depth": 2, "heads": 2, "base_width": 32})])
def test_other_sizes(name, sizes):
    network = models.create(name, **sizes)
    out = network(
        torch.randn(2, 4, 128),
        torch.tensor([3, 9]),
        torch.randn(2, 1, 768),
        None,
        torch.randn(2, 3),
        torch.randn(2, 32),
    )
    assert out.shape == (2, 4, 128)


def test_unknown_network_lists_the_known():
    with pytest.raises(ValueError, match="unknown network 'vae'; known: dit, ibe"):
        models.create("vae")
