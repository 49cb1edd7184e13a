"""Sizes of the published networks, read off the shapes of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

PATIENT_WIDTH = 3
HEADS_ATTRIBUTES = ("num_heads", "heads", "n_heads")

Shapes = Mapping[str, Sequence[int]]


def _count(shapes: Shapes, prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})


def _transformer(shapes: Shapes) -> dict[str, int]:
    """What `dit` and its ablations `dit_adaln` and `dit_attn` share."""
    hidden, channels = shapes["x_embedder.weight"]
    return {
        "hidden": hidden,
        "channels": channels,
        "depth": _count(shapes, "blocks."),
        "mlp_ratio": shapes["blocks.0.mlp.0.weight"][0] // hidden,
        "text_width": shapes["text_projector.weight"][1] - PATIENT_WIDTH,
        "base_width": shapes["ib_projector.weight"][1],
        "time_width": shapes["t_embedder.mlp.0.weight"][1],
    }


def _dit(shapes: Shapes) -> dict[str, int]:
    return _transformer(shapes) | {"max_tokens": shapes["c_pos_embed.pos_encoding"][1]}


def _adaln(shapes: Shapes) -> dict[str, int]:
    own = {"text_width": shapes["text_projector.weight"][1], "patient_width": shapes["p_embedder.norm"][0]}
    return _transformer(shapes) | own


def _attn(shapes: Shapes) -> dict[str, int]:
    if "blocks.0.cnorm.weight" not in shapes:
        raise KeyError("blocks.0.cnorm.weight")
    return _transformer(shapes)


def _extractor(shapes: Shapes) -> dict[str, int]:
    hidden, channels = shapes["signal_embedding.weight"]
    return {
        "hidden": hidden,
        "channels": channels,
        "layers": _count(shapes, "layers."),
        "feed_forward": shapes["layers.0.feed_forward.fc1.weight"][0],
        "text_width": shapes["text_projector.weight"][1] - PATIENT_WIDTH,
    }


def _encoder(shapes: Shapes) -> dict[str, object]:
    attention = next(name for name in shapes if name.endswith(".attention.in_proj.weight")).split(".")[0]
    levels = (int(attention) - 1) // 3
    return {
        "leads": shapes["0.weight"][1],
        "widths": tuple(shapes[f"{3 * level + 1}.conv_1.weight"][0] for level in range(levels)),
        "latent": shapes[f"{3 * levels + 6}.weight"][0] // 2,
    }


def _decoder(shapes: Shapes) -> dict[str, object]:
    latent, deepest = shapes["0.weight"][0], shapes["1.weight"][0]
    firsts = range(10, 10 + 5 * _count_levels(shapes), 5)
    widths = [shapes[f"{first}.conv_1.weight"][0] for first in firsts]
    return {"leads": shapes[f"{10 + 5 * len(widths)}.weight"][0], "widths": (*reversed(widths), deepest),
            "latent": latent}  # fmt: skip


def _count_levels(shapes: Shapes) -> int:
    return sum(f"{index}.conv_1.weight" in shapes for index in range(10, len(shapes), 5))


def _frame(shapes: Shapes) -> dict[str, object]:
    """What `unet` and `unet_adax` share."""
    levels = range(_count(shapes, "downsampling_blocks."))
    return {
        "channels": shapes["output_conv.0.weight"][0],
        "widths": tuple(shapes[f"downsampling_blocks.{level}.down.weight"][0] for level in levels),
        "kernel": shapes["downsampling_blocks.0.block.pre_shortcut_convs.weight"][-1],
    }


def _unet(shapes: Shapes) -> dict[str, object]:
    width = shapes["bottelneck.cross_attention.value_combiner.weight"][1]
    patient = () if width == 1536 else ("gender", "age", "heart rate")
    return _frame(shapes) | {
        "bottleneck_hidden": shapes["bottelneck.self_attention.to_q.weight"][0],
        "text_width": width - len(patient),
        "patient_keys": patient,
    }


def _unet_adax(shapes: Shapes) -> dict[str, object]:
    first, bottleneck = "downsampling_blocks.0.block.", "bottelneck."
    inner, hidden = shapes[f"{first}mlp.0.weight"]
    return _frame(shapes) | {
        "mlp_ratio": inner // hidden,
        "bottleneck_mlp": shapes[f"{bottleneck}mlp.0.weight"][0],
        "text_width": shapes[f"{bottleneck}text_projector.weight"][1] - PATIENT_WIDTH,
        "base_width": shapes[f"{bottleneck}ib_projector.weight"][1],
        "max_tokens": shapes[f"{bottleneck}c_pos_emb.pos_encoding"][1],
        "time_width": shapes[f"{bottleneck}time_emb.mlp.0.weight"][1],
    }


SIZES: dict[str, Callable[[Shapes], dict]] = {
    "dit": _dit,
    "ibe": _extractor,
    "enc": _encoder,
    "dec": _decoder,
    "unet": _unet,
    "dit_adaln": _adaln,
    "dit_attn": _attn,
    "unet_adax": _unet_adax,
}
"""By network, the arguments of `models.create` that shapes tell; KeyError, ValueError or StopIteration where a
parameter that they are read off is missing or of another rank."""

_LEVEL = "downsampling_blocks.0.block."
HEADS: dict[str, dict[str, str]] = {
    "dit": {"heads": "blocks.0.attn1"},
    "ibe": {"heads": "layers.0.self_attn"},
    "enc": {},
    "dec": {},
    "unet": {
        "heads": f"{_LEVEL}self_attention.attention",
        "bottleneck_heads": "bottelneck.self_attention.attention",
    },
    "dit_adaln": {"heads": "blocks.0.attn"},
    "dit_attn": {"heads": "blocks.0.attn1"},
    "unet_adax": {"heads": f"{_LEVEL}attn", "bottleneck_heads": "bottelneck.attn"},
}
"""By network, the submodules whose attribute says what no shape tells: a number of heads."""


def heads_of(module: nn.Module, name: str, heads: int | None) -> dict[str, int]:
    """Numbers of heads that the module's attributes tell; `heads`, where given, is that of the main attentions."""
    found, parts = {}, dict(module.named_modules())
    for size, path in HEADS[name].items():
        owner = parts.get(path)
        known = (getattr(owner, key, None) for key in HEADS_ATTRIBUTES)
        number = next((value for value in known if isinstance(value, int)), None)
        if number is not None:
            found[size] = number
    if heads is not None and "heads" in HEADS[name]:
        found["heads"] = heads
    return found
