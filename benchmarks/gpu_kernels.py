"""Runs every CUDA operator, forward and backward, and the backends for a GPU, on small inputs of odd shapes.

It is what a checker of memory accesses and races watches:

    compute-sanitizer --tool memcheck --error-exitcode 1 python benchmarks/gpu_kernels.py
"""

from __future__ import annotations

import sys
from itertools import product

import torch
from machine import ROOT

sys.path.insert(0, str(ROOT / "python_tests"))

from operator_checks import converted, gradients  # noqa: E402
from test_cpu_decoder import create as create_decoder  # noqa: E402
from test_cuda_operators import CASES, on_gpu  # noqa: E402

from ecgtwin_fast import models  # noqa: E402
from ecgtwin_fast.engine.decoder import decode  # noqa: E402
from ecgtwin_fast.engine.extractor import extract  # noqa: E402
from ecgtwin_fast.engine.latents import generate_latents  # noqa: E402

DTYPES = (torch.float32, torch.bfloat16)
MOST_ELEMENTS = 20_000
"""Of an operator's first input: larger ones take a checker minutes."""


def main() -> None:
    small = {name: case for name, case in CASES.items() if case[1][0].numel() <= MOST_ELEMENTS}
    for name, (operator, inputs) in small.items():
        for dtype in DTYPES:
            on_gpu(operator)(*converted(inputs, dtype))
            if operator.differentiable:
                gradients(on_gpu(operator), inputs, dtype)
        print(name, flush=True)
    sizes = {"hidden": 64, "heads": 2, "depth": 2, "length": 32, "text_width": 24, "base_width": 16}
    network = models.create("dit", **sizes).cuda().eval().requires_grad_(False)
    condition = {"text_embed": torch.randn(3, 5, 24), "patient": torch.randn(3, 3), "base_vector": torch.randn(3, 16)}
    condition = {key: value.cuda() for key, value in condition.items()} | {"text_mask": None}
    decoder, extractor = create_decoder().cuda(), models.create("ibe", hidden=64, heads=2, layers=1).cuda().eval()
    for backend, dtype in (*product(("triton", "graph"), DTYPES), ("cuda", torch.bfloat16)):
        latents = generate_latents(network, **condition, steps=2, backend=backend, dtype=dtype).latents
        decode(decoder, latents, backend=backend, dtype=dtype)
        print(backend, dtype, flush=True)
    for dtype in DTYPES:
        extract(extractor, latents, backend="graph", dtype=dtype)
    torch.cuda.synchronize()
    missing = {operator.name for operator, _ in CASES.values()} - {operator.name for operator, _ in small.values()}
    if missing:
        sys.exit(f"no case of {', '.join(sorted(missing))} is small enough to be watched")


if __name__ == "__main__":
    main()
