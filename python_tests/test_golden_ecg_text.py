"""The ECG-text encoder of the metrics against the published features."""

from __future__ import annotations

import pytest
import torch
from golden_data import TOLERANCE, golden, inp, relative_error
from golden_networks import assert_published_parameters, load

from ecgtwin_fast import models


@pytest.fixture(scope="module")
def clip():
    return load("clip")


def test_golden_clip_parameter_names_and_shapes():
    assert_published_parameters("clip")


def test_golden_clip_signal(clip):
    assert relative_error(clip.encode_signal(inp("sig", (2, 1024, 12))), golden("clip_signal")) <= TOLERANCE


def test_golden_clip_text(clip):
    report = inp("te5", (3, 5, 768), normalised=True).mean(dim=1)
    assert relative_error(clip.encode_text(report), golden("clip_text")) <= TOLERANCE


def test_golden_clip_forward_gives_both(clip):
    report = inp("te5", (3, 5, 768), normalised=True).mean(dim=1)
    signal_features, text_features = clip(inp("sig", (2, 1024, 12)), report)
    assert relative_error(signal_features, golden("clip_signal")) <= TOLERANCE
    assert relative_error(text_features, golden("clip_text")) <= TOLERANCE


@pytest.mark.parametrize("samples", [1024, 1001])
def test_clip_of_another_size(samples):
    resnet = {"leads": 8, "stem": 16, "widths": (16, 32, 32), "blocks": (1, 2, 1), "kernel": 5}
    network = models.create("clip", **resnet, group_width=8, width=24, text_width=96, text_hidden=32)
    signal, report = torch.randn(2, samples, 8), torch.randn(3, 96)
    first, again = network.encode_signal(signal), network.encode_signal(signal)
    assert not torch.equal(first, again), "no dropout while training"
    signal_features, text_features = network.eval()(signal, report)
    assert signal_features.shape == (2, 24)
    assert text_features.shape == (3, 24)
    assert network.logit_scale.exp().item() == pytest.approx(1 / 0.07)
