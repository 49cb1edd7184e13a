"""Model directories: config.json, one safetensors file for each network, and a model card. A network that another
directory has too may be read from there: its entry in config.json then has "weights", the file's relative path.

Parameter names are the published ones, without prefix; weights may be stored in any float type and are loaded as
float32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import models
from .data.leads import MODEL_LEADS
from .data.preprocess import SAMPLES, SAMPLING_RATE
from .errors import CheckpointError, TextEncoderError
from .staging import staged_folder

FORMAT_VERSION = 1
NETWORKS = {"encoder": "enc", "decoder": "dec", "extractor": "ibe", "denoiser": "dit"}
"""Of ECGTwin, by role."""
BUNDLED = Path(__file__).parent / "bundled"
BUNDLED_DIFFUSETS = Path(__file__).parent / "bundled_diffusets"
BUNDLED_CLIP = Path(__file__).parent / "bundled_evaluation" / "clip"
"""ECG-text encoder of the evaluation, a folder as training leaves it."""
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_INPUT = {"sampling_rate": SAMPLING_RATE, "samples": SAMPLES, "leads": list(MODEL_LEADS)}
_WIDTH = 768  # of the published text embedding
_HIDDEN = 256  # of the published base vector
_LATENT = 4
LATENT_LENGTH = SAMPLES // 8
PATIENT_KEYS = ("gender", "age", "heart rate")
"""What DiffuSETS's U-Net may be given besides the prompt."""

State = Mapping[str, Tensor]


class ModelType(NamedTuple):
    """The class that loads it, its networks by role, the width of its published text embedding, and networks that may
    stand in the denoiser's place."""

    title: str
    networks: Mapping[str, str]
    text_width: int
    ablations: tuple[str, ...] = ()


MODEL_TYPES = {
    "ecgtwin": ModelType("ECGTwin", NETWORKS, _WIDTH, ("dit_adaln", "dit_attn")),
    "diffusets": ModelType("DiffuSETS", {"decoder": "dec", "denoiser": "unet"}, 1536),
}


@dataclass(frozen=True)
class ModelConfig:
    """What config.json holds.

    sizes: for each role of the model type's networks, the keyword arguments of `models.create` that differ from the
    published ones. text_encoder: a name that `data.text.text_encoder` knows. text_width: of its vectors. model_type: a
    key of MODEL_TYPES. denoiser: name of an ablation's network in the place of the model type's own.
    """

    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    text_encoder: str = "hash"
    text_width: int = _WIDTH
    model_type: str = "ecgtwin"
    denoiser: str | None = None

    @property
    def networks(self) -> Mapping[str, str]:
        """Name of the network (`models.create`) in each role."""
        own = MODEL_TYPES[self.model_type].networks
        return own if self.denoiser is None else {**own, "denoiser": self.denoiser}

    def size(self, role: str, key: str, published: int) -> int:
        return self.sizes.get(role, {}).get(key, published)

    def to_json(self) -> dict:
        networks = {
            role: {"network": network, "sizes": dict(self.sizes.get(role, {}))}
            for role, network in self.networks.items()
        }
        text = {"name": self.text_encoder, "width": self.text_width}
        about = {"format_version": FORMAT_VERSION, "model_type": self.model_type}
        return {**about, **networks, "text_encoder": text, **_INPUT}

    def empty_network(self, role: str, path: Path) -> nn.Module:
        """The network of a role without storage for its weights; CheckpointError naming `path` for unknown sizes."""
        try:
            with torch.device("meta"):
                return models.create(self.networks[role], **self.sizes.get(role, {}))
        except (TypeError, ValueError, AssertionError, RuntimeError, IndexError, ZeroDivisionError) as error:
            raise CheckpointError(f"{path}: sizes of the {role} do not make a network: {error}") from error


def read_config(path: Path, model_type: str = "ecgtwin") -> ModelConfig:
    """Read and check a config.json. Raises CheckpointError, or TextEncoderError for a text encoder of another width."""
    content = _read_json(path)
    found = _model_type(content, path)
    if found != model_type:
        title, other = MODEL_TYPES[found].title, MODEL_TYPES[model_type].title
        raise CheckpointError(f"{path}: model_type is {found!r}: {title} loads it, and {other} was asked to")
    for key, value in {"format_version": FORMAT_VERSION, **_INPUT}.items():
        if _entry(content, key, path) != value:
            raise CheckpointError(f"{path}: {key} is {content[key]!r}, this release reads {value!r}")
    sizes, denoiser = {}, None
    for role, network in MODEL_TYPES[model_type].networks.items():
        name = _entry(content, role, path, "network")
        if role == "denoiser" and name in MODEL_TYPES[model_type].ablations:
            denoiser = name
        elif name != network:
            raise CheckpointError(f"{path}: {role} is a network {name!r}, expected {network!r}")
        sizes[role] = _entry(content, role, path, "sizes")
        if not isinstance(sizes[role], dict):
            raise CheckpointError(f"{path}: sizes of the {role} are {sizes[role]!r}, expected an object")
    name, width = (_entry(content, "text_encoder", path, key) for key in ("name", "width"))
    config = ModelConfig(sizes, str(name), width, model_type, denoiser)
    check_agreement(config, path)
    return config


def read_model_type(folder: Path) -> str:
    """"ecgtwin" or "diffusets", as a model directory's config.json says. CheckpointError for any other."""
    path = folder / CONFIG_FILE
    return _model_type(_read_json(path), path)


def weight_files(folder: Path) -> dict[str, Path]:
    """The file with the weights of each role of a model directory whose config.json can be read."""
    content = _read_json(folder / CONFIG_FILE)
    roles = MODEL_TYPES[_model_type(content, folder / CONFIG_FILE)].networks
    return {role: folder / content[role].get("weights", f"{role}.safetensors") for role in roles}


def check_agreement(config: ModelConfig, path: Path) -> None:
    """Raise unless the widths fit where one part hands over to the next; messages name `path`."""
    for role in ("extractor", "denoiser"):
        if role not in config.networks:
            continue
        width = config.size(role, "text_width", MODEL_TYPES[config.model_type].text_width)
        if width != config.text_width:
            raise TextEncoderError(
                f"{path}: text encoder {config.text_encoder!r} gives vectors of width {config.text_width}, "
                f"the {role} takes {width}"
            )
    if "extractor" in config.networks:
        hidden, base = config.size("extractor", "hidden", _HIDDEN), config.size("denoiser", "base_width", _HIDDEN)
        if hidden != base:
            vectors = f"base vectors of width {hidden}"
            raise CheckpointError(f"{path}: the extractor gives {vectors}, the denoiser takes {base}")
    keys = {"encoder": "latent", "decoder": "latent", "extractor": "channels", "denoiser": "channels"}
    channels = {role: config.size(role, keys[role], _LATENT) for role in config.networks}
    if len(set(channels.values())) > 1:
        raise CheckpointError(f"{path}: channels of a latent differ between the networks: {channels}")
    if config.networks["denoiser"] == "unet":
        _check_unet(config.sizes.get("denoiser", {}), path)


def _check_unet(sizes: Mapping[str, Any], path: Path) -> None:
    """Raise unless the U-Net can take the decoder's latents and knows the numbers that it asks for."""
    length, widths = sizes.get("length", LATENT_LENGTH), sizes.get("widths", ())
    if length != LATENT_LENGTH:
        raise CheckpointError(f"{path}: the denoiser takes latents of length {length}, the decoder {LATENT_LENGTH}")
    if isinstance(widths, (list, tuple)) and LATENT_LENGTH % 2 ** len(widths):
        raise CheckpointError(
            f"{path}: the denoiser halves the length {len(widths)} times, a latent of {LATENT_LENGTH} allows 7"
        )
    keys = sizes.get("patient_keys", ())
    unknown = [key for key in keys if key not in PATIENT_KEYS] if isinstance(keys, (list, tuple)) else [keys]
    if unknown:
        raise CheckpointError(f"{path}: patient_keys holds {unknown[0]!r}, known: {', '.join(PATIENT_KEYS)}")


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


def read_model(
    folder: str | Path, model_type: str = "ecgtwin"
) -> tuple[ModelConfig, dict[str, nn.Module], str]:
    """The configuration, the networks by role (float32, on the CPU, in eval mode) and the model card of a directory.

    Raises CheckpointError or TextEncoderError naming the file and the first parameter that does not fit.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG_FILE, model_type)
    networks = {}
    for role, path in weight_files(folder).items():
        network = config.empty_network(role, folder / CONFIG_FILE)
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
    shared: Mapping[str, str] | None = None,
) -> None:
    """Write a model directory, complete or not at all.

    Args:
        states: the state dict of each role. card: text of README.md. dtype: float type to store; None keeps the given.
        shared: the file, relative to the directory, in which the weights of a role already are.

    Raises:
        CheckpointError, TextEncoderError: states and configuration do not fit.
    """
    from safetensors.torch import save

    folder = Path(folder)
    check_agreement(config, folder / CONFIG_FILE)
    for role in config.networks:
        check_state(config.empty_network(role, folder / CONFIG_FILE), states[role], folder / f"{role}.safetensors")
    shared, content = shared or {}, config.to_json()
    for role, file in shared.items():
        content[role]["weights"] = file
    with staged_folder(folder) as scratch:
        for role in config.networks.keys() - shared.keys():
            # A copy of its own for each: safetensors refuses tensors that share memory.
            state = {
                name: value.detach().to("cpu", dtype, copy=True).contiguous() for name, value in states[role].items()
            }
            (scratch / f"{role}.safetensors").write_bytes(save(state, metadata={"format": "pt"}))
        (scratch / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (scratch / CARD_FILE).write_text(card, encoding="utf-8")


def find_model(model: str | Path) -> Path:
    """The directory of a model: 'bundled' and 'diffusets', the package's own, a directory, or a Hugging Face hub id
    'organisation/name' (downloaded).

    Raises CheckpointError where there is none.
    """
    own = {"bundled": BUNDLED, "diffusets": BUNDLED_DIFFUSETS}.get(str(model))
    if own is not None:
        if not (own / CONFIG_FILE).is_file():
            raise CheckpointError(f"{own}: this installation carries no {model} model; name a model directory")
        return own
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


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; a model directory needs its {CONFIG_FILE}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error


def _model_type(content: Any, path: Path) -> str:
    found = _entry(content, "model_type", path)
    if str(found) not in MODEL_TYPES:
        known = ", ".join(map(repr, MODEL_TYPES))
        raise CheckpointError(f"{path}: model_type is {found!r}, this release reads {known}")
    return found


def _entry(content: Any, key: str, path: Path, inner: str | None = None) -> Any:
    value = content.get(key) if isinstance(content, dict) else None
    if value is not None and inner is not None:
        key, value = f"{key}.{inner}", value.get(inner) if isinstance(value, dict) else None
    if value is None:
        raise CheckpointError(f"{path}: {key} is missing")
    return value
