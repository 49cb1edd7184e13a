"""Where in a kernel's machine code registers are spilled: in the loops that multiply matrices, or outside of them.

A cubin is an ELF file with a section of instructions for each kernel. An instruction of sm_80 or sm_90 has 16 bytes,
its operation in the lowest 12 bits. NVIDIA does not document that; cuda_check.py compares how many local loads and
stores are found here with what ptxas says that it made.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

SIZE = 16
"""Of an instruction, in bytes."""
MULTIPLY = {0x23C, 0x9F0, 0xDF0}
"""By a warp; by a warpgroup, with a left factor in registers or in shared memory."""
SPILL = {0x983, 0x387}
"""Local loads and stores."""
BRANCH, ENDS = 0x947, {0x94D, 0x950}
ALWAYS = 0x7
"""A branch's predicate, in four bits from the 12th."""
PLAIN = 0xE0
"""Bits 82 to 95 of a branch that asks nothing but its predicate."""


class Code(NamedTuple):
    """Places, counted in instructions, of what a kernel does and of what is in each loop."""

    products: list[int]
    spills: list[int]
    loops: list[set[int]]

    def product_loops(self) -> list[set[int]]:
        """Loops with a product of matrices in them, and no smaller loop with one."""
        multiplying = [loop for loop in self.loops if not loop.isdisjoint(self.products)]
        return [loop for loop in multiplying if not any(other < loop for other in multiplying)]

    def spills_in_product_loops(self) -> int:
        return sum(place in loop for loop in self.product_loops() for place in self.spills)


def kernels(cubin: bytes) -> dict[str, bytes]:
    """Instructions of each kernel, by mangled name."""
    (headers,) = struct.unpack_from("<Q", cubin, 0x28)
    count, names = struct.unpack_from("<HH", cubin, 0x3C)
    sections = [struct.unpack_from("<IIQQQQIIQQ", cubin, headers + 64 * number) for number in range(count)]
    found = {}
    for name, _, _, _, offset, size, *_ in sections:
        start = sections[names][4] + name
        label = cubin[start : cubin.index(b"\0", start)].decode()
        if label.startswith(".text."):
            found[label.removeprefix(".text.")] = cubin[offset : offset + size]
    return found


def read(code: bytes, architecture: str) -> Code:
    """Code of a kernel for "80" or "90a"."""
    products, spills, backward = [], [], []
    count = len(code) // SIZE
    before = [[] for _ in range(count)]
    for place in range(count):
        instruction = int.from_bytes(code[SIZE * place : SIZE * (place + 1)], "little")
        operation, goes_on = instruction & 0xFFF, True
        if operation in MULTIPLY:
            products.append(place)
        elif operation in SPILL:
            spills.append(place)
        elif operation == BRANCH:
            target = place + 1 + _jump(instruction, architecture) // SIZE
            if target < count:
                before[target].append(place)
            if target < place:
                backward.append((place, target))
            goes_on = (instruction >> 12 & 0xF, instruction >> 82 & 0x3FFF) != (ALWAYS, PLAIN)
        elif operation in ENDS:
            goes_on = instruction >> 12 & 0xF != ALWAYS
        if goes_on and place + 1 < count:
            before[place + 1].append(place)
    bodies = (_body(last, first, before) for last, first in backward)
    return Code(products, spills, [body for body in bodies if body])


def _body(last: int, first: int, before: list[list[int]]) -> set[int] | None:
    """What leads to the branch at `last` without passing `first`, its target. None if the kernel's beginning does: code
    that waits is put behind a kernel's end, and its way back is no loop."""
    body, found = {first, last}, [last]
    while found:
        for place in before[found.pop()]:
            if place not in body:
                body.add(place)
                found.append(place)
    return body if first == 0 or 0 not in body else None


def _jump(instruction: int, architecture: str) -> int:
    """Bytes from the next instruction to a branch's target."""
    words, bits = instruction >> 34 & (1 << 48) - 1, 48
    if architecture.startswith("90"):
        words, bits = words << 8 | instruction >> 16 & 0xFF, 56
    return 4 * (words - (words >> bits - 1 << bits))
