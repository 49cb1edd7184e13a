"""Model directories: config.json, one safetensors file for each network, and a model card.

Parameter names are the published ones, without prefix; weights may be stored in any float type and are loaded as
float32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import models
from .data.leads import MODEL_LEADS
from .data.preprocess import SAMPLES, SAMPLING_RATE
from .errors import CheckpointError, TextEncoderError
from .staging import staged_folder

FORMAT_VERSION = 1
MODEL_TYPE = "ecgtwin"
NETWORKS = {"encoder": "enc", "decoder": "dec", "extractor": "ibe", "denoiser": "dit"}
BUNDLED = Path(__file__).parent / "bundled"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_INPUT = {"sampling_rate": SAMPLING_RATE, "samples": SAMPLES, "leads": list(MODEL_LEADS)}
_WIDTH = 768  # of the published text embedding
_HIDDEN = 256  # of the published base vector
_LATENT = 4

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class ModelConfig:
    """What config.json holds.

    sizes: for each of encoder, decoder, extractor and denoiser, the keyword arguments of `models.create` that differ
    from the published ones. text_encoder: a name that `data.text.text_encoder` knows. text_width: of its vectors.
    """

    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    text_encoder: str = "hash"
    text_width: int = _WIDTH

    def size(self, role: str, key: str, published: int) -> int:
        return self.sizes.get(role, {}).get(key, published)

    def to_json(self) -> dict:
        networks = {
            role: {"network": network, "sizes": dict(self.sizes.get(role, {}))} for role, network in NETWORKS.items()
        }
        text = {"name": self.text_encoder, "width": self.text_width}
        return {"format_version": FORMAT_VERSION, "model_type": MODEL_TYPE, **networks, "text_encoder": text, **_INPUT}

    def empty_network(self, role: str, path: Path) -> nn.Module:
        """The network of a role without storage for its weights; CheckpointError naming `path` for unknown sizes."""
        try:
            with torch.device("meta"):
                return models.create(NETWORKS[role], **self.sizes.get(role, {}))
        except (TypeError, ValueError, AssertionError, RuntimeError, IndexError, ZeroDivisionError) as error:
            raise CheckpointError(f"{path}: sizes of the {role} do not make a network: {error}") from error


def read_config(path: Path) -> ModelConfig:
    """Read and check a config.json. Raises CheckpointError, or TextEncoderError for a text encoder of another width."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; a model directory needs its {CONFIG_FILE}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    expected = {"format_version": FORMAT_VERSION, "model_type": MODEL_TYPE, **_INPUT}
    for key, value in expected.items():
        if _entry(content, key, path) != value:
            raise CheckpointError(f"{path}: {key} is {content[key]!r}, this release reads {value!r}")
    sizes = {}
    for role, network in NETWORKS.items():
        if _entry(content, role, path, "network") != network:
            raise CheckpointError(f"{path}: {role} is a network {content[role]['network']!r}, expected {network!r}")
        sizes[role] = _entry(content, role, path, "sizes")
        if not isinstance(sizes[role], dict):
            raise CheckpointError(f"{path}: sizes of the {role} are {sizes[role]!r}, expected an object")
    name, width = (_entry(content, "text_encoder", path, key) for key in ("name", "width"))
    config = ModelConfig(sizes, str(name), width)
    check_agreement(config, path)
    return config


def check_agreement(config: ModelConfig, path: Path) -> None:
    """Raise unless the widths fit where one part hands over to the next; messages name `path`."""
    for role in ("extractor", "denoiser"):
        width = config.size(role, "text_width", _WIDTH)
        if width != config.text_width:
            raise TextEncoderError(
                f"{path}: text encoder {config.text_encoder!r} gives vectors of width {config.text_width}, "
                f"the {role} takes {width}"
            )
    hidden, base = config.size("extractor", "hidden", _HIDDEN), config.size("denoiser", "base_width", _HIDDEN)
    if hidden != base:
        raise CheckpointError(f"{path}: the extractor gives base vectors of width {hidden}, the denoiser takes {base}")
    keys = {"encoder": "latent", "decoder": "latent", "extractor": "channels", "denoiser": "channels"}
    channels = {role: config.size(role, key, _LATENT) for role, key in keys.items()}
    if len(set(channels.values())) > 1:
        raise CheckpointError(f"{path}: channels of a latent differ between the networks: {channels}")


def check_state(network: nn.Module, state: State, path: Path) -> None:
    """CheckpointError naming `path` and the first parameter that is missing, unknown or of another shape."""
    expected = network.state_dict()
    for name, parameter in expected.items():
        if name not in state:
            raise CheckpointError(f"{path}: parameter {name} is missing")
        found = state[name]
        if not isinstance(found, Tensor) or not found.is_floating_point():
            kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise CheckpointError(f"{path}: parameter {name} is {kind}, expected floating-point numbers")
        if found.shape != parameter.shape:
            raise CheckpointError(
                f"{path}: parameter {name} has shape {tuple(found.shape)}, the network has {tuple(parameter.shape)}"
            )
    unknown = next((name for name in state if name not in expected), None)
    if unknown is not None:
        raise CheckpointError(f"{path}: parameter {unknown} is not in the network")


def read_model(folder: str | Path) -> tuple[ModelConfig, dict[str, nn.Module], str]:
    """The configuration, the networks by role (float32, on the CPU, in eval mode) and the model card of a directory.

    Raises CheckpointError or TextEncoderError naming the file and the first parameter that does not fit.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG_FILE)
    networks = {}
    for role in NETWORKS:
        network = config.empty_network(role, folder / CONFIG_FILE)
        path = folder / f"{role}.safetensors"
        state = _read_safetensors(path)
        check_state(network, state, path)
        network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
        networks[role] = network.eval().requires_grad_(False)
    card = folder / CARD_FILE
    return config, networks, card.read_text(encoding="utf-8") if card.is_file() else ""


def write_model(
    folder: str | Path,
    config: ModelConfig,
    states: Mapping[str, State],
    card: str,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model directory, complete or not at all.

    Args:
        states: the state dict of each role. card: text of README.md. dtype: float type to store; None keeps the given.

    Raises:
        CheckpointError, TextEncoderError: states and configuration do not fit.
    """
    from safetensors.torch import save

    folder = Path(folder)
    check_agreement(config, folder / CONFIG_FILE)
    for role in NETWORKS:
        check_state(config.empty_network(role, folder / CONFIG_FILE), states[role], folder / f"{role}.safetensors")
    with staged_folder(folder) as scratch:
        for role in NETWORKS:
            # A copy of its own for each: safetensors refuses tensors that share memory.
            state = {
                name: value.detach().to("cpu", dtype, copy=True).contiguous() for name, value in states[role].items()
            }
            (scratch / f"{role}.safetensors").write_bytes(save(state, metadata={"format": "pt"}))
        (scratch / CONFIG_FILE).write_text(json.dumps(config.to_json(), indent=2) + "\n", encoding="utf-8")
        (scratch / CARD_FILE).write_text(card, encoding="utf-8")


def find_model(model: str | Path) -> Path:
    """The directory of a model: 'bundled', a directory, or a Hugging Face hub id 'organisation/name' (downloaded).

    Raises CheckpointError where there is none.
    """
    if str(model) == "bundled":
        if not (BUNDLED / CONFIG_FILE).is_file():
            raise CheckpointError(f"{BUNDLED}: this installation carries no bundled model; name a model directory")
        return BUNDLED
    if Path(model).is_dir():
        return Path(model)
    if Path(model).exists():
        raise CheckpointError(f"{model}: is a file, expected a model directory")
    if not _HUB_ID.fullmatch(str(model)):
        raise CheckpointError(f"{model}: no such model directory")
    return _download(str(model))


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=[CONFIG_FILE, CARD_FILE, "*.safetensors"]))
    except Exception as error:  # network, hub and file errors of many classes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{hub_id}: no such model directory here, and the Hugging Face hub does not give it: {reason}"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors (truncated or damaged?): {error}") from error


def _entry(content: Any, key: str, path: Path, inner: str | None = None) -> Any:
    value = content.get(key) if isinstance(content, dict) else None
    if value is not None and inner is not None:
        key, value = f"{key}.{inner}", value.get(inner) if isinstance(value, dict) else None
    if value is None:
        raise CheckpointError(f"{path}: {key} is missing")
    return value
