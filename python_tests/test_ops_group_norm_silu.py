from __future__ import annotations

import pytest
import torch
from operator_checks import (
    check_compile,
    check_gradcheck,
    check_gradients,
    check_opcheck,
    check_values,
    compiled_operator,
    cpu_kernels,
    every_cpu_level,
    every_dtype,
)

from ecgtwin_fast.models.vae import Residual
from ecgtwin_fast.ops import OPERATORS, group_norm_silu

NORM = OPERATORS["group_norm_silu"]
# batch, channels, length, groups
SHAPES = [(2, 128, 256, 32), (1, 12, 37, 4), (3, 6, 515, 3), (2, 5, 3, 1), (1, 8, 64, 8)]


def inputs(batch: int, channels: int, length: int, groups: int) -> list:
    """float64 inputs, x off centre."""
    generator = torch.Generator().manual_seed(channels * 1000 + length)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [normal(batch, channels, length) + 0.5, 1 + 0.5 * normal(channels), normal(channels), groups]


@every_dtype
@every_cpu_level
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(dtype, cpu_level, shape):
    with cpu_kernels(cpu_level):
        check_values(NORM, inputs(*shape), dtype)
        check_gradients(NORM, inputs(*shape), dtype)


def test_is_what_stands_before_the_autoencoders_convolutions():
    block = Residual(16, 8, 4)
    x = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(0))
    norm = block.groupnorm_1
    with torch.no_grad():
        expected = torch.nn.functional.silu(norm(x))
        torch.testing.assert_close(group_norm_silu(x, norm.weight, norm.bias, 4, norm.eps), expected)


@every_cpu_level
def test_large_elements_do_not_overflow(cpu_level):
    x, weight, bias, groups = inputs(1, 8, 32, 2)
    with cpu_kernels(cpu_level):
        out = group_norm_silu(x.float(), 1000 * weight.float(), bias.float(), groups)
    torch.testing.assert_close(out, NORM.reference(x, 1000 * weight, bias, groups).float(), rtol=1e-4, atol=1e-3)


def test_gradcheck():
    check_gradcheck(NORM, inputs(2, 6, 5, 3))


def test_opcheck():
    check_opcheck(NORM, inputs(2, 6, 5, 3))


def test_traces_whole():
    check_compile(NORM, group_norm_silu, inputs(2, 6, 5, 3))


def test_any_strides_give_the_same():
    x, weight, bias, groups = (v.float() if torch.is_tensor(v) else v for v in inputs(3, 8, 10, 2))
    strided = x.repeat_interleave(2, -1)[..., ::2]
    assert not strided.is_contiguous()
    spread = [value.repeat_interleave(2)[::2] for value in (weight, bias)]
    made = group_norm_silu(strided, *spread, groups)
    assert made.is_contiguous() and torch.equal(made, group_norm_silu(x, weight, bias, groups))


def test_channels_that_lie_side_by_side_stay_so():
    x, weight, bias, groups = (v.float() if torch.is_tensor(v) else v for v in inputs(3, 8, 10, 2))
    last = x.mT.contiguous().mT
    made = group_norm_silu(last, weight, bias, groups)
    assert made.stride() == last.stride() and torch.equal(made, group_norm_silu(x, weight, bias, groups))
    given = [value.double() for value in (last, weight, bias)]
    check_opcheck(NORM, [*given, groups])
    check_gradcheck(NORM, [*given, groups])


def test_a_record_is_the_same_in_any_batch():
    x, weight, bias, groups = (v.bfloat16() if torch.is_tensor(v) else v for v in inputs(5, 8, 64, 2))
    whole = group_norm_silu(x, weight, bias, groups)
    assert torch.equal(whole[3:4], group_norm_silu(x[3:4], weight, bias, groups))


@pytest.mark.parametrize("shape", [(0, 4, 8, 2), (2, 4, 0, 2)])
def test_nothing_to_do(shape):
    *given, groups = (v.float().requires_grad_() if torch.is_tensor(v) else v for v in inputs(*shape))
    (out,) = compiled_operator(NORM)(*given, groups)
    grads = torch.autograd.grad(out.sum(), given)
    assert out.shape == given[0].shape
    assert [g.shape for g in grads] == [value.shape for value in given]
    assert not any(g.any() for g in grads)


X, ROW = torch.zeros(2, 6, 8), torch.zeros(6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], ROW, ROW, 2), r"x must be \(batch, channels, length\), but its shape is \[6, 8\]"),
        ((X, ROW, ROW, 4), "the 6 channels of x must be a positive multiple of groups, which is 4"),
        ((X, ROW, ROW, 0), "the 6 channels of x must be a positive multiple of groups, which is 0"),
        ((X, ROW[:5], ROW, 2), r"weight must have shape \[6\].*but it has \[5\]"),
        ((X, ROW, ROW.double(), 2), "bias must be Float where x is Float, but it is Double"),
        ((X.half(), ROW.half(), ROW.half(), 2), "x must be float32, bfloat16 or float64, but it is Half"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(RuntimeError, match=f"group_norm_silu: {message}"):
        group_norm_silu(*arguments)
