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

from ecgtwin_fast.models.ecgtwin import rotary
from ecgtwin_fast.ops import OPERATORS, rope_embed

ROPE = OPERATORS["rope_embed"]


def inputs(batch: int, channels: int, length: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(batch * 10000 + length * 100 + width)
    shapes = [(batch, channels, length), (width, channels), (width,)]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


@every_dtype
@every_cpu_level
@pytest.mark.parametrize("shape", [(2, 4, 128, 256), (3, 4, 37, 30), (1, 7, 33, 258), (5, 3, 5, 18)])
def test_values_and_gradients(dtype, cpu_level, shape):
    with cpu_kernels(cpu_level):
        check_values(ROPE, inputs(*shape), dtype)
        check_gradients(ROPE, inputs(*shape), dtype)


def test_is_the_models_first_layer():
    x, weight, bias = (value.float() for value in inputs(2, 4, 128, 256))
    expected = rotary(torch.nn.functional.linear(x.transpose(1, 2), weight, bias))
    difference = (rope_embed(x, weight, bias) - expected).norm() / expected.norm()
    assert difference < 3e-6


def test_gradcheck():
    check_gradcheck(ROPE, inputs(2, 3, 35, 6))


def test_opcheck():
    check_opcheck(ROPE, inputs(2, 4, 9, 12))


def test_traces_whole():
    check_compile(ROPE, rope_embed, inputs(2, 4, 9, 12))


def test_any_strides_give_the_same():
    x, weight, bias = (value.float() for value in inputs(3, 4, 10, 16))
    strided = x.mT.contiguous().mT, weight.t().contiguous().t(), bias.repeat_interleave(2)[::2]
    assert not any(value.is_contiguous() for value in strided)
    assert torch.equal(rope_embed(*strided), rope_embed(x, weight, bias))


def test_many_lengths():
    """More tables of angles than are kept, at the least width."""
    for length in [*range(1, 40), 1, 39]:
        given = [value.float() for value in inputs(1, 4, length, 2)]
        torch.testing.assert_close(rope_embed(*given), ROPE.reference(*given), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(0, 4, 8, 6), (2, 4, 0, 6), (2, 0, 5, 6)])
def test_nothing_to_do(shape):
    given = [value.float().requires_grad_() for value in inputs(*shape)]
    out = compiled_operator(ROPE)(*given)
    torch.testing.assert_close(out, ROPE.reference(*given))
    actual, expected = (
        torch.autograd.grad(f(*given).sum(), given) for f in (compiled_operator(ROPE), ROPE.reference)
    )
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)


X, WEIGHT, BIAS = torch.zeros(2, 4, 8), torch.zeros(6, 4), torch.zeros(6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], WEIGHT, BIAS), r"x must be \(batch, channels, length\), but its shape is \[4, 8\]"),
        ((X, BIAS, BIAS), r"weight must be \(width, channels\), but its shape is \[6\]"),
        (
            (X, WEIGHT[:5], BIAS[:5]),
            "the width, weight.shape\\[0\\], must be even and at least 2, but it is 5",
        ),
        ((X, WEIGHT[:, :3], BIAS), r"weight must have shape \[6, 4\].*but it has \[6, 3\]"),
        ((X, WEIGHT, BIAS[:4]), r"bias must have shape \[6\].*but it has \[4\]"),
        ((X, WEIGHT.bfloat16(), BIAS), "weight must be Float where x is Float, but it is BFloat16"),
        ((X.half(), WEIGHT.half(), BIAS.half()), "x must be float32, bfloat16 or float64, but it is Half"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(RuntimeError, match=f"rope_embed: {message}"):
        rope_embed(*arguments)
