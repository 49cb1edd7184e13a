"""`accelerate` and `restore`."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from ..errors import BackendError
from .forwards import Forward, forward_of
from .recognition import TITLES, UnknownModuleError, nearest, recognised

BACKENDS = ("auto", "cpu", "reference")

Tree = TypeVar("Tree", bound=nn.Module)


def accelerate(
    module: Tree, backend: str = "auto", dtype: torch.dtype = torch.float32, heads: int | None = None
) -> Tree:
    """Make a user's own instance of a published network fast, in place; or every one in a tree of modules.

    A network is recognised by the names and shapes of its state dict: denoiser with AdaX, Individual Base Extractor
    (arXiv 2508.02720), VAE encoder and decoder, DiffuSETS's U-Net (arXiv 2501.05932), the paper's ablations; of any
    class and size. It must give on a drawn input what the published network gives. Its forward (of the extractor
    `extract_features`) is then answered by this package: in inference on the CPU by the engines, in training, where a
    gradient flows, by this package's operators (denoiser and extractor). Parameters, state dict, class, hooks and
    arguments stay. Where the fast path cannot run, the module's own forward does, and "auto" says so once; encoder and
    ablations always run their own.

    Calls that no engine answers go to the module's own forward too: attention maps and edits, `reduce=False`, arguments
    of other types or shapes than the documented.

    What does not depend on latents and timestep is kept between calls, so that a loop over timesteps pays it once.
    Weights are packed at first use and again after they change in place or are replaced; a change through `.data` alone
    goes unseen, until `accelerate` is called again.

    Args:
        backend: "cpu", "reference" (the module's own forward), or "auto" for the first that can run.
        dtype: of the engines' products, float32 or bfloat16; results are float32, bfloat16 under autocast.
        heads: attention heads, where neither a `num_heads` of the module's parts nor the published number is right.

    Returns:
        The same module, patched.

    Raises:
        UnknownModuleError: no network is recognised, with the nearest and the first difference; or one has a network's
            names and shapes, but computes something else. Nothing is patched then.
        BackendError: unknown backend, or one asked for by name cannot run; names the reasons.
    """
    if not isinstance(module, nn.Module):
        raise UnknownModuleError(f"expected a torch.nn.Module, but got a {type(module).__name__}")
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    before = [(part, _patches(part)) for part in module.modules()]
    restore(module)
    try:
        everything = list(recognised(module, heads))
        if not everything:
            raise UnknownModuleError(_unknown(module))
        forwards = [forward_of(found, backend, dtype) for found in everything]
    except Exception:
        for part, patches in before:
            part.__dict__.update(patches)
        raise
    for found, forward in zip(everything, forwards, strict=True):
        setattr(found.module, found.method, forward)
    return module


def restore(module: Tree) -> Tree:
    """Undo `accelerate` in a module and all its parts; returns the module."""
    for part in module.modules():
        for name, forward in _patches(part).items():
            del part.__dict__[name]
            if forward.of_instance:
                part.__dict__[name] = forward.original
    return module


def _patches(part: nn.Module) -> dict[str, Forward]:
    return {name: value for name, value in part.__dict__.items() if isinstance(value, Forward)}


def _unknown(module: nn.Module) -> str:
    close = nearest(module)
    return (
        f"no published network is recognised in this {type(module).__name__}; nearest is {close.name!r} "
        f"({TITLES[close.name]}), of which it has {close.share:.0%} of the names: {close.reason}"
    )
