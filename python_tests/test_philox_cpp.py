"""The noise of the compiled kernels against `ecgtwin_fast.philox`, to the bit."""

from __future__ import annotations

import pytest
import torch
from operator_checks import cpu_kernels, every_cpu_level

from ecgtwin_fast import philox
from ecgtwin_fast.ops import sampler_step

NOISE_ALONE = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1.0])


def drawn(seed: int, first: int, step: int, shape: tuple[int, int]) -> torch.Tensor:
    zero = torch.zeros(shape)
    return sampler_step(zero, zero, None, None, NOISE_ALONE, seed, first, step)[0]


@every_cpu_level
@pytest.mark.parametrize("seed", [0, 7, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize(("first", "step"), [(0, 0), (5, 999), (2**32 - 2, 1), (2**62, philox.INITIAL_STEP)])
def test_bits(cpu_level, seed, first, step):
    with cpu_kernels(cpu_level):
        actual = drawn(seed, first, step, (4, 512))
    assert torch.equal(actual, philox.normal(seed, range(first, first + 4), step, 512))


@every_cpu_level
def test_bits_of_many_draws(cpu_level):
    """Enough draws to meet every branch: each quadrant, and both sides of the logarithm's split."""
    with cpu_kernels(cpu_level):
        actual = drawn(3, 0, 0, (16, 65536))
    assert torch.equal(actual, philox.normal(3, range(16), 0, 65536))
    assert abs(float(actual.mean())) < 4e-3 and abs(float(actual.std()) - 1) < 4e-3


@pytest.mark.parametrize("elements", [1, 3, 63, 65, 130])
def test_odd_sizes_are_beginnings(elements):
    assert torch.equal(drawn(1, 2, 3, (2, elements)), drawn(1, 2, 3, (2, 512))[:, :elements])
