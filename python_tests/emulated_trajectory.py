"""The kernels of backend "cuda", emulated: what the bindings of csrc do around them is done here again."""

from __future__ import annotations

import ctypes
import functools

import torch
from cuda_emulation import ARGUMENTS, ORDERS, check_guards, guarded, library, placed, pointer, run
from torch import Tensor

from ecgtwin_fast.engine.cuda_trajectory import Kernels


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    groups, rows, inner = max(len(x), len(weight)), x.shape[1], x.shape[2]
    given = {"x": placed(x), "weight": placed(weight), "bias": placed(bias)}
    sizes = {"rows": rows, "columns": weight.shape[1], "inner": inner, "dtype": x.dtype}
    strides = {f"{name}_stride": 0 if t is None or len(t) == 1 else t[0].numel() for name, t in given.items()}
    outputs = {"out": guarded((groups, rows, weight.shape[1]), torch.float32)}
    run("linear", groups, outputs, given | sizes | strides)
    return outputs["out"]


NETWORK = "weights biases embed_weight embed_bias cosine sine final_weight final_bias".split()
KNOWN = "keys values score_bias counts condition_of".split()


def trajectory(
    newest, network, table, base_of, known, coefficients, noise, latents, clean, taken, head, seed, first_index,
    first_step, draws, blocks,
) -> None:  # fmt: skip
    """In every order of blocks and threads; `latents` and `clean` are changed to what came of all of them.

    newest: as on a device of sm_90a.
    """
    values = dict(zip(NETWORK + KNOWN, network + known, strict=True))
    values |= {"modulation": table, "base_of": base_of, "coefficients": coefficients, "noise": noise}
    integers = ("base_of", "counts", "condition_of")
    kept = {
        name: value.contiguous() if value is None or name in integers else placed(value)
        for name, value in values.items()
        if value is not None
    }
    records, channels, length = latents.shape
    width, depth = len(values["embed_bias"]), known[0].shape[1]
    sizes = {
        "records": records, "channels": channels, "length": length, "width": width, "head": head, "depth": depth,
        "units": len(values["biases"]) // depth - 3 * width, "tokens": known[2].shape[-1], "steps": len(coefficients),
        "seed": seed % 2**64, "first_index": first_index, "first_step": first_step, "draws": int(draws),
    }  # fmt: skip
    found = []
    for order in range(len(ORDERS)):
        changed = {"latents": placed(latents), "clean": placed(clean), "taken": torch.zeros_like(taken)}
        pointers = {name: pointer(value) for name, value in (kept | changed).items()}
        library().set_order(order, 7)
        library().set_newest(newest)
        status = library().trajectory(ctypes.byref(ARGUMENTS["trajectory"](**pointers, **sizes)), blocks)
        assert status == 0, f"{ORDERS[order]}: {library().last_error().decode()}"
        assert int(changed["taken"]) == records + blocks
        for name in ("latents", "clean"):
            check_guards(changed[name])
        found.append((changed["latents"], changed["clean"]))
    assert all(torch.equal(one, other) for pair in found[1:] for one, other in zip(found[0], pair, strict=True))
    latents.copy_(found[0][0])
    clean.copy_(found[0][1])


EMULATED = {
    architecture: Kernels(linear, functools.partial(trajectory, newest))
    for architecture, newest in {"sm_80": False, "sm_90a": True}.items()
}
