"""The operators by emulated CUDA kernels: their arguments and outputs, and gradients.

What the bindings of csrc/*.cpp do around the kernels is done here again, with guarded memory.
"""

from __future__ import annotations

import torch
from cuda_emulation import compute, differentiable, guarded, placed, run
from torch import Tensor

from ecgtwin_fast.ops.sampler_step import signed


def norm_forward(x, shift, scale, eps=1e-6, gate=None, y=None):
    given = {"x": placed(x), "y": placed(y), "gate": placed(gate, 1)}
    given |= {"shift": placed(shift, 3), "scale": placed(scale, 5)}
    outputs = {"out": guarded(tuple(x.shape), x.dtype)}
    if gate is not None:
        outputs["sum"] = guarded(tuple(x.shape), x.dtype)
    sizes = {"length": x.shape[1], "width": x.shape[2], "eps": eps, "dtype": x.dtype}
    present = [name for name in ("gate", "shift", "scale") if given[name] is not None]
    strides = {f"{name}_stride": given[name].stride(0) for name in present}
    run("modulated_norm", x.shape[0] * x.shape[1], outputs, {**given, **sizes, **strides})
    return outputs


def norm_backward(grad, x, scale, eps, **residual):
    """`residual`: grad_sum, gate and y, or nothing."""
    batch, length, width = x.shape
    chunks = -(-length // 16)
    names = ["shift", "scale", "gate"] if residual else ["shift", "scale"]
    given = {"grad_norm": placed(grad), "sum": placed(x), "scale": placed(scale, 5)}
    given |= {name: placed(value) for name, value in residual.items()}
    outputs = {f"partial_{name}": guarded((batch, chunks, width), compute(x.dtype)) for name in names}
    rows = ["grad_x", "grad_y"] if residual else ["grad_x"]
    outputs |= {name: guarded((batch, length, width), x.dtype) for name in rows}
    sizes = {"length": length, "width": width, "chunks": chunks, "eps": eps, "dtype": x.dtype}
    strides = {f"{name}_stride": given[name].stride(0) for name in ("gate", "scale") if name in given}
    run("modulated_norm_backward", batch * chunks, outputs, {**given, **sizes, **strides})
    sums = {name: outputs[f"partial_{name}"].sum(1).to(x.dtype) for name in names}
    return outputs["grad_x"], outputs.get("grad_y"), sums


def modulated_layer_norm(*inputs: Tensor) -> Tensor:
    def forward(x, shift, scale):
        return norm_forward(x, shift, scale)["out"], (x, scale)

    def backward(saved, grad):
        grad_x, _, sums = norm_backward(grad, *saved, 1e-6)
        return grad_x, sums["shift"], sums["scale"]

    return differentiable(forward, backward)(*inputs)


def gated_residual(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    def forward(x, gate, y, shift, scale):
        outputs = norm_forward(x, shift, scale, gate=gate, y=y)
        return (outputs["sum"], outputs["out"]), (outputs["sum"], scale, gate, y)

    def backward(saved, grad_sum, grad_norm):
        total, scale, gate, y = saved
        grad_x, grad_y, sums = norm_backward(grad_norm, total, scale, 1e-6, grad_sum=grad_sum, gate=gate, y=y)
        return grad_x, sums["gate"], grad_y, sums["shift"], sums["scale"]

    return differentiable(forward, backward)(*inputs)


def rope_embed(*inputs: Tensor) -> Tensor:
    def table(length: int, width: int, dtype: torch.dtype) -> dict[str, Tensor]:
        frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
        return {"cosine": placed(angle.cos().to(compute(dtype))), "sine": placed(angle.sin().to(compute(dtype)))}

    def sizes(x, weight) -> dict[str, object]:
        return {"channels": x.shape[1], "length": x.shape[2], "width": weight.shape[0], "dtype": x.dtype}

    def forward(x, weight, bias):
        batch, _, length = x.shape
        wide = compute(x.dtype)
        given = {"x": placed(x), "weight": placed(weight.t().to(wide)), "bias": placed(bias.to(wide))}
        given |= table(length, len(weight), x.dtype) | sizes(x, weight)
        out = guarded((batch, length, len(weight)), x.dtype)
        run("rope_embed", batch * length, {"out": out}, given)
        return out, (x, weight)

    def backward(saved, grad):
        x, weight = saved
        batch, channels, length = x.shape
        wide, chunks = compute(x.dtype), -(-length // 32)
        given = {"grad": placed(grad), "x": placed(x), "weight": placed(weight.t().to(wide))}
        given |= table(length, len(weight), x.dtype) | sizes(x, weight) | {"chunks": chunks}
        outputs = {
            "grad_x": guarded((batch, channels, length), wide),
            "partial": guarded((batch, chunks, channels + 1, len(weight)), wide),
        }
        run("rope_embed_backward", batch * chunks, outputs, given)
        total = outputs["partial"].sum((0, 1)).to(x.dtype)
        return outputs["grad_x"].to(x.dtype), total[:channels].t(), total[channels]

    return differentiable(forward, backward)(*inputs)


def sampler_step(
    x, eps, x0_prev, noise, coefficients, seed, first_index, step, keyed: bool = False
) -> tuple[Tensor, Tensor]:
    """`keyed`: the keys lie in memory, and the coefficients in a table with NaN in its other rows."""
    elements = x[0].numel()
    blocks = -(-elements // 64)
    given = {"x": x, "eps": eps, "x0_prev": x0_prev, "noise": noise, "coefficients": coefficients.float()}
    keys = {"seed": seed % 2**64, "first_index": first_index, "step": step}
    if keyed:
        given["coefficients"] = torch.full((step + 2, 8), float("nan")).index_copy_(
            0, torch.tensor([step]), given["coefficients"][None]
        )
        keys = {"keys": torch.tensor([signed(seed), first_index, step])}
    given = {name: placed(value) for name, value in given.items()}
    given |= {"elements": elements, "blocks": blocks} | keys
    outputs = {name: guarded(tuple(x.shape), x.dtype) for name in ("next", "x0")}
    run("sampler_step", x.shape[0] * blocks, outputs, given | {"dtype": x.dtype})
    return outputs["next"], outputs["x0"]


def multihead_attention(query, key, value, bias, heads, gap: int = 0) -> Tensor:
    """With a `gap` between rows that is no multiple of 16 bytes, most of them are not aligned."""

    def arguments(query, key, value) -> dict[str, object]:
        sizes = {"queries": query.shape[1], "keys": key.shape[1], "heads": heads, "head_size": query.shape[2] // heads}
        given = {"query": query, "key": key, "value": value}
        given = {name: placed(tensor, gap) for name, tensor in given.items()}
        return {**given, **sizes, "bias": placed(bias), "dtype": query.dtype}

    def forward(query, key, value):
        batch, queries, _ = query.shape
        outputs = {
            "out": guarded(tuple(query.shape), query.dtype, gap),
            "statistics": guarded((batch, heads, 2, queries), compute(query.dtype)),
        }
        run("multihead_attention", batch * heads, outputs, arguments(query, key, value))
        return outputs["out"].contiguous(), (query, key, value, outputs["out"], outputs["statistics"])

    def backward(saved, grad):
        query, key, value, out, statistics = saved
        batch, queries, _ = query.shape
        given = {"forward": {**arguments(query, key, value), "out": placed(out), "statistics": placed(statistics)}}
        outputs = {
            f"grad_{name}": guarded(tuple(tensor.shape), tensor.dtype, gap)
            for name, tensor in {"query": query, "key": key, "value": value}.items()
        }
        outputs["means"] = guarded((batch, heads, queries), compute(query.dtype))
        run("multihead_attention_backward", batch * heads, outputs, {**given, "grad": placed(grad, gap)})
        return tuple(outputs[f"grad_{name}"] for name in ("query", "key", "value"))

    return differentiable(forward, backward)(query, key, value)


def tanh_gelu(x: Tensor) -> Tensor:
    def call(x: Tensor, grad: Tensor | None) -> Tensor:
        out = guarded(tuple(x.shape), x.dtype)
        arguments = {"x": placed(x), "grad": placed(grad), "count": x.numel(), "dtype": x.dtype}
        run("tanh_gelu", -(-x.numel() // 4096), {"out": out}, arguments)
        return out

    return differentiable(lambda x: (call(x, None), x), call)(x)


def channels_last_group_norm_silu(x, weight, bias, groups) -> Tensor:
    """The forward pass on x (B, C, L) that lies as (B, L, C), so given back."""
    batch, channels, length = x.shape
    sizes = {"channels": channels, "length": length, "groups": groups, "channels_last": 1, "eps": 1e-5}
    given = {"x": placed(x.transpose(1, 2)), "weight": placed(weight), "bias": placed(bias)}
    outputs = {
        "out": guarded((batch, length, channels), x.dtype),
        "statistics": guarded((batch, groups, 2), compute(x.dtype)),
    }
    run("group_norm_silu", batch * groups, outputs, {**given, **sizes, "dtype": x.dtype})
    return outputs["out"].transpose(1, 2).contiguous()


def group_norm_silu(x, weight, bias, groups) -> Tensor:
    def arguments(x, weight, bias) -> dict[str, object]:
        sizes = {"channels": x.shape[1], "length": x.shape[2], "groups": groups, "eps": 1e-5, "dtype": x.dtype}
        return {"x": placed(x), "weight": placed(weight), "bias": placed(bias), **sizes}

    def forward(x, weight, bias):
        outputs = {
            "out": guarded(tuple(x.shape), x.dtype),
            "statistics": guarded((x.shape[0], groups, 2), compute(x.dtype)),
        }
        run("group_norm_silu", x.shape[0] * groups, outputs, arguments(x, weight, bias))
        return outputs["out"], (x, weight, bias, outputs["statistics"])

    def backward(saved, grad):
        x, weight, bias, statistics = saved
        outputs = {"grad_x": guarded(tuple(x.shape), x.dtype)}
        outputs |= {f"partial_{name}": guarded(tuple(x.shape[:2]), compute(x.dtype)) for name in ("weight", "bias")}
        given = {"forward": {**arguments(x, weight, bias), "statistics": placed(statistics)}, "grad": placed(grad)}
        run("group_norm_silu_backward", x.shape[0] * groups, outputs, given)
        sums = [outputs[f"partial_{name}"].sum(0).to(x.dtype) for name in ("weight", "bias")]
        return outputs["grad_x"], *sums

    return differentiable(forward, backward)(x, weight, bias)
