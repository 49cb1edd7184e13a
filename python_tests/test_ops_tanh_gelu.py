from __future__ import annotations

import pytest
import torch
from operator_checks import (
    check_compile,
    check_gradcheck,
    check_gradients,
    check_opcheck,
    check_values,
    cpu_kernels,
    every_cpu_level,
    every_dtype,
)

from ecgtwin_fast.ops import OPERATORS, tanh_gelu

GELU = OPERATORS["tanh_gelu"]


def inputs(*shape: int) -> list[torch.Tensor]:
    return [3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)]


@every_dtype
@every_cpu_level
@pytest.mark.parametrize("shape", [(3, 128, 64), (5, 7), (4099,)])
def test_values_and_gradients(dtype, cpu_level, shape):
    with cpu_kernels(cpu_level):
        check_values(GELU, inputs(*shape), dtype)
        check_gradients(GELU, inputs(*shape), dtype)


@every_dtype
@every_cpu_level
def test_extremes(dtype, cpu_level):
    x = torch.tensor([0.0, 1e30, -1e30, float("inf"), float("nan"), 40.0, -40.0, 1e-30] * 3, dtype=dtype)
    x.requires_grad_()
    with cpu_kernels(cpu_level):
        out = tanh_gelu(x)
        (slope,) = torch.autograd.grad(out.sum(), x)
    expected = torch.where(x > 0, x, 0.0)
    assert (slope[[1, 3, 5]] == 1).all() and (slope[[2, 6]] == 0).all() and (slope[[0, 7]] == 0.5).all()
    assert out[4].isnan()
    finite = torch.tensor([0, 1, 2, 5, 6, 7])
    torch.testing.assert_close(out[finite], expected[finite].to(dtype), rtol=1e-6, atol=1e-12)


def test_gradcheck():
    check_gradcheck(GELU, inputs(3, 5))


def test_opcheck():
    check_opcheck(GELU, inputs(2, 9))


def test_traces_whole():
    check_compile(GELU, tanh_gelu, inputs(2, 9))


def test_any_strides_give_the_same():
    x = inputs(6, 10)[0].float()
    assert torch.equal(tanh_gelu(x.t()), tanh_gelu(x).t())


def test_nothing_to_do():
    assert tanh_gelu(torch.zeros(0, 4)).shape == (0, 4)


def test_bad_dtype():
    with pytest.raises(RuntimeError, match="tanh_gelu: x must be float32, bfloat16 or float64, but it is Half"):
        tanh_gelu(torch.zeros(3).half())
