"""The DDPM sampler against the published system: single steps and a whole trajectory."""

from __future__ import annotations

import pytest
import torch
from golden_data import TOLERANCE, golden, inp, relative_error
from golden_networks import ddpm25, load

from ecgtwin_fast import samplers


@pytest.mark.parametrize("timestep", [999, 500, 120, 1, 0])
def test_golden_ddpm_step(timestep):
    shape = (3, 4, 128)
    plan = samplers.ddpm_schedule(1000)
    row = plan.coefficients[plan.timesteps.tolist().index(timestep)]
    noise = inp(f"sn{timestep}", shape) if timestep else None
    x, _ = samplers.step(inp(f"xt{timestep}", shape), inp("eps", shape), None, noise, row)
    assert relative_error(x, golden(f"step{timestep}")) <= TOLERANCE


def test_golden_ddpm_trajectory():
    made = ddpm25(load("dit"), "reference", torch.float32)
    assert relative_error(made, golden("ddpm25")) <= TOLERANCE
