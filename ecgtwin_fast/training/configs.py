"""Configurations of the training stages: presets, files, and overrides of single values.

The defaults of the classes are the published hyper-parameters (arXiv 2508.02720); where the paper states none, the
docstring says so. A configuration is saved as config.json beside what it trained.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .. import published
from ..errors import ECGTwinError
from .loop_config import LoopConfig
from .presets import PRESETS

DENOISERS = ("dit", "dit_adaln", "dit_attn")
RUN_KEYS = ("stage", "inputs")
"""What a run's config.json holds besides the stage's configuration: digests of the store and of weights built on."""


class ConfigError(ECGTwinError):
    """A configuration file or override names an unknown key or holds a value that does not fit."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """The VAE (arXiv 2501.05932). The number of epochs is ours.

    sizes: arguments of `models.create` for "enc" and "dec" that differ from the published. kl_ramp_epochs: passes in
    which the KL's weight rises from 0.1 to 1; kl_ramp_steps counts steps instead. scale_range: every record is
    multiplied by a number drawn from it. lead_mix: spread of `augment.lead_mixtures`. shift: begin every record
    anywhere, its end followed by its beginning. lead_balance: in mV^2; a lead's squared error is multiplied by
    lead_balance / (lead_balance + its variance), so that leads of low voltage are learned too; None weighs all alike.
    real_share: share of a batch that are real records, where the store has both kinds, and of these the recordings
    themselves, where the store has variants made of them; None draws uniformly.
    standardise: fold a scale and an offset into the trained networks, so that latents have mean 0 and standard
    deviation 1.
    """

    loop: LoopConfig = LoopConfig(
        epochs=50, batch=256, learning_rate=2e-4, final_learning_rate=8e-10, schedule="one-cycle"
    )
    sizes: dict[str, Any] = field(default_factory=dict)
    kl_ramp_epochs: float = 10.0
    kl_ramp_steps: int | None = None
    scale_range: tuple[float, float] | None = None
    lead_mix: float = 0.0
    shift: bool = False
    lead_balance: float | None = None
    real_share: float | None = None
    standardise: bool = False


@dataclass(frozen=True)
class ExtractorConfig:
    """The Individual Base Extractor, stage 1.

    loop.batch pairs a step come in mini-batches of `mini_batch` people, each contrasted within itself;
    gradient_caching contrasts the whole batch instead, with the same memory (Gao et al. 2021). condition_dropout:
    probability of a mini-batch without conditions. per_patient: most pairs of one person, None for all. both_orders:
    also pairs whose reference is the later record. sizes: of "ibe"; new extractors mask padding properly.
    """

    loop: LoopConfig = LoopConfig(
        epochs=50, batch=65_536, learning_rate=1e-3, final_learning_rate=1e-3, weight_decay=1e-3
    )
    sizes: dict[str, Any] = field(default_factory=lambda: {"float_mask": False})
    mini_batch: int = 512
    gradient_caching: bool = False
    condition_dropout: float = 0.15
    per_patient: int | None = None
    both_orders: bool = False


@dataclass(frozen=True)
class NoiseConfig:
    """What the stages that learn to predict noise share.

    first_timestep, last_timestep: t is uniform between them. focus: timesteps (first, last) from which focus_share of
    the records draw theirs instead. x0_weight: of the squared error of the clean latent that the predicted noise
    implies, 0.1 where used. snr_weight: "none" as published, "min" for min(SNR, gamma) / SNR (Hang et al. 2023), "soft"
    for gamma / (gamma + SNR). real_share: of a batch, as of the autoencoder.
    """

    first_timestep: int = 1
    last_timestep: int = 997
    focus: tuple[int, int] | None = None
    focus_share: float = 0.8
    x0_weight: float = 0.0
    snr_weight: str = "none"
    snr_gamma: float = 5.0
    real_share: float | None = None

    def __post_init__(self) -> None:
        if self.snr_weight not in ("none", "min", "soft"):
            raise ConfigError(f"snr_weight is {self.snr_weight!r}, expected 'none', 'min' or 'soft'")
        if not 0 <= self.first_timestep <= self.last_timestep < 1000:
            raise ConfigError(f"timesteps {self.first_timestep}..{self.last_timestep}: expected within 0..999")


@dataclass(frozen=True)
class DenoiserConfig(NoiseConfig):
    """The diffusion transformer, stage 2.

    base_dropout: share of the base vector's dimensions that are zeroed, the same for the whole batch. per_patient,
    both_orders: as of the extractor. real_share: of a batch's pairs. identity_start: blocks begin as the identity and
    the output at zero (Peebles and Xie 2023), and the position-carrying bias of the input strong, which makes rhythm
    learnable sooner. standardise: train on whitened statements, and fold the whitening into the trained network, which
    then takes them as they are. network: "dit", or the paper's ablations "dit_adaln" and "dit_attn". without: for
    ablations, what the denoiser never sees: "base", the base vector, or "report"; the weights that take it are and stay
    zero. sizes: of the network.
    """

    loop: LoopConfig = LoopConfig(epochs=30, batch=512, learning_rate=1e-4, final_learning_rate=1e-5)
    sizes: dict[str, Any] = field(default_factory=dict)
    base_dropout: float = 0.15
    per_patient: int | None = None
    both_orders: bool = False
    identity_start: bool = False
    standardise: bool = False
    network: str = "dit"
    without: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network not in DENOISERS:
            raise ConfigError(f"network is {self.network!r}, expected one of {', '.join(DENOISERS)}")
        if self.without not in (None, "base", "report"):
            raise ConfigError(f"without is {self.without!r}, expected 'base' or 'report'")


@dataclass(frozen=True)
class DiffuSETSConfig(NoiseConfig):
    """DiffuSETS's U-Net (arXiv 2501.05932), on single records. The number of epochs and the rates are ours.

    standardise: train on condition tokens of mean 0 with whitened prompts, prompt and patient weighing alike, and fold
    that into the trained network, which then takes the published ones. sizes: of "unet".
    """

    loop: LoopConfig = LoopConfig(epochs=100, batch=512, learning_rate=1e-3, final_learning_rate=1e-5)
    sizes: dict[str, Any] = field(default_factory=dict)
    standardise: bool = False


@dataclass(frozen=True)
class ClipConfig:
    """The ECG-text encoder of the metrics (arXiv 2501.05932). The paper states no schedule: epochs and rates are ours.

    All loop.batch records of a step are contrasted with one another; `mini_batch` of them are computed at a time, by
    one process. sizes: of "clip".
    """

    loop: LoopConfig = LoopConfig(epochs=30, batch=512, learning_rate=1e-3, final_learning_rate=1e-5)
    sizes: dict[str, Any] = field(default_factory=dict)
    mini_batch: int = 512


StageConfig = AutoencoderConfig | ExtractorConfig | DenoiserConfig | ClipConfig | DiffuSETSConfig
STAGES: Mapping[str, type] = MappingProxyType(
    {
        "autoencoder": AutoencoderConfig, "extractor": ExtractorConfig, "denoiser": DenoiserConfig, "clip": ClipConfig,
        "diffusets": DiffuSETSConfig,
    }
)  # fmt: skip

# Key of the published YAML's `hyper_para`, or of the extractor's own file at its top level -> our key.
_PUBLISHED = {"epochs": "epochs", "epoch": "epochs", "batch_size": "batch", "lr": "learning_rate"}
_PUBLISHED |= {"learning_rate": "learning_rate", "weight_decay": "weight_decay", "seed": "seed"}


def preset_config(stage: str, preset: str = "paper") -> StageConfig:
    """The configuration of a stage, a key of STAGES, in a preset, a key of PRESETS."""
    return merged(STAGES[stage](), PRESETS[preset][stage], f"preset {preset}")


def stage_config(
    stage: str, preset: str = "paper", file: str | Path | None = None, overrides: Sequence[str] = ()
) -> StageConfig:
    """A preset, with the values of a file and then of `overrides` such as "loop.steps=100" put over it.

    file: our JSON or YAML, with the keys of the stage's configuration or with one section a stage, or the published
    YAML (`hyper_para`, or the extractor's own file). Raises ConfigError naming a key that does not exist.
    """
    config = preset_config(stage, preset)
    if file is not None:
        file = Path(file)
        config = merged(config, _read(file, stage), str(file))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected key=value, such as loop.steps=100")
        value: Any = _value(text)
        for name in reversed(key.strip().split(".")):
            value = {name: value}
        config = merged(config, value, f"--set {override}")
    return config


def merged(config: Any, values: Mapping[str, Any], source: str, where: str = "") -> Any:
    """A dataclass with `values` put over it, section by section; ConfigError naming `source` and the key."""
    known = {f.name: f for f in dataclasses.fields(config)}
    changes = {}
    for key, value in values.items():
        name = f"{where}{key}"
        if key not in known:
            raise ConfigError(f"{source}: unknown key {name!r}; known here: {', '.join(known)}")
        current = getattr(config, key)
        if dataclasses.is_dataclass(current):
            changes[key] = merged(current, _mapping(value, name, source), source, f"{name}.")
        elif isinstance(current, dict):
            changes[key] = {**current, **_mapping(value, name, source)}
        else:
            changes[key] = _fitted(value, known[key].type, name, source)
    # Whoever gives epochs does not want the preset's steps, and the other way round.
    for one, other in (("steps", "epochs"), ("epochs", "steps"), ("kl_ramp_epochs", "kl_ramp_steps")):
        if changes.get(one) is not None and other in known and other not in changes:
            changes[other] = None
    return replace(config, **changes)


def to_dict(config: StageConfig) -> dict[str, Any]:
    """As JSON holds it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _mapping(value: Any, name: str, source: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{source}: {name} is {value!r}, expected a section")
    return value


def _fitted(value: Any, type_name: str, name: str, source: str) -> Any:
    """`value` as the annotation says."""
    optional = type_name.endswith(" | None")
    kind = type_name.removesuffix(" | None")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None and optional:
        return None
    if kind == "float" and number:
        return float(value)
    if kind == "int" and number and value == int(value):
        return int(value)
    if kind == "bool" and isinstance(value, bool) or kind == "str" and isinstance(value, str):
        return value
    if kind.startswith("tuple") and isinstance(value, (list, tuple)) and len(value) == 2:
        inner = kind[len("tuple[") :].split(",")[0]
        return tuple(_fitted(part, inner, name, source) for part in value)
    expected = {"tuple[float, float]": "two numbers", "tuple[int, int]": "two whole numbers"}.get(kind, kind)
    raise ConfigError(f"{source}: {name} is {value!r}, expected {expected}{' or null' if optional else ''}")


def _value(text: str) -> Any:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):  # YAML takes 1e-4 for a string
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _read(path: Path, stage: str) -> Mapping[str, Any]:
    content = published.read_yaml(path)  # JSON is YAML
    if "hyper_para" in content or "embed_dim" in content:
        return _published(content, path, stage)
    if content and set(content) <= set(STAGES):
        content = _mapping(content.get(stage, {}), stage, str(path))
    return _numbers({key: value for key, value in content.items() if key not in RUN_KEYS})


def _published(content: Mapping[str, Any], path: Path, stage: str) -> Mapping[str, Any]:
    """What the published YAML says about a stage, with our keys: sizes, and the optimisation of the stage that it is
    for (the extractor's own file, the denoiser's with a section DiT, else the autoencoder's)."""
    hyper = content.get("hyper_para", content)
    sizes, _ = published.read_configs([path])
    sections = {"DiT": set(published.DENOISER_KEYS.values()), "ibe": set(published.EXTRACTOR_KEYS.values())}
    known = set(_PUBLISHED) | (set(sections) | {"ddpm"} if "hyper_para" in content else sections["ibe"])
    _check_keys(hyper, known, path)
    for name, keys in sections.items():
        _check_keys(hyper.get(name, {}), keys, path)
    owner = "extractor" if hyper is content else "denoiser" if "DiT" in hyper else "autoencoder"
    values: dict[str, Any] = {}
    if stage in sizes and sizes[stage]:
        values["sizes"] = sizes[stage]
    if stage == owner:
        values["loop"] = _numbers({ours: hyper[theirs] for theirs, ours in _PUBLISHED.items() if theirs in hyper})
    return values


def _check_keys(section: Mapping[str, Any], known: set[str], path: Path) -> None:
    for key in section:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}; known here: {', '.join(sorted(known))}")


def _numbers(content: Any) -> Any:
    """Nested content whose strings such as '1e-4' are numbers."""
    if isinstance(content, Mapping):
        return {key: _numbers(value) for key, value in content.items()}
    return _value(content) if isinstance(content, str) else content
