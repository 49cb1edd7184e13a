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

from ecgtwin_fast.ops import OPERATORS, gated_residual, modulated_layer_norm

NORM, GATED = OPERATORS["modulated_layer_norm"], OPERATORS["gated_residual"]
PUBLIC = {"modulated_layer_norm": modulated_layer_norm, "gated_residual": gated_residual}
both = pytest.mark.parametrize("operator", [NORM, GATED], ids=lambda operator: operator.name)


def inputs(operator, batch: int, length: int, width: int) -> list:
    """float64 inputs of which the modulations are views of chunk(6), and x is off centre."""
    generator = torch.Generator().manual_seed(batch * 10000 + length * 100 + width)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, y = normal(batch, length, width) + 0.5, normal(batch, length, width)
    shift, scale, gate = (0.5 * normal(batch, 6 * width)).chunk(6, dim=-1)[:3]
    return [x, shift, scale] if operator is NORM else [x, gate, y, shift, scale]


@both
@every_dtype
@every_cpu_level
@pytest.mark.parametrize("shape", [(2, 128, 256), (1, 1, 1), (3, 17, 37), (1, 33, 130), (5, 2, 515)])
def test_values_and_gradients(operator, dtype, cpu_level, shape):
    given = inputs(operator, *shape)
    if shape[2] == 1:
        # A single element is its own mean: the norm is the shift, and no direction is left to compare.
        actual = modulated_layer_norm(given[0], *given[-2:])
        torch.testing.assert_close(actual, given[-2].unsqueeze(1))
        return
    with cpu_kernels(cpu_level):
        check_values(operator, given, dtype)
        check_gradients(operator, given, dtype)


@both
def test_gradcheck(operator):
    check_gradcheck(operator, inputs(operator, 2, 19, 5))


@both
def test_opcheck(operator):
    check_opcheck(operator, inputs(operator, 2, 5, 12))


@both
def test_traces_whole(operator):
    check_compile(operator, PUBLIC[operator.name], inputs(operator, 2, 5, 12))


@both
def test_inductor_trains(operator):
    """Forward and backward through the default compiler, with another batch size at the second call."""
    torch._dynamo.reset()
    compiled = torch.compile(PUBLIC[operator.name], fullgraph=True)
    for batch in (2, 3):
        given = [value.float().requires_grad_() for value in inputs(operator, batch, 7, 24)]
        for function in (compiled, PUBLIC[operator.name]):
            outputs = function(*given)
            loss = sum(out.square().sum() for out in (outputs if isinstance(outputs, tuple) else (outputs,)))
            grads = torch.autograd.grad(loss, given)
            if function is compiled:
                expected = grads
        for actual, wanted in zip(grads, expected, strict=True):
            torch.testing.assert_close(actual, wanted)


@both
def test_any_strides_give_the_same(operator):
    given = [value.float() for value in inputs(operator, 3, 10, 16)]
    strided = [value.mT.contiguous().mT for value in given]
    assert not strided[0].is_contiguous()
    expected, actual = compiled_operator(operator)(*given), compiled_operator(operator)(*strided)
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


@both
@pytest.mark.parametrize("shape", [(0, 4, 8), (2, 0, 8)])
def test_nothing_to_do(operator, shape):
    given = [value.float().requires_grad_() for value in inputs(operator, *shape)]
    outputs = compiled_operator(operator)(*given)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    grads = torch.autograd.grad([out.sum() for out in outputs], given)
    assert [out.shape for out in outputs] == [given[0].shape] * len(outputs)
    assert all(not grad.any() for grad in grads)


def test_a_record_does_not_depend_on_its_batch():
    x, shift, scale = (value.float() for value in inputs(NORM, 5, 20, 48))
    assert torch.equal(
        modulated_layer_norm(x, shift, scale)[3:4], modulated_layer_norm(x[3:4], shift[3:4], scale[3:4])
    )


def test_threads_give_the_same_bits():
    given = [value.float() for value in inputs(GATED, 8, 100, 256)]
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(gated_residual(*given))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_double_backward_is_a_clear_error():
    given = [value.float().requires_grad_() for value in inputs(NORM, 2, 3, 8)]
    (grad,) = torch.autograd.grad(modulated_layer_norm(*given).square().sum(), given[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="modulated_layer_norm_backward has no gradient"):
        grad.sum().backward()


X, ROW = torch.zeros(2, 3, 8), torch.zeros(2, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], ROW, ROW), r"x must be \(batch, length, width\), but its shape is \[3, 8\]"),
        (
            (X, ROW[:1], ROW),
            r"shift must have shape \[2, 8\] to fit x of shape \[2, 3, 8\], but it has \[1, 8\]",
        ),
        ((X, ROW, ROW[:, :4]), r"scale must have shape \[2, 8\].*but it has \[2, 4\]"),
        ((X, ROW.double(), ROW), "shift must be Float where x is Float, but it is Double"),
        ((X.half(), ROW.half(), ROW.half()), "x must be float32, bfloat16 or float64, but it is Half"),
        ((X[..., :0], ROW[..., :0], ROW[..., :0]), "x must have a width of at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(RuntimeError, match=f"modulated_layer_norm: {message}"):
        modulated_layer_norm(*arguments)


@pytest.mark.parametrize("position", [1, 2])
def test_bad_residual(position):
    arguments = [X, ROW, X, ROW, ROW]
    arguments[position] = arguments[position][:, :1]
    with pytest.raises(RuntimeError, match=f"gated_residual: {['x', 'gate', 'y'][position]} must have shape"):
        gated_residual(*arguments)
