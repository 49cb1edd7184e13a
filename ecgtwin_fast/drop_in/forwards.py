"""What stands in for the forward of a recognised module: the fast path where it can run, else the module's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import models
from ..engine.choice import use_cpu_engine
from ..engine.cpu_decoder import decoder_reasons
from ..engine.cpu_extractor import extractor_reasons
from ..engine.decoder import decode
from ..engine.extractor import extract
from ..engine.kept import Kept
from ..engine.training import not_supported_reasons, on_cpu, training_forward
from ..engine.unet import PackedUNet, unet_reasons
from .denoiser import denoiser_reasons, fits, predict
from .link import Scratch
from .recognition import TITLES, Found


class Forward:
    """A module's function, fast: called with its arguments, it gives its result.

    Args:
        found: the module. backend: "auto", "cpu" or "reference". dtype: of the engine's products, float32 or bfloat16;
            under autocast to bfloat16 it is that, and so is the result.
    """

    def __init__(self, found: Found, backend: str, dtype: torch.dtype):
        self.network, self.link, self.original = found.network, found.link, found.original
        self.what, self.backend, self.dtype = TITLES[found.name], backend, dtype
        self.of_instance = found.method in found.module.__dict__
        self.scratch = Scratch()
        self.__signature__ = inspect.signature(found.original)
        ours = inspect.signature(getattr(type(found.network), found.method, type(found.network).forward))
        # Theirs may bear other names: places decide.
        self._names = dict(zip(self.__signature__.parameters, list(ours.parameters)[1:], strict=False))

    def __call__(self, *args, **kwargs):
        result = None
        if self.backend != "reference" and not torch.compiler.is_compiling():
            renamed = {self._names.get(name, name): value for name, value in kwargs.items()}
            result = self.fast(*args, **renamed)
        return self.original(*args, **kwargs) if result is None else result

    def fast(self, *args, **kwargs):
        """The result, or None where the module's own forward has to give it."""
        raise NotImplementedError

    def reasons(self, *args) -> list[str]:
        """Why the engine cannot run the module at all; with the forward's arguments, not on these either."""
        raise NotImplementedError

    @property
    def autocast(self) -> bool:
        return torch.is_autocast_enabled("cpu")

    @property
    def precision(self) -> torch.dtype:
        return torch.get_autocast_dtype("cpu") if self.autocast else self.dtype

    def chosen(self, reasons: list[str]) -> bool:
        """Whether the engine runs; BackendError where it was asked for by name and cannot."""
        return use_cpu_engine(self.backend, self.what, reasons)

    def result(self, value: Tensor) -> Tensor:
        return value.to(self.precision) if self.autocast else value

    def training(self, *given: Tensor | None) -> Tensor | None:
        """The differentiable forward by operators."""
        if not on_cpu(self.network) or not_supported_reasons(self.network) or self.link.reasons():
            return None
        return training_forward(self.network, "operators")(*given)


def usable(*given: Tensor | None) -> bool:
    """Whether the tensors lie on the CPU, the first of them in float32."""
    return given[0].dtype == torch.float32 and all(value is None or value.is_cpu for value in given)


class Denoiser(Forward):
    def fast(self, x, t, text_embed, text_mask, patient, base_vector, need_weights=False, edit=None):
        given = (x, t, text_embed, text_mask, patient, base_vector)
        state = self.link.state()
        if need_weights or edit is not None:
            return None
        if self.link.trains(*given):
            return self.training(*given) if fits(self.network, *given) else None
        if not self.chosen(self.reasons(x)) or not usable(*given) or not fits(self.network, *given):
            return None
        dtype = self.precision
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            made = predict(self.network, *given, dtype=dtype, state=state, scratch=self.scratch)
        return self.result(made)

    def reasons(self, x: Tensor | None = None) -> list[str]:
        length = self.network.length if x is None else x.shape[-1]
        return denoiser_reasons(self.network, length, self.precision) + self.link.reasons()


class Extractor(Forward):
    def fast(self, x, text_embed=None, mask=None, patient=None, reduce=True):
        given = (x, text_embed, mask, patient)
        self.link.state()
        if not reduce or x.dim() != 3:
            return None
        if self.link.trains(*given):
            return self.training(*given)
        if not self.chosen(self.reasons(x)) or not usable(*given):
            return None
        latents = x.transpose(1, 2)
        return self.result(extract(self.network, latents, *given[1:], backend="cpu", dtype=self.precision).base_vectors)

    def reasons(self, x: Tensor | None = None) -> list[str]:
        latents = torch.empty(1, 4, 128) if x is None else x.transpose(1, 2)
        return extractor_reasons(self.network, latents, self.precision) + self.link.reasons()


class Decoder(Forward):
    def fast(self, z):
        self.link.state()
        if z.dim() != 3 or self.link.trains(z) or not self.chosen(self.reasons(z)) or not usable(z):
            return None
        return self.result(decode(self.network, z, backend="cpu", dtype=self.precision).signals)

    def reasons(self, z: Tensor | None = None) -> list[str]:
        latents = torch.empty(1, self.network[0].in_channels, 128) if z is None else z
        return decoder_reasons(self.network, latents, self.precision) + self.link.reasons()


class UNet(Forward):
    def fast(self, x, t, text_embed, condition=None):
        patient = [(condition or {}).get(key) for key in self.network.patient_keys]
        state = self.link.state()
        if self.link.trains(x, text_embed, *patient) or not self.chosen(self.reasons(x)):
            return None
        if not usable(x, t, text_embed, *patient) or not self._fits(x, t, text_embed, patient):
            return None
        size = x.shape[-1], self.precision
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            packed = self.scratch.of_state(size, state, lambda: PackedUNet(self.network, *size))
            joined = torch.cat([text_embed.float(), *(value.float() for value in patient)], dim=-1)
            tokens = self.scratch.setdefault("tokens", Kept()).get(packed, [joined], lambda: packed.tokens(joined))
            made = packed(x, t, tokens)
        return self.result(made)

    def _fits(self, x: Tensor, t: Tensor, text_embed: Tensor, patient: list[Tensor | None]) -> bool:
        rows = (len(x), 1)
        return (
            x.dim() == 3
            and x.shape[1] == self.network.channels
            and t.shape == (len(x),)
            and not t.is_floating_point()
            and text_embed.dim() == 3
            and text_embed.shape[:2] == rows
            and all(value is not None and value.shape == (*rows, 1) for value in patient)
        )

    def reasons(self, x: Tensor | None = None) -> list[str]:
        length = self.network.length if x is None else x.shape[-1]
        return unet_reasons(self.network, length, self.precision) + self.link.reasons()


class Own(Forward):
    """The module's own forward: no engine has this network yet."""

    def fast(self, *args, **kwargs):
        self.chosen(self.reasons())

    def reasons(self, *args) -> list[str]:
        return [f"no engine runs models.create('{_name_of(self.network)}') yet"]


FORWARDS: dict[str, type[Forward]] = {"dit": Denoiser, "ibe": Extractor, "dec": Decoder, "unet": UNet}
"""By network; `Own` serves the others."""


def _name_of(network: nn.Module) -> str:
    return next(name for name, (_, kind) in models.NETWORKS.items() if kind == type(network).__name__)


def forward_of(found: Found, backend: str, dtype: torch.dtype) -> Forward:
    """The fast forward of a recognised module.

    Raises:
        BackendError: the backend is unknown, or asked for by name and cannot run this module; names every reason.
    """
    made: Callable = FORWARDS.get(found.name, Own)
    forward = made(found, backend, dtype)
    forward.chosen(forward.reasons())
    return forward
