"""The operators on a GPU: values, gradients, odd shapes, the same bits in every run. Skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import test_ops_group_norm_silu
import test_ops_modulated_norm
import test_ops_multihead_attention
import test_ops_rope_embed
import test_ops_sampler_step
import test_ops_tanh_gelu
import test_training_forward
import torch
from operator_checks import (
    as_tuple,
    check_gradients,
    check_values,
    compiled_operator,
    converted,
    every_dtype,
    gradients,
    raw_operator,
)

from ecgtwin_fast import samplers
from ecgtwin_fast.engine.training import training_forward
from ecgtwin_fast.ops import OPERATORS
from ecgtwin_fast.ops.operator import Operator

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(
    OPERATORS["modulated_layer_norm"].why_not(DEVICE) is not None,
    reason=f"no kernels on a GPU: {OPERATORS['modulated_layer_norm'].why_not(DEVICE)}",
)

NORM, GATED = OPERATORS["modulated_layer_norm"], OPERATORS["gated_residual"]
ATTENTION = OPERATORS["multihead_attention"]
LONG = [(2, 1024, 1024, 2, 16), (1, 1000, 77, 1, 128), (3, 127, 1023, 2, 64), (1, 1, 1, 1, 32)]
CASES: dict[str, tuple[Operator, list]] = {}
for shape in [(2, 128, 256), (3, 17, 37), (1, 33, 130), (5, 2, 515)]:
    CASES |= {f"{op.name} {shape}": (op, test_ops_modulated_norm.inputs(op, *shape)) for op in (NORM, GATED)}
for shape in [*test_ops_multihead_attention.SHAPES, *LONG]:
    CASES[f"attention {shape}"] = (ATTENTION, test_ops_multihead_attention.inputs(*shape))
for shape in [(3, 128, 64), (5, 7), (4099,)]:
    CASES[f"tanh_gelu {shape}"] = (OPERATORS["tanh_gelu"], test_ops_tanh_gelu.inputs(*shape))
for shape in [*test_ops_group_norm_silu.SHAPES, (2, 512, 1024, 32)]:
    CASES[f"group_norm_silu {shape}"] = (OPERATORS["group_norm_silu"], test_ops_group_norm_silu.inputs(*shape))
for shape in [(2, 4, 128, 256), (3, 4, 37, 30), (1, 7, 33, 258), (5, 3, 5, 18)]:
    CASES[f"rope_embed {shape}"] = (OPERATORS["rope_embed"], test_ops_rope_embed.inputs(*shape))
for form in test_ops_sampler_step.FORMS:
    CASES[f"sampler_step {form}"] = (OPERATORS["sampler_step"], test_ops_sampler_step.inputs(form, (2, 3, 37)))
every_case = pytest.mark.parametrize("case", CASES)


def moved(values, device: str = DEVICE) -> list:
    return [value.to(device) if isinstance(value, torch.Tensor) else value for value in values]


def on_gpu(operator: Operator) -> Callable:
    """The operator's kernel on the GPU, for tensors on the CPU: gradients flow through the copies."""
    return lambda *inputs: tuple(moved(as_tuple(compiled_operator(operator)(*moved(inputs))), "cpu"))


def too_wide(operator: Operator, inputs: list, dtype: torch.dtype) -> bool:
    return operator is ATTENTION and dtype == torch.float64 and inputs[0].shape[2] // inputs[4] > 64


@every_dtype
@every_case
def test_values_and_gradients(case, dtype):
    operator, inputs = CASES[case]
    if too_wide(operator, inputs, dtype):
        with pytest.raises(RuntimeError, match="on CUDA a head of Double has at most 64 channels, but here it has 128"):
            on_gpu(operator)(*inputs)
        return
    check_values(operator, inputs, dtype, on_gpu(operator))
    if operator.differentiable and inputs[0].shape[1:] != (1, 32):
        check_gradients(operator, inputs, dtype, on_gpu(operator))


@every_case
def test_two_runs_give_the_same_bits(case):
    operator, inputs = CASES[case]
    for dtype in (torch.float32, torch.bfloat16):
        given = converted(inputs, dtype)
        first, second = (on_gpu(operator)(*given) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        if operator.differentiable:
            first, second = (gradients(on_gpu(operator), inputs, dtype) for _ in range(2))
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@every_dtype
def test_bias_of_keys(dtype):
    query, key, value, bias, heads = test_ops_multihead_attention.inputs(3, 40, 70, 2, 16, bias=True)
    bias[0, 3:], bias[1, :66] = float("-inf"), float("-inf")
    given = [x.to(dtype).requires_grad_() for x in (query, key, value)]
    exact = [x.detach().double().requires_grad_() for x in given]
    (out,), expected = on_gpu(ATTENTION)(*given, bias, heads), ATTENTION.reference(*exact, bias, heads)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=tolerance)
    grads = torch.autograd.grad(out.square().sum(), given)
    for actual, wanted in zip(grads, torch.autograd.grad(expected.square().sum(), exact), strict=True):
        torch.testing.assert_close(actual.double(), wanted, rtol=tolerance, atol=4 * tolerance)
    assert not grads[1][0, 3:].any() and not grads[2][1, :66].any()


def test_views_of_a_packed_product_are_read_in_place():
    packed = torch.randn(3, 40, 96, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    attend = compiled_operator(ATTENTION)
    copies = [view.contiguous() for view in packed.chunk(3, dim=-1)]
    (expected,) = attend(*copies, None, 4)
    assert torch.equal(attend(*packed.chunk(3, dim=-1), None, 4)[0], expected)
    shifted = torch.cat([packed.new_zeros(3, 40, 1), packed], dim=-1)[..., 1:]
    assert torch.equal(attend(*shifted.chunk(3, dim=-1), None, 4)[0], expected)


def test_a_record_is_the_same_in_any_batch():
    query, key, value, _, heads = converted(test_ops_multihead_attention.inputs(5, 64, 64, 2, 32), torch.bfloat16)
    (whole,) = on_gpu(ATTENTION)(query, key, value, None, heads)
    (alone,) = on_gpu(ATTENTION)(query[3:4], key[3:4], value[3:4], None, heads)
    assert torch.equal(whole[3:4], alone)


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name):
    inputs = next(given for operator, given in CASES.values() if operator.name == name)
    given = moved(converted(inputs, torch.float32))
    if OPERATORS[name].differentiable:
        given = [value.requires_grad_() if isinstance(value, torch.Tensor) else value for value in given]
    torch.library.opcheck(raw_operator(OPERATORS[name]), given)


@every_dtype
@pytest.mark.parametrize("shape", [*test_ops_group_norm_silu.SHAPES, (1, 300, 7, 2), (2, 512, 1024, 32)])
def test_group_norm_silu_of_channels_that_lie_side_by_side(shape, dtype):
    operator = OPERATORS["group_norm_silu"]

    def function(x, *others):
        (out,) = on_gpu(operator)(x.mT.contiguous().mT, *others)
        assert out.mT.is_contiguous()
        return out.contiguous()

    check_values(operator, test_ops_group_norm_silu.inputs(*shape), dtype, function)


@pytest.mark.parametrize("given_noise", [False, True])
@pytest.mark.parametrize("sampler", samplers.SCHEDULES)
def test_sampler_step_in_place(sampler, given_noise):
    test_ops_sampler_step.check_in_place(sampler, given_noise, DEVICE)


def test_another_stream():
    """A kernel follows what its stream has in hand."""
    operator, inputs = CASES["tanh_gelu (3, 128, 64)"]
    (x,) = moved(converted(inputs, torch.float32))
    (expected,) = as_tuple(compiled_operator(operator)(x))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = x * 0
        for _ in range(50):
            late = late + x / 50
        (out,) = as_tuple(compiled_operator(operator)(late))
    stream.synchronize()
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_tensors_of_two_devices_are_an_error():
    x = torch.zeros(2, 4, 8, device=DEVICE)
    with pytest.raises(RuntimeError, match="key must be on cuda:0 as x is, but it is on cpu"):
        raw_operator(ATTENTION)(x, x.cpu(), x, None, 2)


@pytest.mark.parametrize("name", test_training_forward.CASES)
def test_networks_train_by_operators(name):
    network, given = test_training_forward.case(name)
    found = []
    for device, backend in (("cpu", "reference"), (DEVICE, "operators")):
        there = [{k: v.to(device) for k, v in x.items()} if isinstance(x, dict) else x for x in moved(given, device)]
        network.zero_grad()
        out = training_forward(network.to(device), backend)(*there)
        (out * test_training_forward.draw(*out.shape, seed=9).to(device)).sum().backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
        found.append((out.detach().cpu(), torch.cat([grad.flatten() for grad in grads]).cpu()))
    for expected, actual in zip(*found, strict=True):
        assert test_training_forward.distance(actual, expected) < 2e-5
