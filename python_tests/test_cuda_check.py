"""csrc/cuda_check.py refuses kernels that spill where it costs."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"
sys.path.insert(0, str(CSRC))

import cuda_check  # noqa: E402
import machine_code  # noqa: E402

LOAD_LOCAL, STORE_LOCAL = 0x983, 0x387
LOG = """
ptxas warning : Registers are spilled to local memory in function 'second', 24 bytes spill stores, 32 bytes spill loads
ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for first
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 512 bytes cmem[0]
ptxas info    : Compiling entry function 'second' for 'sm_90a'
ptxas info    : Function properties for second
    24 bytes stack frame, 24 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 255 registers
"""


def test_reads_what_ptxas_says():
    assert cuda_check.kernel_rows(LOG) == [("first", 40, 0), ("second", 255, 56)]


def instruction(operation: int, jump: int = 0, architecture: str = "80") -> bytes:
    """jump: instructions from the next one to a branch's target."""
    words = 4 * jump
    target = (words >> 8) % 2**48 << 34 | words % 256 << 16 if architecture == "90a" else words % 2**48 << 34
    return (operation | target).to_bytes(machine_code.SIZE, "little")


def two_loops(architecture: str, spilled_inside: bool, product: int = 0x23C) -> bytes:
    """A loop around a loop with a product of matrices; a register is spilled in one of them and taken back outside."""
    inner = [product, STORE_LOCAL if spilled_inside else 0x123]
    outer = [0x123 if spilled_inside else STORE_LOCAL]
    code = [instruction(operation) for operation in inner]
    code.append(instruction(machine_code.BRANCH, -3, architecture))
    code += [instruction(operation) for operation in outer]
    code.append(instruction(machine_code.BRANCH, -5, architecture))
    code += [instruction(LOAD_LOCAL), instruction(machine_code.BRANCH, 2, architecture)]
    return b"".join(code)


def cubin(kernels: dict[str, bytes]) -> bytes:
    """An ELF file with the sections that matter."""
    names, bodies, rows = b"\0", b"", []
    for name, body in {"": b"", **{f".text.{name}": code for name, code in kernels.items()}}.items():
        rows.append((len(names), 64 + len(bodies), len(body)))
        names, bodies = names + name.encode() + b"\0", bodies + body
    rows.append((0, 64 + len(bodies), len(names)))
    header = bytearray(64)
    struct.pack_into("<Q", header, 0x28, 64 + len(bodies) + len(names))
    struct.pack_into("<HH", header, 0x3C, len(rows), len(rows) - 1)
    sections = [struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, at, size, 0, 0, 0, 0) for name, at, size in rows]
    return bytes(header) + bodies + names + b"".join(sections)


@pytest.mark.parametrize("architecture", ["80", "90a"])
def test_loops_and_spills_are_found(architecture):
    code = machine_code.read(two_loops(architecture, False), architecture)
    assert (code.products, code.spills, code.loops) == ([0], [3, 5], [set(range(3)), set(range(5))])
    assert code.product_loops() == [set(range(3))] and code.spills_in_product_loops() == 0


@pytest.mark.parametrize("product", machine_code.MULTIPLY)
@pytest.mark.parametrize("architecture", ["80", "90a"])
def test_spills_beside_any_product_are_found(architecture, product):
    assert machine_code.read(two_loops(architecture, True, product), architecture).spills_in_product_loops() == 1


def test_waiting_behind_the_end_is_no_loop():
    """0: work, 1: a product, 2: to 7 if it must wait, 3: a spill, 4: again from 1, 5: the end; 7: waits, 8: to 3."""
    always = machine_code.ALWAYS << 12 | machine_code.PLAIN << 82
    again, wait = instruction(machine_code.BRANCH, -4), instruction(machine_code.BRANCH, 4)
    back = int.from_bytes(instruction(machine_code.BRANCH, -6), "little") | always
    end = (0x94D | always).to_bytes(machine_code.SIZE, "little")
    work = [instruction(operation) for operation in (0x123, 0x23C)]
    code = [*work, wait, instruction(STORE_LOCAL), again, end, end, instruction(0x123), back.to_bytes(16, "little")]
    assert machine_code.read(b"".join(code), "80").loops == [{1, 2, 3, 4, 7, 8}]


def test_products_that_wait_for_each_other_are_a_fault():
    reason, loss = "non wgmma instructions defining accumulator registers", "Potential Performance Loss"
    log = f"ptxas info    : (C7515) {loss}: wgmma.mma_async instructions are serialized due to {reason}"
    assert cuda_check.serialised(f"{log} in the function 'first'\n{LOG}") == [f"first multiplies one by one: {reason}"]
    assert cuda_check.serialised(LOG) == []


def faults(code: bytes, spilled: int) -> list[str]:
    return cuda_check.over_the_bound([("first", 40, 0), ("second", 255, spilled)], cubin({"second": code}), "80")


def test_a_spill_is_a_fault_by_its_place_and_size():
    assert faults(two_loops("80", False), 8) == []
    assert faults(two_loops("80", True), 8) == ["second spills in a loop that multiplies matrices: 1 loads and stores"]
    many, allowed = two_loops("80", False) + 60 * instruction(LOAD_LOCAL), cuda_check.MOST_SPILLED
    assert faults(many, 248) == [f"second spills 248 bytes, at most {allowed} are allowed"]
    assert faults(two_loops("80", False)[-32:], 4) == ["second spills 4 bytes, at most 0 are allowed"]


def test_what_was_not_found_in_the_code_is_a_fault():
    assert faults(two_loops("80", False), 56) == ["second: 2 loads and stores were found of 56 spilled bytes"]


def test_every_cuda_source_is_checked_and_emulated():
    listed = {source.name for source in cuda_check.cuda_sources()}
    assert listed == {source.name for source in (CSRC / "cuda").glob("*.cu")}
