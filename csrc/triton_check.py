"""Compile every Triton kernel of the denoiser to machine code for sm_80 and sm_90: no GPU.

    python csrc/triton_check.py [--architecture 90] [--kernel mlp]

Prints registers, spilled bytes and shared memory of every kernel at the published and the bundled sizes, and for sm_90
whether its products are asynchronous. Fails where a kernel of bfloat16 products spills more than its bound, one needs
more shared memory than the architecture has, or the assembler serialises asynchronous products (its message C7512).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ecgtwin_fast import models  # noqa: E402
from ecgtwin_fast.engine.triton_denoiser import pack_denoiser, sizes_of  # noqa: E402
from ecgtwin_fast.engine.triton_launch import Launch, linear_launch  # noqa: E402
from ecgtwin_fast.engine.triton_tiles import tiles_for  # noqa: E402
from ecgtwin_fast.engine.triton_trajectory import Trajectory  # noqa: E402

PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10}
NETWORKS = {"published": {"hidden": 256, "heads": 8}, "bundled": {"hidden": 128, "heads": 4}}
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64"}
SPILL_BOUND = 0
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


def launches(network: str, dtype: torch.dtype, architecture: int) -> list[Launch]:
    """One launch of every kernel; of condition attention, with values as they are (32 tokens) and folded (16)."""
    denoiser = models.create("dit", **NETWORKS[network], depth=1).requires_grad_(False)
    sizes = sizes_of(denoiser)
    packed = pack_denoiser(denoiser, dtype, tiles_for(dtype, sizes.padded, sizes.length, architecture == 90))
    many, few = (Trajectory(packed, 2, tokens) for tokens in (32, 16))
    rows = torch.zeros(2, sizes.width)
    weights = packed.conditions
    return [
        *many.step_launches(),
        few.step_launches()[2],
        many.draw_launch(),
        many.modulation_launch(rows, rows),
        linear_launch(rows[None], weights.key_value, weights.key_value_bias, torch.zeros(1, 2, 2 * sizes.width)),
    ]


def compiled(launch: Launch, architecture: int) -> triton.compiler.CompiledKernel:
    """As the launch would compile it: tensors begin at multiples of 16 bytes, integers are anything."""
    names = launch.kernel.arg_names
    signature, attributes = {}, {}
    for place, (name, argument) in enumerate(zip(names, launch.arguments, strict=False)):
        is_tensor = isinstance(argument, torch.Tensor)
        signature[name] = TYPES[argument.dtype] if is_tensor else "i32"
        if is_tensor:
            attributes[(place,)] = [["tt.divisibility", 16]]
    constants = {name: launch.constants[name] for name in names if name in launch.constants}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=launch.options)


def assembled(ptx: str, architecture: int) -> tuple[int, int, bool]:
    """Registers, bytes spilled, and whether products were serialised, in the assembler's words."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        name = f"sm_{architecture}a" if architecture == 90 else f"sm_{architecture}"
        command = [str(PTXAS), "-v", f"--gpu-name={name}", str(source), "-o", str(source.with_suffix(".cubin"))]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spilled = sum(map(int, SPILLS.search(log).groups()))
    return int(REGISTERS.search(log)[1]), spilled, "C7512" in log


def title(launch: Launch) -> str:
    constants = launch.constants
    marks = [f"{constants['TOKENS']} tokens"] if "TOKENS" in constants else []
    marks += ["folded"] if constants.get("FOLDED") else []
    return f"{launch.kernel.fn.__name__} {', '.join(marks)}".rstrip()


def check(launch: Launch, network: str, dtype: torch.dtype, architecture: int) -> list[str]:
    """Prints a row; returns what is wrong."""
    kernel = compiled(launch, architecture)
    ptx, shared = kernel.asm["ptx"], kernel.metadata.shared
    registers, spilled, serialised = assembled(ptx, architecture)
    products = "serialised" if serialised else "asynchronous" if "wgmma.mma_async" in ptx else "-"
    if products == "-" and "mma.sync" in ptx:
        products = "synchronous"
    precision = str(dtype).removeprefix("torch.")
    what = f"{network:<10}{precision:<9} sm_{architecture} {title(launch)}"
    print(f"{what:<62}{registers:>9}{spilled:>9}{shared:>9}  {products}", flush=True)
    wrong = []
    if dtype == torch.bfloat16 and spilled > SPILL_BOUND:
        wrong.append(f"{what} spills {spilled} bytes, more than {SPILL_BOUND}")
    if shared > SHARED_MEMORY[architecture]:
        wrong.append(f"{what} needs {shared} bytes of shared memory, more than {SHARED_MEMORY[architecture]}")
    if serialised:
        wrong.append(f"{what} has its asynchronous products serialised (C7512)")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", type=int, choices=SHARED_MEMORY, help="only this one")
    parser.add_argument("--kernel", help="only kernels of this name")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], help="only this precision")
    given = parser.parse_args()
    print(f"triton {triton.__version__}\n{'kernel':<62}{'registers':>9}{'spilled':>9}{'shared':>9}  products")
    wrong = []
    for architecture in [given.architecture] if given.architecture else SHARED_MEMORY:
        for dtype in [getattr(torch, given.dtype)] if given.dtype else (torch.bfloat16, torch.float32):
            for network in NETWORKS:
                for launch in launches(network, dtype, architecture):
                    if given.kernel in (None, launch.kernel.fn.__name__):
                        wrong += check(launch, network, dtype, architecture)
    for line in wrong:
        print(f"triton-check: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
