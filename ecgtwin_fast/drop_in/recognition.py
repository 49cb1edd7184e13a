"""Which published network a module is: by the names and shapes of its state dict, and then by what it computes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import models
from ..errors import ECGTwinError
from ..models.ecgtwin import DiT
from ..models.vae import Downsample
from .link import Link
from .sizes import SIZES, Shapes, heads_of

TITLES = {
    "dit": "the denoiser with AdaX",
    "ibe": "the Individual Base Extractor",
    "enc": "the VAE's encoder",
    "dec": "the VAE's decoder",
    "unet": "DiffuSETS's U-Net",
    "dit_adaln": "the ablation with adaLN only",
    "dit_attn": "the ablation with cross-attention only",
    "unet_adax": "the U-Net with AdaX",
}


class UnknownModuleError(ECGTwinError):
    """A module is none of the published networks, or has one's names and shapes and computes something else."""


class Found(NamedTuple):
    """A recognised module: `network` is ours, on the module's own parameters; `original` its function that the fast one
    stands in for, an attribute `method` of the module."""

    name: str
    module: nn.Module
    network: nn.Module
    link: Link
    method: str
    original: Callable


class Mismatch(NamedTuple):
    """How a state dict differs from a network's: the share of names in common, and the first difference."""

    share: float
    name: str
    reason: str


def shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict(keep_vars=True).items()}


def _created(name: str, sizes: dict) -> nn.Module:
    with torch.device("meta"):
        return models.create(name, **sizes)


@functools.cache
def _published(name: str) -> nn.Module:
    return _created(name, {})


class _OrPublished(dict):
    """Shapes; one that is missing is the published network's."""

    def __init__(self, name: str, shapes: Shapes):
        super().__init__(shapes)
        self._published = shapes_of(_published(name))

    def __missing__(self, key: str) -> tuple[int, ...]:
        return self._published[key]


def _candidate(name: str, module: nn.Module, shapes: Shapes, heads: int | None) -> nn.Module | None:
    """The network of this name and the sizes that the shapes tell, on meta; None where they tell none."""
    try:
        return _created(name, SIZES[name](shapes) | heads_of(module, name, heads))
    except (KeyError, ValueError, IndexError, StopIteration, AssertionError, RuntimeError, ZeroDivisionError):
        return None


def _difference(wanted: Shapes, found: Shapes) -> str | None:
    for name, shape in wanted.items():
        if name not in found:
            return f"{name} of shape {tuple(shape)} is missing"
        if tuple(found[name]) != tuple(shape):
            return f"{name} must have shape {tuple(shape)}, but it has {tuple(found[name])}"
    return next((f"{name} is none of its parameters" for name in found if name not in wanted), None)


def recognise(module: nn.Module, heads: int | None) -> Found | None:
    """The published network that a module is; None if it is none.

    Raises:
        UnknownModuleError: names and shapes are a network's, but what it computes is not.
    """
    shapes = shapes_of(module)
    for name in SIZES:
        network = _candidate(name, module, shapes, heads)
        if network is not None and _difference(shapes_of(network), shapes) is None:
            return _verified(name, module, network)
    return None


def network_of(module: object) -> object:
    """The denoiser that the engines run for a module: ours on its own parameters where it is a user's, else itself."""
    if not isinstance(module, nn.Module) or type(module) is DiT:
        return module
    known = module.__dict__.get("forward")
    if not isinstance(getattr(known, "link", None), Link):
        try:
            known = recognise(module, None)
        except UnknownModuleError:
            return module
    if known is None or not isinstance(known.network, DiT) or known.link.reasons():
        return module
    known.link.state()
    return known.network


def recognised(tree: nn.Module, heads: int | None) -> Iterator[Found]:
    """Every published network in a tree of modules, none of them inside another.

    Raises:
        UnknownModuleError: as `recognise`.
    """
    found = recognise(tree, heads)
    if found is not None:
        yield found
        return
    for child in tree.children():
        yield from recognised(child, heads)


def nearest(tree: nn.Module) -> Mismatch:
    """Of all modules in a tree and all networks, the pair with the largest share of common names."""
    best = Mismatch(-1.0, "dit", "")
    for module in tree.modules():
        shapes = shapes_of(module)
        for name in SIZES:
            network = _candidate(name, module, _OrPublished(name, shapes), None) or _published(name)
            wanted = shapes_of(network)
            share = len(wanted.keys() & shapes.keys()) / len(wanted.keys() | shapes.keys())
            if share > best.share:
                best = Mismatch(share, name, _difference(wanted, shapes) or "")
    return best


def _verified(name: str, module: nn.Module, network: nn.Module) -> Found:
    """The module as found, once it gives on a drawn input what the network gives.

    A shape tells neither the number of heads nor how a mask is meant: the extractor's `float_mask` is tried both ways.
    """
    network.length = getattr(module, "length", getattr(network, "length", None))
    for attribute in ("clip_sample_range", "patient_keys"):
        if hasattr(network, attribute):
            setattr(network, attribute, getattr(module, attribute, getattr(network, attribute)))
    link = Link(module, network)
    method = "extract_features" if hasattr(type(module), "extract_features") else "forward"
    original = getattr(module, method)
    found = Found(name, module, network, link, method, original)
    if method == "forward" and type(module).forward is nn.Module.forward or link.on("meta"):
        return found
    reference = network.extract_features if name == "ibe" else network
    variants = (True, False) if name == "ibe" else (None,)
    for variant in variants:
        if variant is not None:
            network.float_mask = variant
        error = _probe(name, module, original, network, reference)
        if error <= (1e-4 if link.exact else 0.05):
            return found
    raise UnknownModuleError(
        f"this {type(module).__name__} has the names and shapes of {name!r} ({TITLES[name]}), but computes something "
        f"else: relative error {error:.2g} on a drawn input; pass heads= if its number of heads is not the published"
    )


@torch.no_grad()
def _probe(name: str, module: nn.Module, original: Callable, network: nn.Module, reference: Callable) -> float:
    given = [_like(value, module) for value in probe_inputs(name, network)]
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        answer = original(*given)
    except Exception as error:
        raise UnknownModuleError(
            f"this {type(module).__name__} has the names and shapes of {name!r} ({TITLES[name]}), but does not take "
            f"its arguments: {type(error).__name__}: {error}"
        ) from error
    finally:
        for part, mode in modes.items():
            part.training = mode
    expected = reference(*given)
    pairs = zip(_tensors(answer), _tensors(expected), strict=False)
    return max((_distance(a, b) for a, b in pairs), default=float("inf"))


def _distance(a: object, b: Tensor) -> float:
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return float("inf")
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))


def _tensors(value: object) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _like(value: object, module: nn.Module) -> object:
    """On the module's device, and floating point in its precision."""
    if isinstance(value, dict):
        return {key: _like(entry, module) for key, entry in value.items()}
    if not isinstance(value, Tensor):
        return value
    weight = next(weight for weight in module.parameters())
    return value.to(weight.device, weight.dtype if value.is_floating_point() else None)


def probe_inputs(name: str, network: nn.Module) -> list:
    """Arguments for two records, drawn."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    t, mask = torch.tensor([1, 500]), torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    if name == "enc":
        length = 8 * 2 ** sum(isinstance(layer, Downsample) for layer in network)
        return [draw(2, length, network[0].in_channels), draw(2, network[-1].out_channels // 2, 8)]
    if name == "dec":
        return [draw(2, network[0].in_channels, 8)]
    if name == "ibe":
        width = network.text_projector.in_features - 3
        return [draw(2, 32, network.signal_embedding.in_features), draw(2, 3, width), mask, draw(2, 3)]
    x = draw(2, network.channels, network.length)
    if name == "unet":
        width = network.bottelneck.cross_attention.value_combiner.in_features - len(network.patient_keys)
        return [x, t, draw(2, 1, width), {key: draw(2, 1, 1) for key in network.patient_keys}]
    owner = network.bottelneck if name == "unet_adax" else network
    width = owner.text_projector.in_features - (0 if name == "dit_adaln" else 3)
    return [x, t, draw(2, 3, width), mask, draw(2, 3), draw(2, owner.ib_projector.in_features)]
