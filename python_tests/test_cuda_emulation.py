"""The CUDA kernels' answers where no GPU is: run on the CPU by csrc/cuda/emulation.h, against the references."""

from __future__ import annotations

import ctypes
import functools
import math
import sys

import emulated_operators
import pytest
import test_ops_group_norm_silu
import test_ops_modulated_norm
import test_ops_multihead_attention
import test_ops_rope_embed
import test_ops_sampler_step
import test_ops_tanh_gelu
import torch
from cuda_emulation import ORDERS, library
from operator_checks import check_gradients, check_values, every_dtype

from ecgtwin_fast.ops import OPERATORS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fibers of the emulation are tried on Linux alone")
PROBES = [
    "neighbours", "missing barrier", "unwritten memory", "barrier for some", "different operations", "beyond the end",
    "warp functions",
]  # fmt: skip


def probe(name: str, order: str = "ascending", first: float = 0.0) -> torch.Tensor:
    """What a kernel of emulation_probe.cu makes of the numbers first .. first + 191, by two blocks of 96 threads."""
    numbers = torch.arange(192, dtype=torch.float32) + first
    library().set_order(ORDERS.index(order), 3)
    status = library().run_probe(PROBES.index(name), ctypes.cast(numbers.data_ptr(), ctypes.POINTER(ctypes.c_float)))
    if status != 0:
        raise RuntimeError(library().last_error().decode())
    return numbers


def test_orders_show_a_missing_barrier():
    right = (torch.arange(1, 97) % 96).float().repeat(2)
    assert all(torch.equal(probe("neighbours", order), right) for order in ORDERS)
    wrong = [probe("missing barrier", order) for order in ORDERS]
    assert wrong[0].isnan().any() and not torch.equal(wrong[0].nan_to_num(), wrong[1].nan_to_num())


def test_shared_memory_begins_as_nan():
    assert probe("unwritten memory")[:96].isnan().all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("barrier for some", "threads of a block wait at different barriers, or for one that has ended"),
        ("different operations", "lanes of a warp do different operations at once"),
        ("beyond the end", "a kernel wrote beyond its shared memory"),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_what_hardware_leaves_undefined_is_an_error(name, message, order):
    with pytest.raises(RuntimeError, match=message):
        probe(name, order)


def test_warp_functions():
    numbers = torch.arange(96, dtype=torch.float32)
    found = probe("warp functions")
    once = numbers // 32 * 32 + 1000 * (numbers.int() ^ 5)
    twice = once[(numbers.int() // 32 * 32).long()] + 1000 * once[(numbers.int() ^ 5).long()]
    assert torch.equal(found[:96], twice)
    assert found[96] == 96 + numbers.sum() + once.sum()


NORM, GATED = OPERATORS["modulated_layer_norm"], OPERATORS["gated_residual"]


def check(name: str, inputs: list, dtype: torch.dtype, **options: object) -> None:
    function = functools.partial(getattr(emulated_operators, name), **options)
    check_values(OPERATORS[name], inputs, dtype, function)
    if OPERATORS[name].differentiable:
        check_gradients(OPERATORS[name], inputs, dtype, function)


@every_dtype
@pytest.mark.parametrize("operator", [NORM, GATED], ids=lambda operator: operator.name)
@pytest.mark.parametrize("shape", [(3, 17, 37), (1, 33, 130), (2, 2, 515)])
def test_modulated_norm(operator, dtype, shape):
    check(operator.name, test_ops_modulated_norm.inputs(operator, *shape), dtype)


@every_dtype
@pytest.mark.parametrize("shape", [(3, 4, 37, 30), (1, 7, 33, 258), (2, 3, 5, 18)])
def test_rope_embed(dtype, shape):
    check("rope_embed", test_ops_rope_embed.inputs(*shape), dtype)


@every_dtype
@pytest.mark.parametrize("form", test_ops_sampler_step.FORMS)
@pytest.mark.parametrize("keyed", [False, True])
def test_sampler_step(form, dtype, keyed):
    check("sampler_step", test_ops_sampler_step.inputs(form, (2, 3, 37)), dtype, keyed=keyed)


@every_dtype
@pytest.mark.parametrize("shape", [(5, 7), (4099,)])
def test_tanh_gelu(dtype, shape):
    check("tanh_gelu", test_ops_tanh_gelu.inputs(*shape), dtype)


@every_dtype
@pytest.mark.parametrize("shape", test_ops_group_norm_silu.SHAPES[1:])
def test_group_norm_silu(dtype, shape):
    check("group_norm_silu", test_ops_group_norm_silu.inputs(*shape), dtype)


@every_dtype
@pytest.mark.parametrize("shape", [*test_ops_group_norm_silu.SHAPES[1:], (1, 300, 7, 2)])
def test_group_norm_silu_of_channels_that_lie_side_by_side(dtype, shape):
    given = test_ops_group_norm_silu.inputs(*shape)
    check_values(OPERATORS["group_norm_silu"], given, dtype, emulated_operators.channels_last_group_norm_silu)


@every_dtype
@pytest.mark.parametrize("gap", [0, 5, 8])
@pytest.mark.parametrize("shape", [(2, 5, 2, 3, 7), (1, 70, 70, 2, 16), (1, 33, 1023, 1, 64), (1, 65, 33, 1, 128)])
def test_multihead_attention(dtype, shape, gap):
    if dtype == torch.float64 and shape[-1] > 64:
        with pytest.raises(AssertionError, match="the launcher refused its arguments"):
            check("multihead_attention", test_ops_multihead_attention.inputs(*shape), dtype, gap=gap)
        return
    check("multihead_attention", test_ops_multihead_attention.inputs(*shape), dtype, gap=gap)


@every_dtype
def test_attention_to_visible_keys(dtype):
    query, key, value, bias, heads = test_ops_multihead_attention.inputs(3, 40, 70, 2, 16, bias=True)
    bias[0, 3:], bias[1, :66] = -math.inf, -math.inf
    given = [x.to(dtype).requires_grad_() for x in (query, key, value)]
    out = emulated_operators.multihead_attention(*given, bias, heads)
    grads = torch.autograd.grad(out.square().sum(), given)
    exact = [x.detach().double().requires_grad_() for x in given]
    expected = OPERATORS["multihead_attention"].reference(*exact, bias, heads)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=tolerance)
    for actual, wanted in zip(grads, torch.autograd.grad(expected.square().sum(), exact), strict=True):
        torch.testing.assert_close(actual.double(), wanted, rtol=tolerance, atol=4 * tolerance)
    assert not grads[1][0, 3:].any() and not grads[2][1, :66].any()


def test_attention_with_large_scores():
    query, key, value, bias, heads = test_ops_multihead_attention.inputs(1, 20, 70, 2, 16)
    out = emulated_operators.multihead_attention(100 * query.float(), 100 * key.float(), value.float(), bias, heads)
    exact = OPERATORS["multihead_attention"].reference(100 * query, 100 * key, value, bias, heads)
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-5)
