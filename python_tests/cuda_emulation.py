"""The CUDA kernels on CPU memory: csrc/cuda/emulation.h makes them C++ for the host, and this builds and runs them.

`run` takes a kernel through blocks and threads in ascending, descending and shuffled order; the results must be the
same to the bit. Memory beyond inputs and outputs, and outputs before the kernel has written them, hold NaN.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, c_double, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

TESTS = Path(__file__).resolve().parent
CSRC = TESTS.parent / "csrc"
sys.path.insert(0, str(CSRC))

import cuda_check  # noqa: E402

COMPILER = os.environ.get("CXX", "c++")
FLAGS = ["-x", "c++", "-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas"]
FLAGS += ["-I", str(CSRC), "-I", str(CSRC / "cuda")]
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float64: 2}
ORDERS = ("ascending", "descending", "shuffled")
GUARD = 64  # elements of NaN around each tensor


def build(folder: Path) -> Path:
    """Compiles what is newer than its object, and links the library."""
    folder.mkdir(parents=True, exist_ok=True)
    own = ("cuda_emulation.cpp", "emulation_probe.cu", "warpgroup_probe.cu")
    sources = [*cuda_check.cuda_sources(), *(TESTS / name for name in own)]
    headers = [*CSRC.glob("*.h"), *CSRC.glob("cuda/**/*.cuh"), *CSRC.glob("cuda/*.h")]
    newest = max(header.stat().st_mtime for header in headers)

    def compiled(source: Path) -> Path:
        target = folder / f"{source.name}.o"
        if not target.exists() or target.stat().st_mtime < max(newest, source.stat().st_mtime):
            unfinished = target.with_suffix(".unfinished")
            subprocess.run([COMPILER, *FLAGS, "-c", str(source), "-o", str(unfinished)], check=True)
            unfinished.replace(target)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / "libcuda_emulation.so"
    subprocess.run([COMPILER, "-shared", *map(str, objects), "-o", str(library)], check=True)
    return library


def structure(name: str, **fields: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


def fields(kind: type, names: str) -> dict[str, type]:
    return dict.fromkeys(names.split(), kind)


# The arguments of csrc/*.h, in the same order.
HeadRows = structure("HeadRows", data=c_void_p, **fields(c_int64, "batch_stride row_stride"))
ARGUMENTS = {
    "modulated_norm": structure(
        "NormArgs",
        **fields(c_void_p, "x gate y shift scale sum out"),
        **fields(c_int64, "length width gate_stride shift_stride scale_stride"),
        eps=c_double,
        dtype=c_int32,
    ),
    "modulated_norm_backward": structure(
        "NormGradArgs",
        **fields(c_void_p, "grad_sum grad_norm sum gate y scale grad_x grad_y"),
        **fields(c_void_p, "partial_gate partial_shift partial_scale"),
        **fields(c_int64, "length width chunks gate_stride scale_stride"),
        eps=c_double,
        dtype=c_int32,
    ),
    "rope_embed": structure(
        "RopeArgs",
        **fields(c_void_p, "x weight bias cosine sine out"),
        **fields(c_int64, "channels length width"),
        dtype=c_int32,
    ),
    "rope_embed_backward": structure(
        "RopeGradArgs",
        **fields(c_void_p, "grad x weight cosine sine grad_x partial"),
        **fields(c_int64, "channels length width chunks"),
        dtype=c_int32,
    ),
    "sampler_step": structure(
        "SamplerArgs",
        **fields(c_void_p, "x eps x0_prev noise coefficients keys next x0"),
        **fields(c_int64, "elements blocks"),
        **fields(c_uint64, "seed first_index"),
        step=c_uint32,
        dtype=c_int32,
    ),
    "multihead_attention": structure(
        "AttentionArgs",
        **fields(HeadRows, "query key value out"),
        **fields(c_void_p, "bias statistics"),
        **fields(c_int64, "queries keys heads head_size"),
        dtype=c_int32,
    ),
    "tanh_gelu": structure("GeluArgs", **fields(c_void_p, "grad x out"), count=c_int64, dtype=c_int32),
    "group_norm_silu": structure(
        "GroupNormArgs",
        **fields(c_void_p, "x weight bias out statistics"),
        **fields(c_int64, "channels length groups channels_last"),
        eps=c_double,
        dtype=c_int32,
    ),
    "linear": structure(
        "LinearArgs",
        **fields(c_void_p, "x weight bias out"),
        **fields(c_int64, "rows columns inner x_stride weight_stride bias_stride"),
        dtype=c_int32,
    ),
    "trajectory": structure(
        "TrajectoryArgs",
        **fields(c_void_p, "weights biases embed_weight embed_bias cosine sine final_weight final_bias"),
        **fields(c_void_p, "modulation base_of keys values score_bias counts condition_of coefficients noise"),
        **fields(c_void_p, "latents clean taken"),
        **fields(c_int64, "records channels length width head depth units tokens steps"),
        **fields(c_uint64, "seed first_index"),
        first_step=c_uint32,
        draws=c_int32,
    ),
}
ARGUMENTS["multihead_attention_backward"] = structure(
    "AttentionGradArgs",
    forward=ARGUMENTS["multihead_attention"],
    **fields(HeadRows, "grad grad_query grad_key grad_value"),
    means=c_void_p,
)
ARGUMENTS["group_norm_silu_backward"] = structure(
    "GroupNormGradArgs",
    forward=ARGUMENTS["group_norm_silu"],
    **fields(c_void_p, "grad grad_x partial_weight partial_bias"),
)


@functools.cache
def library() -> ctypes.CDLL:
    """Built under build/ of the repository, once for all tests."""
    loaded = ctypes.CDLL(str(build(TESTS.parent / "build" / "cuda_emulation")))
    loaded.last_error.restype = ctypes.c_char_p
    loaded.set_order.argtypes = [c_int32, c_uint64]
    for name in ("run_probe", "run_warpgroup_probe"):
        getattr(loaded, name).argtypes = [c_int64, POINTER(ctypes.c_float)]
    for name, kind in ARGUMENTS.items():
        getattr(loaded, name).argtypes = [c_void_p, c_int64]
        size = getattr(loaded, f"{name}_size")()
        assert size == ctypes.sizeof(kind), f"{name}: arguments of {size} bytes, not {ctypes.sizeof(kind)}"
    return loaded


def guarded(shape: tuple[int, ...], dtype: torch.dtype, gap: int = 0) -> Tensor:
    """NaN, within NaN; `gap` elements lie between the rows."""
    *rows, width = shape
    count = torch.Size(rows).numel() * (width + gap)
    memory = torch.full((count + 2 * GUARD,), float("nan"), dtype=dtype)
    return memory[GUARD : GUARD + count].view(*rows, width + gap)[..., :width]


def placed(value: Tensor | None, gap: int = 0) -> Tensor | None:
    """A copy that lies within NaN."""
    if value is None:
        return None
    return guarded(tuple(value.shape), value.dtype, gap).copy_(value.detach())


def check_guards(value: Tensor) -> None:
    """Nothing but the tensor itself was written."""
    memory = value.untyped_storage()
    everything = torch.empty(0, dtype=value.dtype).set_(memory)
    outside = torch.ones(len(everything), dtype=torch.bool)
    outside.as_strided(value.shape, value.stride(), value.storage_offset()).fill_(False)
    assert everything[outside].isnan().all(), "a kernel wrote outside its output"
    assert not value.isnan().all(), "a kernel wrote nothing"


def rows(value: Tensor) -> HeadRows:
    return HeadRows(value.data_ptr(), value.stride(0), value.stride(1))


def pointer(value: Tensor | None) -> int | None:
    return None if value is None else value.data_ptr()


def run(name: str, tasks: int, outputs: dict[str, Tensor], arguments: dict[str, object]) -> None:
    """Runs a kernel in each order, and fills `outputs` with what it gave in all of them."""
    kind = ARGUMENTS[name]

    def field(value: object, to: type) -> object:
        if not isinstance(value, (Tensor, dict)):
            return DTYPES.get(value, value)
        if isinstance(value, dict):
            return to(**{key: field(part, dict(to._fields_)[key]) for key, part in value.items()})
        return rows(value) if to is HeadRows else pointer(value)

    packed = field({**arguments, **outputs}, kind)
    found = []
    for order in range(len(ORDERS)):
        for output in outputs.values():
            output.fill_(float("nan"))
        library().set_order(order, 7)
        status = getattr(library(), name)(ctypes.byref(packed), tasks)
        assert status == 0, f"{name}, {ORDERS[order]}: {library().last_error().decode()}"
        for output in outputs.values():
            check_guards(output)
        found.append([output.clone() for output in outputs.values()])
    for order, again in zip(ORDERS, found, strict=True):
        for output, first, other in zip(outputs, found[0], again, strict=True):
            same = torch.equal(first.nan_to_num(nan=12345.0), other.nan_to_num(nan=12345.0))
            assert same, f"{name}: {output} depends on the order of threads ({order})"


def differentiable(forward: Callable, backward: Callable) -> Callable:
    """forward(*inputs) gives the outputs and what backward(saved, *grads) needs to give the gradients of all inputs."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            outputs, ctx.kept = forward(*inputs)
            return outputs

        @staticmethod
        def backward(ctx, *grads):
            return backward(ctx.kept, *grads)

    return Function.apply


def compute(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
