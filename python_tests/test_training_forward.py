"""The operators' forward of denoiser, extractor and U-Net: the reference's values, gradients and loss curve."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ecgtwin_fast import extension, models
from ecgtwin_fast.engine import training
from ecgtwin_fast.engine.training import not_supported_reasons, training_forward
from ecgtwin_fast.errors import BackendError
from ecgtwin_fast.ops import OPERATORS

DENOISER = {"hidden": 64, "depth": 3, "heads": 2, "base_width": 32, "text_width": 48}
UNET = {"widths": (8, 16, 24), "heads": 4, "bottleneck_hidden": 16, "text_width": 48}
EXTRACTOR = {"hidden": 64, "layers": 2, "heads": 4, "feed_forward": 96, "text_width": 48}
BATCH, STATEMENTS = 5, 4
NO_GPU = None if torch.cuda.is_available() else "torch sees no CUDA device"
CASES = ["denoiser", "denoiser without mask", "U-Net"]
CASES += ["extractor", "extractor, float mask", "extractor without condition"]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def case(name: str) -> tuple[nn.Module, tuple]:
    """A network with every parameter drawn, and arguments for it."""
    torch.manual_seed(1)
    text, patient = draw(BATCH, STATEMENTS, 48), draw(BATCH, 3)
    mask = (torch.arange(STATEMENTS) < torch.tensor([[1], [4], [2], [3], [1]])).float()
    if name.startswith("denoiser"):
        network = models.create("dit", **DENOISER)
        mask = None if name == "denoiser without mask" else mask
        given = (draw(BATCH, 4, 128), torch.tensor([1, 997, 5, 300, 600]), text, mask, patient, draw(BATCH, 32))
    elif name == "U-Net":
        network = models.create("unet", **UNET)
        numbers = dict(zip(network.patient_keys, patient[:, None].split(1, -1), strict=True))
        given = (draw(BATCH, 4, 128), torch.tensor([1, 997, 5, 300, 600]), text[:, :1], numbers)
    else:
        network = models.create("ibe", **EXTRACTOR, float_mask="float mask" in name)
        condition = (None, None, None) if "without" in name else (text, mask, patient)
        given = (draw(BATCH, 128, 4), *condition)
    with torch.no_grad():
        for index, weight in enumerate(network.parameters()):
            weight += 0.1 * draw(*weight.shape, seed=index)
    return network, given


def run(name: str, backend: str, bfloat16: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Output, and the gradients of a fixed projection of it, end to end."""
    network, given = case(name)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        out = training_forward(network, backend)(*given)
    (out.float() * draw(*out.shape, seed=9)).sum().backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    return out.detach(), torch.cat([grad.flatten() for grad in grads])


def distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("name", CASES)
def test_float32_values_and_gradients(name):
    (out, grad), (expected, expected_grad) = (run(name, backend, False) for backend in ("operators", "reference"))
    assert out.dtype == torch.float32 and out.shape == expected.shape
    assert distance(out, expected) < 2e-6
    assert distance(grad, expected_grad) < 5e-6


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_is_at_most_twice_autocasts_error(name):
    exact, exact_grad = run(name, "reference", False)
    (out, grad), (own, own_grad) = (run(name, backend, True) for backend in ("operators", "reference"))
    assert distance(out, exact) <= 2 * distance(own, exact)
    assert distance(grad, exact_grad) <= 2 * distance(own_grad, exact_grad)


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["denoiser", "extractor"])
def test_fifty_steps_follow_the_reference(name, bfloat16):
    """The losses of AdamW's steps stay together: what an operator gets wrong would add up."""

    def losses(backend: str) -> torch.Tensor:
        network, given = case(name)
        forward = training_forward(network, backend)
        optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
        found = []
        for step in range(50):
            x = given[0] + 0.1 * draw(*given[0].shape, seed=step)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                out = forward(x, *given[1:]).float()
            loss = (out - draw(*out.shape, seed=3)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(loss.detach())
        return torch.stack(found)

    ours, reference = losses("operators"), losses("reference")
    assert reference[-5:].mean() < 0.7 * reference[:5].mean()
    # Weights of the reference changed by 1e-4, less than bfloat16 resolves, move its own losses by 2 to 5 %.
    torch.testing.assert_close(ours, reference, rtol=5e-2 if bfloat16 else 2e-4, atol=0)


def test_other_networks_train_as_they_are():
    network = models.create("dit_attn", hidden=32, depth=1, heads=2)
    assert training_forward(network) is network
    reason = "only DiT, BaseExtractor, DiffuSETSUNet have a forward of operators"
    with pytest.raises(BackendError, match=f"backend 'operators' cannot train a DiTAttn: {reason}"):
        training_forward(network, "operators")
    with pytest.raises(BackendError, match="unknown backend 'abacus'; known: auto, operators, compile, reference"):
        training_forward(network, "abacus")


def test_says_why_it_cannot(monkeypatch):
    network, _ = case("denoiser")
    assert not_supported_reasons(network) == []
    assert not_supported_reasons(network.to("meta")) == ["no kernels are written for meta"]
    assert training_forward(network) is network
    assert all("cuda" in operator.devices for operator in OPERATORS.values())
    monkeypatch.setattr(training, "_devices", lambda _: {"cuda"})
    for reason, expected in (("CUDA was left out", ["CUDA was left out"]), (None, [NO_GPU] if NO_GPU else [])):
        monkeypatch.setattr(extension, "CUDA_REASON", reason)
        assert not_supported_reasons(network) == expected
    monkeypatch.undo()
    monkeypatch.setattr(extension, "MODULE", None)
    monkeypatch.setattr(extension, "REASON", "it was left out")
    with pytest.raises(BackendError, match="it was left out"):
        training_forward(case("denoiser")[0], "operators")
    with pytest.warns(RuntimeWarning, match="training with backend 'reference'.*it was left out"):
        assert isinstance(training_forward(case("denoiser")[0]), models.create("dit", **DENOISER).__class__)


def test_compiled_network_has_the_same_gradients(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda f, real=torch.compile: real(f, backend="aot_eager"))
    (out, grad), (expected, expected_grad) = (run("denoiser", backend, False) for backend in ("compile", "reference"))
    assert distance(out, expected) < 1e-6 and distance(grad, expected_grad) < 1e-6
