"""Import of the published checkpoints: PyTorch state dicts and configuration YAML to a model directory.

Parameter names stay as they are. Files are read with `weights_only=True`: nothing in them is executed.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from . import NOTICE
from .errors import CheckpointError
from .pretrained import ModelConfig, State, check_state, write_model
from .samplers import BETA_END, BETA_START, TRAIN_STEPS

TEXT_ENCODER, TEXT_WIDTH = "nomic", 768

# Our size <- key of the section `DiT` or `ibe` under `hyper_para`, or of the extractor's own file at its top level.
DENOISER_KEYS = {"hidden": "hidden_size", "depth": "depth", "heads": "num_heads", "patient_width": "patient_info_size"}
EXTRACTOR_KEYS = {
    "hidden": "embed_dim",
    "layers": "num_layers",
    "heads": "num_heads",
    "feed_forward": "ff_hidden_size",
    "text_width": "text_embed_dim",
    "patient_width": "patient_info_size",
}
_DDPM = {"num_train_steps": TRAIN_STEPS, "beta_start": BETA_START, "beta_end": BETA_END}

_CARD = """# ECGTwin, imported from its published checkpoints

Autoencoder `{vae}`, Individual Base Extractor `{extractor}`, denoiser `{denoiser}`; parameter names and values are the
published ones. Paper: ECGTwin, arXiv 2508.02720. The checkpoints' own licence applies.

Statements are embedded by nomic-embed-text-v1.5, which needs `pip install 'ecgtwin-fast[text]'`.
{inference}
{notice}
"""


def import_published(
    vae: str | Path, extractor: str | Path, denoiser: str | Path, out: str | Path, configs: Sequence[str | Path] = ()
) -> ModelConfig:
    """Turn the published .pth files into the model directory `out`, and return its configuration.

    Args:
        vae: file with the state dicts `encoder` and `decoder`. extractor, denoiser: files with one state dict each.
        configs: published YAML files, read for sizes (`hyper_para`; the extractor's own file has them at its top
            level) and for the suggested steps (`inference_setting`); without them the published sizes are taken.

    Raises:
        CheckpointError: a file is missing, damaged or of another size; names it and the first parameter that differs.
    """
    sizes, steps = read_configs([Path(path) for path in configs])
    config = ModelConfig(sizes, TEXT_ENCODER, sizes["extractor"].get("text_width", TEXT_WIDTH))
    files = {"encoder": vae, "decoder": vae, "extractor": extractor, "denoiser": denoiser}
    files = {role: Path(path) for role, path in files.items()}
    both = _load(files["encoder"])
    states: dict[str, State] = {}
    for role, path in files.items():
        state = both.get(role) if role in ("encoder", "decoder") else _load(path)
        if not isinstance(state, Mapping):
            keys = ", ".join(map(str, list(both)[:4]))
            raise CheckpointError(f"{path}: holds no state dict {role!r}; its first keys are: {keys or 'none'}")
        check_state(config.empty_network(role, path), state, path)
        states[role] = state
    inference = f"\nThe published setting is the `ddpm` sampler with {steps} steps.\n" if steps else ""
    names = {"vae": files["encoder"].name, "extractor": files["extractor"].name, "denoiser": files["denoiser"].name}
    write_model(out, config, states, _CARD.format(**names, inference=inference, notice=NOTICE))
    return config


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: not readable as PyTorch weights (truncated or damaged?): {reason}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a state dict")
    return content


def read_configs(paths: Sequence[Path]) -> tuple[dict[str, dict], int | None]:
    """Sizes by role, and the steps that `inference_setting` suggests."""
    sizes: dict[str, dict] = {role: {} for role in ("encoder", "decoder", "extractor", "denoiser")}
    steps = None
    for path in paths:
        content = read_yaml(path)
        hyper = _section(content, "hyper_para", path)
        sizes["denoiser"] |= _sizes(_section(hyper, "DiT", path), DENOISER_KEYS, path)
        own = content if "hyper_para" not in content else _section(hyper, "ibe", path)
        sizes["extractor"] |= _sizes(own, EXTRACTOR_KEYS, path)
        for key, value in _section(hyper, "ddpm", path).items():
            if key in _DDPM and value != _DDPM[key]:
                raise CheckpointError(f"{path}: hyper_para.ddpm.{key} is {value!r}, the samplers have {_DDPM[key]!r}")
        steps = _section(content, "inference_setting", path).get("inference_timestep", steps)
    for ours, theirs in (("base_width", "hidden"), ("text_width", "text_width")):
        if theirs in sizes["extractor"]:
            sizes["denoiser"][ours] = sizes["extractor"][theirs]
    return sizes, steps


def _sizes(section: Mapping[str, Any], keys: Mapping[str, str], path: Path) -> dict[str, int]:
    found = {ours: section[theirs] for ours, theirs in keys.items() if theirs in section}
    for ours, value in found.items():
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{path}: {keys[ours]} is {value!r}, expected a positive integer")
    return found


def _section(content: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    section = content.get(key, {})
    if not isinstance(section, Mapping):
        raise CheckpointError(f"{path}: {key} is {section!r}, expected a section")
    return section


def read_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected sections such as hyper_para")
    return content
