"""Compile every CUDA source to machine code for sm_80 and sm_90a with nvcc alone: no GPU, no torch.

    python csrc/cuda_check.py

Prints registers and spilled bytes of every kernel. Fails on the first source that does not compile, where a kernel
spills, in a loop that multiplies matrices anything, outside of those more than `MOST_SPILLED` bytes, and where ptxas
lets the products of warpgroups wait for each other.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import machine_code

CSRC = Path(__file__).resolve().parent
ARCHITECTURES = ("80", "90a")
MOST_SPILLED = 192
"""Bytes of stores and loads, of a kernel that multiplies matrices; none of any other."""
KERNEL = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
SERIALISED = re.compile(r"\(C75\d\d\).*wgmma.*serialized due to (.*) in the function '(\S+)'")


def find_nvcc() -> str | None:
    """nvcc on PATH, under CUDA_HOME, or where toolkits are usually installed."""
    places = [Path(os.environ[name]) / "bin" for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, places), "/usr/local/cuda/bin"])
    return shutil.which("nvcc", path=path)


def cuda_sources() -> list[Path]:
    lines = (CSRC / "sources.txt").read_text().splitlines()
    return [CSRC.parent / line.split()[1] for line in lines if line.startswith("cuda ")]


def demangled(names: list[str]) -> list[str]:
    """Kernel names as people write them, where c++filt is there to say."""
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if tool is None or not names:
        return names
    text = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    short = [
        re.sub(r"^void |ecgtwin::|cuda::|\(anonymous namespace\)::", "", line) for line in text.splitlines()
    ]
    return [re.sub(r"\(.*", "", line) for line in short]


def cubin_path(source: Path, architecture: str, folder: Path) -> Path:
    return folder / f"{source.stem}_{architecture}.cubin"


def compile_source(nvcc: str, source: Path, architecture: str, folder: Path) -> tuple[int, str]:
    command = [
        *(nvcc, "-O3", "-std=c++17", f"-gencode=arch=compute_{architecture},code=sm_{architecture}"),
        *("-Xptxas", "-v,-warn-spills", "-I", str(CSRC), "-I", str(CSRC / "cuda"), "-cubin"),
        *(str(source), "-o", str(cubin_path(source, architecture, folder))),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def kernel_rows(log: str) -> list[tuple[str, int, int]]:
    """(mangled name, registers, bytes spilled) of each kernel in ptxas's words."""
    rows, name, spilled = [], "", 0
    for line in log.splitlines():
        if match := KERNEL.search(line):
            name = match[1]
        elif match := SPILLS.search(line):
            spilled = int(match[2]) + int(match[3])
        elif match := REGISTERS.search(line):
            rows.append((name, int(match[1]), spilled))
    return rows


def serialised(log: str) -> list[str]:
    """What to say of the kernels whose asynchronous products are not."""
    found = SERIALISED.findall(log)
    names = demangled([name for _, name in found])
    return [f"{name} multiplies one by one: {reason}" for (reason, _), name in zip(found, names, strict=True)]


def over_the_bound(rows: list[tuple[str, int, int]], cubin: bytes, architecture: str) -> list[str]:
    """What to say of the kernels that spill too much, or where they must not."""
    spilling = [(name, spilled) for name, _, spilled in rows if spilled > 0]
    codes = machine_code.kernels(cubin) if spilling else {}
    faults = []
    for (name, spilled), shown in zip(spilling, demangled([name for name, _ in spilling]), strict=True):
        code = machine_code.read(codes[name], architecture)
        inside, most = code.spills_in_product_loops(), MOST_SPILLED if code.product_loops() else 0
        if not 4 * len(code.spills) <= spilled <= 16 * len(code.spills):
            faults.append(f"{shown}: {len(code.spills)} loads and stores were found of {spilled} spilled bytes")
        elif spilled > most:
            faults.append(f"{shown} spills {spilled} bytes, at most {most} are allowed")
        elif inside:
            faults.append(f"{shown} spills in a loop that multiplies matrices: {inside} loads and stores")
    return faults


def main() -> int:
    nvcc = find_nvcc()
    if nvcc is None:
        print("cuda-check: no nvcc was found on PATH or under CUDA_HOME", file=sys.stderr)
        return 1
    print(f"{'source':<33}{'arch':<8}{'registers':>9}{'spilled':>9}  kernel")
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for source in cuda_sources():
            for architecture in ARCHITECTURES:
                status, log = compile_source(nvcc, source, architecture, Path(folder))
                rows = kernel_rows(log)
                if status != 0 or not rows:
                    print(
                        f"{log}\ncuda-check: {source.name} did not compile for sm_{architecture}",
                        file=sys.stderr,
                    )
                    return 1
                for (_, registers, spilled), name in zip(
                    rows, demangled([row[0] for row in rows]), strict=True
                ):
                    print(f"{source.name:<33}sm_{architecture:<5}{registers:>9}{spilled:>9}  {name}", flush=True)
                cubin = cubin_path(source, architecture, Path(folder)).read_bytes()
                found = serialised(log) + over_the_bound(rows, cubin, architecture)
                faults += [f"cuda-check: sm_{architecture}: {fault}" for fault in found]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
