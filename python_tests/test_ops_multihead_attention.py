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

from ecgtwin_fast.ops import OPERATORS, multihead_attention

ATTENTION = OPERATORS["multihead_attention"]
SHAPES = [  # batch, queries, keys, heads, head size
    (2, 128, 128, 8, 32),
    (1, 70, 70, 2, 16),
    (3, 128, 9, 2, 32),
    (2, 5, 2, 3, 7),
    (1, 65, 33, 1, 128),
    (1, 129, 257, 2, 20),
    (1, 33, 2050, 2, 16),
]


def inputs(batch: int, queries: int, keys: int, heads: int, size: int, bias: bool = False) -> list:
    generator = torch.Generator().manual_seed(queries * 1000 + keys)

    def draw(length: int) -> torch.Tensor:
        return torch.randn(batch, length, heads * size, generator=generator, dtype=torch.float64)

    query, key, value = draw(queries), draw(keys), draw(keys)
    added = torch.randn(batch, keys, generator=generator) if bias else None
    return [query, key, value, added, heads]


@every_dtype
@every_cpu_level
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(dtype, cpu_level, shape):
    with cpu_kernels(cpu_level):
        check_values(ATTENTION, inputs(*shape), dtype)
        check_gradients(ATTENTION, inputs(*shape), dtype)


@every_dtype
@every_cpu_level
def test_bias_of_keys(dtype, cpu_level):
    given = inputs(3, 40, 11, 2, 16, bias=True)
    given[3][0, 3:] = float("-inf")
    given[3][1, :4] = float("-inf")

    def function(query, key, value):
        return compiled_operator(ATTENTION)(query, key, value, given[3], 2)[0]

    def reference(query, key, value):
        return ATTENTION.reference(query, key, value, given[3], 2)

    tolerance = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float64: 1e-12}[dtype]
    leaves = [value.to(dtype).requires_grad_() for value in given[:3]]
    weight = torch.randn(3, 40, 32, dtype=dtype, generator=torch.Generator().manual_seed(0))
    with cpu_kernels(cpu_level):
        out = function(*leaves)
        actual = torch.autograd.grad(out, leaves, weight)
    expected_out = reference(*leaves)
    expected = torch.autograd.grad(expected_out, leaves, weight)
    torch.testing.assert_close(out, expected_out, rtol=0, atol=tolerance)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=2 * tolerance)
    assert (actual[2][0, 3:] == 0).all() and (actual[1][1, :4] == 0).all()


def test_is_torch_attention():
    query, key, value, _, heads = (x.float() if torch.is_tensor(x) else x for x in inputs(2, 96, 50, 4, 24))
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    torch.testing.assert_close(multihead_attention(query, key, value, None, heads), expected, rtol=1e-4, atol=1e-5)


@every_cpu_level
def test_large_scores_do_not_overflow(cpu_level):
    query, key, value, bias, heads = inputs(1, 20, 20, 2, 16)
    with cpu_kernels(cpu_level):
        out = multihead_attention(100 * query.float(), 100 * key.float(), value.float(), bias, heads)
    torch.testing.assert_close(out, ATTENTION.reference(100 * query, 100 * key, value, bias, heads).float())


def test_views_of_a_packed_product_are_read_in_place():
    packed = torch.randn(3, 40, 96, generator=torch.Generator().manual_seed(0))
    views = packed.chunk(3, dim=-1)
    copies = [view.contiguous() for view in views]
    assert torch.equal(multihead_attention(*views, None, 4), multihead_attention(*copies, None, 4))
    spread = [copy.repeat_interleave(2, dim=-1)[..., ::2] for copy in copies]
    assert torch.equal(multihead_attention(*spread, None, 4), multihead_attention(*copies, None, 4))


def test_a_record_is_the_same_in_any_batch():
    given = [x.bfloat16() if torch.is_tensor(x) else x for x in inputs(5, 64, 64, 2, 32)]
    whole = multihead_attention(*given)
    assert torch.equal(whole[3:4], multihead_attention(*(x[3:4] for x in given[:3]), None, 2))


def test_gradcheck():
    query, key, value, _, heads = inputs(2, 6, 5, 2, 3)
    check_gradcheck(ATTENTION, [query, key, value, None, heads])


@pytest.mark.parametrize("bias", [False, True])
def test_opcheck(bias):
    check_opcheck(ATTENTION, inputs(2, 9, 7, 2, 4, bias))


def test_traces_whole():
    check_compile(ATTENTION, multihead_attention, inputs(2, 9, 7, 2, 4))


@pytest.mark.parametrize("shape", [(0, 4, 4, 2, 3), (2, 0, 5, 2, 3)])
def test_nothing_to_do(shape):
    query, key, value, _, heads = (x.float().requires_grad_() if torch.is_tensor(x) else x for x in inputs(*shape))
    out = multihead_attention(query, key, value, None, heads)
    assert out.shape == query.shape
    grads = torch.autograd.grad(out.sum(), [query, key, value])
    assert [g.shape for g in grads] == [query.shape, key.shape, value.shape]
    assert not any(g.any() for g in grads)


Q, K = torch.zeros(2, 4, 8), torch.zeros(2, 6, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Q[0], K, K, None, 2), r"query must be \(batch, queries, width\), but its shape is \[4, 8\]"),
        ((Q, K, K, None, 3), "the width 8 must be a positive multiple of heads, which is 3"),
        ((Q, K[:, :0], K[:, :0], None, 2), r"key must hold at least one key, but its shape is \[2, 0, 8\]"),
        ((Q, K[..., :6], K, None, 2), r"key must have shape \[2, 6, 8\].*but it has \[2, 6, 6\]"),
        ((Q, K, K[:1], None, 2), r"value must have shape \[2, 6, 8\].*but it has \[1, 6, 8\]"),
        ((Q, K, K, torch.zeros(2, 4), 2), r"bias must have shape \[2, 6\].*but it has \[2, 4\]"),
        ((Q, K, K, torch.zeros(2, 6).double(), 2), "bias must be Float where x is Float, but it is Double"),
        ((Q, K.bfloat16(), K, None, 2), "key must be Float where x is Float, but it is BFloat16"),
        ((Q.half(), K.half(), K.half(), None, 2), "query must be float32, bfloat16 or float64, but it is Half"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(RuntimeError, match=f"multihead_attention: {message}"):
        multihead_attention(*arguments)


@every_cpu_level
def test_a_single_key_is_the_answer(cpu_level):
    given = inputs(2, 5, 1, 3, 8)
    query, key, value, _, heads = (x.float().requires_grad_() if torch.is_tensor(x) else x for x in given)
    with cpu_kernels(cpu_level):
        out = multihead_attention(query, key, value, None, heads)
        grads = torch.autograd.grad(out.sum(), [query, key, value])
    torch.testing.assert_close(out, value.expand_as(out))
    assert not grads[0].any() and not grads[1].any()
    assert (grads[2] == 5).all()
