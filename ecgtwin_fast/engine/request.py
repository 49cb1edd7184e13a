"""What is asked of a backend: one trajectory for a batch of records, validated before any backend sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ConditionError
from ..samplers import Progress, Schedule, check_keys, check_shape
from .edit import TIMESTEPS, Edit

LATENT_CHANNELS, LATENT_LENGTH = 4, 128
PATIENT_WIDTH = 3

Denoiser = nn.Module | Callable[..., Tensor]


def _check(name: str, value: Tensor, shape: tuple[int | None, ...]) -> None:
    """Shape of a condition; None stands for any size."""
    came = tuple(value.shape)
    if len(came) != len(shape) or any(size not in (None, got) for size, got in zip(shape, came, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ConditionError(f"{name} must have shape ({wanted}), but it has {came}")


@dataclass(frozen=True)
class Request:
    """One call of `generate_latents`: B records, T statements at most.

    Attributes:
        denoiser: called as denoiser(x, t, text_embed, text_mask, patient, base_vector).
        text_embed: (B, T, text width). text_mask: (B, T) or None. patient: (B, 3).
        base_vector: (B, base width).
        schedule: timesteps and coefficients of the sampler.
        seed, first_index: key of the draws; record b has index first_index + b.
        x_init: (B, C, L) or None. noise: (steps, B, C, L) or None.
        dtype: of the denoiser's arithmetic; the trajectory is float32. progress: called as progress(done, steps).
        edit: how records hang together; None: they do not.
    """

    denoiser: Denoiser
    text_embed: Tensor
    text_mask: Tensor | None
    patient: Tensor
    base_vector: Tensor
    schedule: Schedule
    seed: int
    first_index: int
    x_init: Tensor | None
    noise: Tensor | None
    dtype: torch.dtype
    progress: Progress | None
    edit: Edit | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, C, L): channels and length are the denoiser's attributes, 4 and 128 where it has none."""
        channels = getattr(self.denoiser, "channels", LATENT_CHANNELS)
        return len(self.text_embed), channels, getattr(self.denoiser, "length", LATENT_LENGTH)

    @property
    def statements(self) -> Tensor:
        """(B,) int64: statements of each record."""
        batch, tokens, _ = self.text_embed.shape
        if self.text_mask is None:
            return torch.full((batch,), tokens, device=self.text_embed.device)
        return (self.text_mask != 0).sum(1)

    @property
    def device(self) -> torch.device:
        """Where the denoiser's weights are, or the base vectors where it has none."""
        if isinstance(self.denoiser, nn.Module):
            for weight in self.denoiser.parameters():
                return weight.device
        return self.base_vector.device

    @property
    def weight_dtypes(self) -> set[torch.dtype]:
        """Types of the denoiser's weights."""
        weights = self.denoiser.parameters() if isinstance(self.denoiser, nn.Module) else ()
        return {weight.dtype for weight in weights}

    def validate(self) -> None:
        """Raises ConditionError or SamplerError, naming the argument, what was expected and what came."""
        if self.text_embed.ndim != 3 or 0 in self.text_embed.shape:
            raise ConditionError(
                "text_embed must have shape (records, statements, width), none of them 0, "
                f"but it has {tuple(self.text_embed.shape)}"
            )
        batch, tokens, _ = self.text_embed.shape
        text_width = getattr(self.denoiser, "text_width", None)
        base_width = getattr(self.denoiser, "base_width", None)
        _check("text_embed", self.text_embed, (batch, tokens, text_width))
        _check("patient", self.patient, (batch, PATIENT_WIDTH))
        _check("base_vector", self.base_vector, (batch, base_width))
        if self.text_mask is not None:
            _check("text_mask", self.text_mask, (batch, tokens))
            for record in (self.text_mask == 0).all(dim=1).nonzero().flatten().tolist():
                raise ConditionError(f"text_mask leaves record {record} of the batch no statement")
        check_keys(self.seed, self.first_index, batch)
        check_shape("x_init", self.x_init, self.shape, "(records, channels, length)")
        noise_shape = (self.schedule.steps, *self.shape)
        check_shape("noise", self.noise, noise_shape, "(steps, records, channels, length)")
        if self.edit is not None:
            self._validate_edit(self.edit)

    def _validate_edit(self, edit: Edit) -> None:
        batch = len(self.text_embed)
        if edit.group < 2 or batch % edit.group:
            wanted = f"at least 2 and divide the {batch} records"
            raise ConditionError(f"edit.group must be {wanted}, but it is {edit.group}")
        if not 0 <= edit.threshold <= TIMESTEPS:
            raise ConditionError(f"edit.threshold must be 0..{TIMESTEPS}, but it is {edit.threshold}")
        _check("edit.scales", edit.scales, (batch,))
        groups = self.base_vector.unflatten(0, (-1, edit.group))
        if not torch.equal(groups, groups[:, :1].expand_as(groups)):
            raise ConditionError("base_vector must be the same for a source and its edits")
        places = torch.arange(self.text_embed.shape[1], device=self.text_embed.device)
        if self.text_mask is not None and ((self.text_mask != 0) != (places < self.statements[:, None])).any():
            raise ConditionError("text_mask must hold its ones before its zeros where records are edited")
