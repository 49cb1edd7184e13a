"""Matrices in the order in which the CPU engines read them (csrc/product_layout.h)."""

from __future__ import annotations

import math
import mmap
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import extension

LOG2_E = math.log2(math.e)
"""Softmax kernels take powers of two: scores come times this."""


class Layout(NamedTuple):
    """How dwords of matrices lie: `rows` rows of weights to a strip, `pack` channels to a dword, `tile` positions."""

    rows: int
    pack: int
    tile: int


def layout(dtype: torch.dtype, narrow: bool = False) -> Layout | None:
    """The layout for float32 or bfloat16 products on this CPU; None where it has no kernels for them."""
    if extension.MODULE is None:
        return None
    found = Layout(*extension.MODULE.product_layout(dtype == torch.bfloat16, narrow))
    return found if found.rows else None


def dwords(matrix: Tensor, order: Layout) -> Tensor:
    """A matrix (..., K) of floats as int32 dwords (..., K / pack), each a float32 or a pair of bfloat16."""
    return matrix.to(torch.bfloat16 if order.pack == 2 else torch.float32).contiguous().view(torch.int32)


def dwords_of_columns(matrix: Tensor, order: Layout) -> Tensor:
    """`dwords` of the transposed matrix, transposed: (..., K, N) to (..., K / pack, N)."""
    if order.pack == 1:
        return matrix.contiguous().view(torch.int32)
    bits = matrix.to(torch.bfloat16).view(torch.int16).to(torch.int32)
    return bits[..., 0::2, :] & 0xFFFF | bits[..., 1::2, :] << 16


def padded(tensor: Tensor, dim: int, multiple: int, value: float = 0.0) -> Tensor:
    """The tensor, its dimension `dim` (negative) filled up with `value` to a multiple."""
    missing = -tensor.shape[dim] % multiple
    return F.pad(tensor, (*(0, 0) * (-dim - 1), 0, missing), value=value) if missing else tensor


def strips(weight: Tensor, order: Layout) -> Tensor:
    """Weights (..., N, K) as dwords (..., N / rows, K / pack, rows); N is padded with zeros to whole strips."""
    folded = dwords(padded(weight, -2, order.rows), order).unflatten(-2, (-1, order.rows))
    return folded.transpose(-2, -1).contiguous()


def on_huge_pages(tensors: list[Tensor]) -> list[Tensor]:
    """Copies of the tensors, one behind the other in one block, on huge pages where the system grants them."""
    flat = [tensor.detach().contiguous().flatten().view(torch.uint8) for tensor in tensors]
    starts, size = [], 0
    for part in flat:
        starts.append(size)
        size += -(-part.numel() // 64) * 64
    page = 2 << 20
    # Private: the system has no huge pages for memory that could be shared.
    block = mmap.mmap(-1, size + page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    memory = torch.frombuffer(block, dtype=torch.uint8)
    memory = memory[-memory.data_ptr() % page :]
    copies = []
    for tensor, part, start in zip(tensors, flat, starts, strict=True):
        place = memory[start : start + part.numel()]
        place.copy_(part)
        copies.append(place.view(tensor.dtype).view(tensor.shape))
    return copies
