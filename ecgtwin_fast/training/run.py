"""A run folder: one stage after the other, each with what the stages before it trained.

OUT/autoencoder, extractor, denoiser, clip, diffusets: a stage's config.json, network.safetensors, newest checkpoint,
history.csv, TensorBoard events and summary.json. OUT/latents: latents and base vectors. OUT/model: the model directory
for `ECGTwin.from_pretrained`, written when the denoiser is trained; OUT/diffusets-model: for
`DiffuSETS.from_pretrained`, when diffusets is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import NOTICE, models
from ..data.pairs import Pairs
from ..data.store import Store
from ..errors import CheckpointError, ECGTwinError, StoreError
from ..pretrained import CONFIG_FILE, MODEL_TYPES, ModelConfig, write_model
from ..staging import check_folder
from .autoencoder import Autoencoder, AutoencoderStage
from .checkpoint import NETWORK, read_json, read_weights
from .configs import StageConfig, to_dict
from .denoiser import DenoiserStage, training_pairs
from .denoiser_start import blind, identity_start
from .distributed import Processes, processes
from .latents import Latents, base_vectors, encoded, weights_digest
from .log import read_history
from .loop import CONFIG, SUMMARY, Stage, finished, fit, started

REQUIRES: Mapping[str, tuple[str, ...]] = {
    "autoencoder": (), "extractor": ("autoencoder",), "denoiser": ("autoencoder", "extractor"), "clip": (),
    "diffusets": ("autoencoder",),
}  # fmt: skip
LATENTS, MODEL = "latents", "model"
_NETWORKS = {"extractor": "ibe", "denoiser": "dit", "clip": "clip", "diffusets": "unet"}


class Product(NamedTuple):
    """A model that a run folder can hold: its folder, the stage that each network comes from, what its card says."""

    folder: str
    stages: Mapping[str, str]
    parts: str


PRODUCTS: Mapping[str, Product] = {
    "ecgtwin": Product(
        MODEL,
        {"encoder": "autoencoder", "decoder": "autoencoder", "extractor": "extractor", "denoiser": "denoiser"},
        "Individual Base Extractor, denoiser and autoencoder of ECGTwin (arXiv 2508.02720).",
    ),
    "diffusets": Product(
        "diffusets-model",
        {"decoder": "autoencoder", "denoiser": "diffusets"},
        "U-Net and decoder of DiffuSETS (arXiv 2501.05932): ECGs under a condition, with no reference ECG.",
    ),
}
"""By model type."""
_MADE_BY = {"denoiser": "ecgtwin", "diffusets": "diffusets"}
"""The model type that the end of a stage completes."""

_CARD = """# {title}, trained with ecgtwin_fast

{parts}

## Data

`{kind}` {options}: {records} records of {people} people, {trained} of them trained on (the others are the test fold),
{statements} distinct statements, embedded by `{encoder}` ({width} wide).

## Training

{stages}
Weights are float32 as trained. The configuration of each stage:

```json
{configs}
```

{notice}
"""


def train_stage(
    stage: str,
    store: Store | str | Path,
    out: str | Path,
    config: StageConfig,
    device: str | None = None,
    resume: bool = False,
) -> nn.Module:
    """Train a stage of the run folder `out` to its end and return the network in eval mode; a finished one is loaded.

    Args:
        stage: a key of REQUIRES. store: a data set. config: of the stage; loop.epochs
            become steps by the number of its records or pairs. device: as of `distributed.processes`.
        resume: go on with an unfinished run.

    Raises:
        ECGTwinError: a stage that this one needs is not trained (names the command), or an unfinished run is here.
        CheckpointError: the folder's run has other settings. StoreError: the store cannot be used.
        Interrupted: SIGINT or SIGTERM; a checkpoint was saved.
    """
    out = Path(out)
    store_path = store.path if isinstance(store, Store) else Path(store)
    check_ready(stage, store_path, out, resume)
    store = store if isinstance(store, Store) else Store(store)
    with processes(device) as here:
        torch.manual_seed(config.loop.seed)
        count = _count(stage, store, config)
        config = completed(stage, config, store, out, count)
        prepared, inputs = _prepared(stage, store, out, config, here)
        settings = {"stage": stage, "inputs": {"store": store.digest, **inputs}, **to_dict(config)}
        _say(here, _plan(stage, store, config, count, finished(out / stage)))
        trained = fit(prepared, config.loop, out / stage, settings, here)
        model_type = _MADE_BY.get(stage)
        written = ""
        if model_type is not None:
            model = out / PRODUCTS[model_type].folder
            written = f"; model: {model}"
            if here.first and _older(model / CONFIG_FILE, out / stage / SUMMARY):
                write_trained_model(out, store, model_type=model_type)
        here.wait()
        _say(here, f"{stage} trained: {out / stage}{written}")
    return trained


def check_ready(stage: str, store: Path, out: Path, resume: bool) -> None:
    """ECGTwinError where the stages before are not trained, or an unfinished run is here and is not to be resumed."""
    check_folder(out)
    for needed in REQUIRES[stage]:
        if not finished(out / needed):
            raise ECGTwinError(
                f"{out}: the {stage} needs a trained {needed}: run `ecgtwin-fast train {needed} {store} {out}` first"
            )
    if started(out / stage) and not finished(out / stage) and not resume:
        raise ECGTwinError(
            f"{out / stage}: holds an unfinished run; go on with it by --resume, or delete the folder to begin anew"
        )


def completed(stage: str, config: StageConfig, store: Store, out: Path, count: int) -> StageConfig:
    """The configuration with the steps of epochs over `count` records or pairs, and with the sizes that the store and
    the stages before decide."""
    config = replace(config, loop=config.loop.with_steps(count))
    sizes: dict[str, Any] = {} if stage == "autoencoder" else {"text_width": store.text_width}
    if stage in ("extractor", "denoiser", "diffusets"):
        sizes["channels"] = _sizes(out, "autoencoder").get("latent", 4)
    if stage == "denoiser":
        sizes["base_width"] = _sizes(out, "extractor").get("hidden", 256)
        if config.network == "dit":
            sizes["max_tokens"] = max(25, store.tokens.shape[1])
    return replace(config, sizes={**sizes, **config.sizes})


def load_trained(out: Path, stage: str) -> nn.Module:
    """The network that a finished stage of a run folder trained, in eval mode on the CPU."""
    path = Path(out) / stage / NETWORK
    with torch.random.fork_rng():
        network = _network(stage, _sizes(out, stage), _denoiser(out, stage))
    read_weights(path, network)
    return network.eval().requires_grad_(False)


def write_trained_model(
    out: Path,
    store: Store,
    folder: Path | None = None,
    card: str | None = None,
    dtype: torch.dtype | None = None,
    model_type: str = "ecgtwin",
    shared: Mapping[str, str] | None = None,
) -> Path:
    """Write the trained networks as a model directory with a model card; returns it.

    folder: OUT/model, or OUT/diffusets-model, where None. model_type: "ecgtwin" or "diffusets". shared: as of
    `write_model`.
    """
    product = PRODUCTS[model_type]
    trained = {stage: load_trained(out, stage) for stage in set(product.stages.values())}
    states = {}
    for role, stage in product.stages.items():
        network = getattr(trained[stage], role) if stage == "autoencoder" else trained[stage]
        states[role] = network.state_dict()
    sizes = {role: _sizes(out, stage) for role, stage in product.stages.items()}
    denoiser = _denoiser(out, product.stages["denoiser"])
    config = ModelConfig(sizes, store.text_encoder, store.text_width, model_type, denoiser)
    folder = folder or Path(out) / product.folder
    write_model(folder, config, states, model_card(out, store, model_type) if card is None else card, dtype, shared)
    return folder


def model_card(out: Path, store: Store, model_type: str = "ecgtwin") -> str:
    """README of a trained model: data set, losses, configuration, notice."""
    import json

    lines, configs = [], {}
    for stage in dict.fromkeys(PRODUCTS[model_type].stages.values()):
        configs[stage] = read_json(out / stage / CONFIG)
        final = read_history(out / stage)[-1]
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in final.items() if name != "step")
        lines.append(f"- {stage}: {int(final['step'])} steps; last {numbers}\n")
    return _CARD.format(
        title=MODEL_TYPES[model_type].title,
        parts=PRODUCTS[model_type].parts,
        kind=store.kind,
        options=json.dumps(store.options),
        records=len(store),
        people=int(store.person.max()) + 1,
        trained=len(store.rows(test=False)),
        statements=len(store.statements) - 1,
        encoder=store.text_encoder,
        width=store.text_width,
        stages="".join(lines),
        configs=json.dumps(configs, indent=1),
        notice=NOTICE,
    )


def _prepared(name: str, store: Store, out: Path, config: StageConfig, here: Processes) -> tuple[Stage, dict[str, str]]:
    """The stage with its network, and the digests of the weights that it builds on."""
    network = _network(name, config.sizes, getattr(config, "network", None))
    if name == "denoiser":
        if config.identity_start:
            identity_start(network)
        if config.without is not None:
            blind(network, config.without)
    # Where it is decides which operators its stage trains it with.
    network.to(here.device)
    if name == "autoencoder":
        return AutoencoderStage(network, store, config), {}
    if name == "clip":
        from .ecg_text import ClipStage

        return ClipStage(network, store, config), {}
    autoencoder = load_trained(out, "autoencoder").to(here.device)
    latents: Latents = encoded(autoencoder.encoder, store, out / LATENTS, here)
    inputs = {"autoencoder": weights_digest(autoencoder)}
    if name == "diffusets":
        from .diffusets import DiffuSETSStage

        return DiffuSETSStage(network, store, latents, config, autoencoder.decoder, out / name), inputs
    if name == "extractor":
        from .extractor import ExtractorStage

        return ExtractorStage(network, store, latents, config), inputs
    extractor = load_trained(out, "extractor").to(here.device)
    inputs["extractor"] = weights_digest(extractor)
    bases = base_vectors(extractor, latents, store, out / LATENTS, here)
    return DenoiserStage(network, store, latents, bases, config, autoencoder.decoder, out / name), inputs


def _network(stage: str, sizes: Mapping[str, Any], name: str | None = None) -> nn.Module:
    """name: of the network, the stage's own where None."""
    try:
        if stage == "autoencoder":
            return Autoencoder(models.create("enc", **sizes), models.create("dec", **sizes))
        return models.create(name or _NETWORKS[stage], **sizes)
    except (TypeError, ValueError, AssertionError, RuntimeError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"sizes {dict(sizes)} do not make a network of the {stage}: {error}") from error


def _count(stage: str, store: Store, config: StageConfig) -> int:
    """Records or pairs in one epoch. StoreError where there are none."""
    if stage == "denoiser":
        return sum(map(len, training_pairs(store, config)))
    rows = store.rows(test=False)
    count = len(Pairs(store, rows, config.per_patient, config.both_orders)) if stage == "extractor" else len(rows)
    if not count:
        what = "pairs of one person's records" if stage == "extractor" else "records"
        raise StoreError(f"{store.path}: has no {what} outside the test fold")
    return count


def _sizes(out: Path, stage: str) -> dict[str, Any]:
    return dict(read_json(Path(out) / stage / CONFIG)["sizes"])


def _denoiser(out: Path, stage: str) -> str | None:
    """Name of the network that a stage trained in the denoiser's place; None for the stage's own."""
    name = read_json(Path(out) / stage / CONFIG).get("network")
    return None if name == _NETWORKS.get(stage) else name


def _older(file: Path, than: Path) -> bool:
    return not file.is_file() or file.stat().st_mtime_ns < than.stat().st_mtime_ns


def _plan(stage: str, store: Store, config: StageConfig, count: int, is_finished: bool) -> str:
    if is_finished:
        return f"{stage}: trained already, nothing to do"
    what = "pairs" if stage in ("extractor", "denoiser") else "records"
    return f"{stage}: {config.loop.steps} steps of {config.loop.batch} of {count} {what} of {store.path}"


def _say(here: Processes, line: str) -> None:
    if here.first:
        print(line, file=sys.stderr)
