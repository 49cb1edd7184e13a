"""The published scripts' sampling loop, fast: diffusers' scheduler interface, and the whole loop in one call.

    from ecgtwin_fast.scheduler import DDPMScheduler  # instead of: from diffusers import DDPMScheduler
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from . import ops, samplers
from .samplers import BETA_END, BETA_START, TRAIN_STEPS, SamplerError

SETTINGS = {
    "num_train_timesteps": TRAIN_STEPS,
    "beta_start": BETA_START,
    "beta_end": BETA_END,
    "beta_schedule": "linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "prediction_type": "epsilon",
    "thresholding": False,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}
"""diffusers' settings that the published system fixes."""

UNUSED = ("dynamic_thresholding_ratio", "sample_max_value")


class Config(dict):
    """Entries of a dictionary, read as attributes too."""

    def __getattr__(self, name: str):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r}; known: {', '.join(self)}") from None


class StepOutput(Config):
    """prev_sample: the next x. pred_original_sample: the predicted clean latent, clipped. Each like the sample; also
    read by its place."""

    def __getitem__(self, key: str | int):
        return tuple(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class DDPMScheduler:
    """diffusers' `DDPMScheduler` with the published settings, its steps by `ops.sampler_step`.

    Ancestral sampling (Ho et al. 2020) as ECGTwin (arXiv 2508.02720) and DiffuSETS (arXiv 2501.05932) do: beta linear
    from 0.00085 to 0.0120, which are defaults here and not in diffusers; epsilon prediction, fixed-small variance,
    leading spacing. Draws are PyTorch's, from the given or the global generator, one a step but the last, as in
    diffusers: the same seed gives the same noise.

    Args:
        clip_sample, clip_sample_range: whether, and to what range, predicted clean latents are clipped.
        settings: diffusers' others, of the published values alone.

    Raises:
        SamplerError: a setting that is unknown or has another value.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(
        self,
        num_train_timesteps: int = TRAIN_STEPS,
        beta_start: float = BETA_START,
        beta_end: float = BETA_END,
        beta_schedule: str = "linear",
        *,
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        **settings,
    ):
        given = {
            "num_train_timesteps": num_train_timesteps,
            "beta_start": beta_start,
            "beta_end": beta_end,
            "beta_schedule": beta_schedule,
            **{name: value for name, value in settings.items() if name not in UNUSED},
        }
        for name, value in given.items():
            if name not in SETTINGS:
                raise SamplerError(f"unknown setting {name}; known: {', '.join(SETTINGS)}")
            if value != SETTINGS[name]:
                raise SamplerError(f"{name} must be {SETTINGS[name]!r}, as published, but it is {value!r}")
        self.config = Config(SETTINGS, clip_sample=clip_sample, clip_sample_range=clip_sample_range)
        self.alphas_cumprod = samplers.alphas_cumprod()
        self.num_inference_steps: int | None = None
        self._plan(TRAIN_STEPS, None)

    @classmethod
    def from_config(cls, config: Mapping, **changes) -> DDPMScheduler:
        """Of a scheduler's `config`, ours or diffusers', or a dictionary; `changes` replace its entries."""
        return cls(**{name: value for name, value in {**config, **changes}.items() if not name.startswith("_")})

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Take so many steps, 1..1000; `timesteps` (steps,) int64, in the order performed, go to the device."""
        self._plan(num_inference_steps, device)
        self.num_inference_steps = num_inference_steps

    def _plan(self, steps: int, device: torch.device | str | None) -> None:
        clip = self.config.clip_sample_range if self.config.clip_sample else 0.0
        self.schedule = samplers.ddpm_schedule(steps, clip)
        self.timesteps = self.schedule.timesteps.to(device)
        self._rows = {timestep: row for row, timestep in enumerate(self.schedule.timesteps.tolist())}
        self._coefficients: dict[torch.device, Tensor] = {}

    def scale_model_input(self, sample: Tensor, timestep: int | None = None) -> Tensor:
        """The sample as it is."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> StepOutput | tuple[Tensor, Tensor]:
        """One step back from `timestep`, which must be one of `timesteps`.

        Args:
            model_output: the predicted noise, like sample. sample: (B, ...) of any float type.
            generator: of the noise; a list has one a record. return_dict: False gives a plain tuple.

        Raises:
            SamplerError: a timestep that is not performed.
        """
        timestep = int(timestep)
        if timestep not in self._rows:
            raise SamplerError(f"timestep {timestep} is none of the {len(self._rows)} that set_timesteps has set")
        row = self._rows[timestep]
        device = sample.device
        if device not in self._coefficients:
            self._coefficients[device] = self.schedule.coefficients.to(device)
        coefficients = self._coefficients[device][row]
        noise = None if timestep == 0 else _draw(model_output, generator)
        precision = torch.float32 if sample.dtype == torch.float16 else sample.dtype
        x, epsilon = sample.to(precision), model_output.to(precision)
        noise = None if noise is None else noise.to(precision)
        if torch.is_grad_enabled() and (x.requires_grad or epsilon.requires_grad):
            made = samplers.step(x, epsilon, None, noise, coefficients)
        else:
            made = ops.sampler_step(x, epsilon, None, noise, coefficients, 0, 0, row)
        after, clean = (value.to(sample.dtype) for value in made)
        return StepOutput(prev_sample=after, pred_original_sample=clean) if return_dict else (after, clean)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Latents (B, ...) with the noise of timesteps (B,): sqrt(share) x + sqrt(1 - share) noise."""
        shares = self.alphas_cumprod.to(original_samples)
        share = shares[timesteps.to(shares.device)].view(-1, *(1,) * (original_samples.dim() - 1))
        return share.sqrt() * original_samples + (1 - share).sqrt() * noise

    def __len__(self) -> int:
        return TRAIN_STEPS


def _draw(like: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    """Standard normal numbers, in diffusers' order: on the generator's device, record by record for a list."""
    if isinstance(generator, (list, tuple)):
        return torch.cat([_draw(like[i : i + 1], one) for i, one in enumerate(generator)])
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def fast_ddpm_generation(
    diffused_model: DDPMScheduler,
    noise_predictor: nn.Module,
    batch_size: int,
    device: torch.device | str,
    text_embed: Tensor,
    text_embed_mask: Tensor | None,
    pat_info: Tensor,
    base_vector: Tensor,
    progress_bar: bool = True,
    *,
    seed: int | None = None,
    backend: str = "auto",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The published `ddpm_generation`, its arguments and its result, the whole loop in one call of the engine.

    Without `seed` all noise is drawn from PyTorch's global generators in the published order, so that the same
    `torch.manual_seed` gives the published latents; it is drawn beforehand, 2 KiB a record and step.

    Args:
        diffused_model: the scheduler, ours or diffusers' with the published settings, its timesteps set.
        noise_predictor: the denoiser, the user's own or ours; called as a function where it is not recognised.
        batch_size: B. device: where the latents go.
        text_embed: (B, T, width). text_embed_mask: (B, T) or None. pat_info: (B, 3). base_vector: (B, width).
            One record's conditions stand for all.
        progress_bar: show one.
        seed: draws keyed by (seed, record, step, element) instead: a record's do not depend on the batch.
        backend, dtype: as in `generate_latents`.

    Returns:
        Latents (B, channels, length), float32: (B, 4, 128) as published.

    Raises:
        SamplerError: settings or timesteps that are not the published ones.
        ConditionError, BackendError: as `generate_latents`.
    """
    from tqdm import tqdm

    from .drop_in.recognition import network_of
    from .engine.backends import choose
    from .engine.request import Request

    plan = _schedule_of(diffused_model)
    network = network_of(noise_predictor)
    conditions = {"text_embed": text_embed, "text_mask": text_embed_mask}
    conditions |= {"patient": pat_info, "base_vector": base_vector}
    for name, value in conditions.items():
        if value is not None and len(value) == 1:
            conditions[name] = value.expand(batch_size, *value.shape[1:])
    shape = (batch_size, getattr(network, "channels", 4), getattr(network, "length", 128))
    x_init = noise = None
    if seed is None:
        x_init = torch.randn(shape)
        noise = torch.zeros(plan.steps, *shape, device=device)
        for row in noise[:-1]:
            torch.randn(shape, out=row)
    with tqdm(total=plan.steps, disable=not progress_bar) as bar:
        request = Request(
            network,
            **conditions,
            schedule=plan,
            seed=seed or 0,
            first_index=0,
            x_init=x_init,
            noise=noise,
            dtype=dtype,
            progress=lambda done, _: bar.update(done - bar.n),
        )
        request.validate()
        return choose(backend, request).run(request).to(device)


def _schedule_of(diffused_model: object) -> samplers.Schedule:
    ours = diffused_model
    if not isinstance(ours, DDPMScheduler):
        ours = DDPMScheduler.from_config(diffused_model.config)
        ours.set_timesteps(len(diffused_model.timesteps))
        if not torch.equal(ours.timesteps, diffused_model.timesteps.cpu()):
            raise SamplerError("timesteps must be evenly spaced, from 0, as set_timesteps(steps) sets them")
    return ours.schedule
