"""Products of warpgroups and bulk copies as csrc/cuda emulates them: what they give, and that mistakes show."""

from __future__ import annotations

import ctypes
import sys

import pytest
import torch
from cuda_emulation import ORDERS, library

from ecgtwin_fast.engine.cuda_denoiser import cores

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fibers of the emulation are tried on Linux alone")
ROWS, SIDE = 64, 32
FAULTS = (
    "none no_proxy_fence no_barrier no_fence no_wait sum_touched factor_changed row_changed warp_left_out other_factor "
    "never_finished swizzled copy_not_awaited copy_not_expected barrier_unset"
).split()


def probe(fault: str, order: str) -> tuple[torch.Tensor, ...]:
    """left, right, then what a kernel of warpgroup_probe.cu made of them: three products and a copy."""
    torch.manual_seed(0)
    given = torch.randn((ROWS + SIDE) * SIDE).bfloat16().float()
    numbers = torch.cat([given, torch.full((3 * ROWS * SIDE + SIDE,), float("nan"))])
    library().set_order(ORDERS.index(order), 3)
    place = ctypes.cast(numbers.data_ptr(), ctypes.POINTER(ctypes.c_float))
    if library().run_warpgroup_probe(FAULTS.index(fault), place) != 0:
        raise RuntimeError(library().last_error().decode())
    left, right, *products, copied = numbers.split([ROWS * SIDE, SIDE * SIDE, *[ROWS * SIDE] * 3, SIDE])
    return (left.view(-1, SIDE), right.view(-1, SIDE), *(product.view(-1, SIDE) for product in products), copied)


@pytest.mark.parametrize("order", ORDERS)
def test_products_and_copies(order):
    left, right, by_memory, by_registers, by_columns, copied = probe("none", order)
    torch.testing.assert_close(by_memory, left @ right.T, rtol=1e-5, atol=1e-5)
    assert torch.equal(by_registers, by_memory)
    torch.testing.assert_close(by_columns, left @ right, rtol=1e-5, atol=1e-5)
    assert torch.equal(copied, right[0])


@pytest.mark.parametrize("fault", ["no_proxy_fence", "no_wait", "factor_changed", "row_changed", "copy_not_awaited"])
def test_what_is_read_too_early_or_changed_too_early_is_nan(fault):
    *_, by_memory, by_registers, by_columns, copied = probe(fault, "ascending")
    wrong = copied if fault == "copy_not_awaited" else by_memory
    assert wrong.isnan().any()


def test_a_missing_barrier_shows_in_some_order():
    assert any(probe("no_barrier", order)[2].isnan().any() for order in ORDERS)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no_fence", "a product of a warpgroup without a fence"),
        ("sum_touched", "a sum was touched while a product was under way"),
        ("warp_left_out", "warps of a warpgroup issue different products"),
        ("other_factor", "warps of a warpgroup issue different products"),
        ("never_finished", "a thread ended while products were under way"),
        ("swizzled", "only descriptors without swizzle and offset are emulated"),
        ("copy_not_expected", "threads of a block wait at different barriers, or for one that has ended"),
        ("barrier_unset", "a barrier is used before it is initialised"),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_what_hardware_leaves_undefined_is_an_error(fault, message, order):
    with pytest.raises(RuntimeError, match=message):
        probe(fault, order)


def test_cores_are_what_descriptors_read():
    matrix = torch.arange(64 * 48.0).view(64, 48) % 251
    found = cores(matrix, 32).view(2, 3, 4, 2, 8, 8).float()
    for chunk, deep, eight, half, row, column in [(0, 0, 0, 0, 0, 0), (1, 2, 3, 1, 5, 6), (0, 1, 2, 0, 7, 1)]:
        expected = matrix[32 * chunk + 8 * eight + row, 16 * deep + 8 * half + column]
        assert found[chunk, deep, eight, half, row, column] == expected
