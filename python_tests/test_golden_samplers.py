"""The DDPM sampler against the published system: single steps and a whole trajectory."""

from __future__ import annotations

import pytest
import torch
from golden_data import TOLERANCE, golden, inp, relative_error, weights

from ecgtwin_fast import models, samplers
from ecgtwin_fast.engine.latents import generate_latents


@pytest.mark.parametrize("timestep", [999, 500, 120, 1, 0])
def test_golden_ddpm_step(timestep):
    shape = (3, 4, 128)
    plan = samplers.ddpm_schedule(1000)
    row = plan.coefficients[plan.timesteps.tolist().index(timestep)]
    noise = inp(f"sn{timestep}", shape) if timestep else None
    x, _ = samplers.step(inp(f"xt{timestep}", shape), inp("eps", shape), None, noise, row)
    assert relative_error(x, golden(f"step{timestep}")) <= TOLERANCE


def test_golden_ddpm_trajectory():
    denoiser = models.create("dit")
    denoiser.load_state_dict(weights("dit"))
    result = generate_latents(
        denoiser.eval(),
        inp("te5", (3, 5, 768), normalised=True),
        None,
        inp("p", (3, 3)),
        inp("bv", (3, 256)),
        sampler="ddpm",
        steps=25,
        x_init=inp("x0", (3, 4, 128)),
        noise=torch.stack([inp(f"n{i}", (3, 4, 128)) for i in range(25)]),
        backend="reference",
    )
    assert result.backend == "reference"
    assert relative_error(result.latents, golden("ddpm25")) <= TOLERANCE
