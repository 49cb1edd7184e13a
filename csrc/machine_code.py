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
MULTIPLY, BRANCH, LOAD_LOCAL, STORE_LOCAL = 0x23C, 0x947, 0x983, 0x387


class Code(NamedTuple):
    """Places, counted in instructions, of what a kernel does, and first and last place of each loop."""

    products: list[int]
    spills: list[int]
    loops: list[tuple[int, int]]

    def product_loops(self) -> list[tuple[int, int]]:
        """Loops with a product of matrices in them, and no smaller loop with one."""
        multiplying = [loop for loop in self.loops if any(loop[0] <= place <= loop[1] for place in self.products)]
        return [
            (first, last)
            for first, last in multiplying
            if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in multiplying)
        ]

    def spills_in_product_loops(self) -> int:
        return sum(first <= place <= last for first, last in self.product_loops() for place in self.spills)


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
    products, spills, loops = [], [], []
    for place in range(len(code) // SIZE):
        instruction = int.from_bytes(code[SIZE * place : SIZE * (place + 1)], "little")
        operation = instruction & 0xFFF
        if operation == MULTIPLY:
            products.append(place)
        elif operation in (LOAD_LOCAL, STORE_LOCAL):
            spills.append(place)
        elif operation == BRANCH:
            target = place + 1 + _jump(instruction, architecture) // SIZE
            if target < place:
                loops.append((target, place))
    return Code(products, spills, loops)


def _jump(instruction: int, architecture: str) -> int:
    """Bytes from the next instruction to a branch's target."""
    words, bits = instruction >> 34 & (1 << 48) - 1, 48
    if architecture.startswith("90"):
        words, bits = words << 8 | instruction >> 16 & 0xFF, 56
    return 4 * (words - (words >> bits - 1 << bits))
