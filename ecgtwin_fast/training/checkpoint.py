"""Files of a training run that are complete or not there: checkpoints, settings, weights."""

from __future__ import annotations

import json
import os
import pickle
import platform
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..errors import CheckpointError

FORMAT_VERSION = 1
NETWORK, AVERAGE, OPTIMISER, STATE = "network.safetensors", "average.safetensors", "optimiser.pt", "state.json"
# Settings that change nothing of what is learned or recorded.
_FREE = ("loop.checkpoint_seconds", "loop.sample_every")


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, bring it to the disk, and rename it."""
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    _sync(temporary)
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Content of a JSON file; CheckpointError naming it where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error


def write_weights(path: Path, network: nn.Module) -> None:
    """Write a network's parameters and buffers as safetensors, atomically."""
    from safetensors.torch import save_file

    # A copy of its own for each: safetensors refuses tensors that share memory.
    state = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in network.state_dict().items()}
    write_atomic(path, lambda temporary: save_file(state, temporary, metadata={"format": "pt"}))


def read_weights(path: Path, network: nn.Module) -> None:
    """Fill a network from safetensors; CheckpointError naming the file and the first parameter that does not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors (truncated or damaged?): {error}") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise CheckpointError(f"{path}: does not fit the network: {reason}") from error


def save_checkpoint(
    folder: Path, step: int, settings: Mapping[str, Any], network: nn.Module, average: nn.Module | None, optimiser
) -> None:
    """Write folder/checkpoint-<step>, then remove the older ones and what interrupted ones left."""
    final = folder / f"checkpoint-{step:08d}"
    if final.is_dir():
        return
    temporary = folder / f".{final.name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    write_weights(temporary / NETWORK, network)
    if average is not None:
        write_weights(temporary / AVERAGE, average)
    write_atomic(temporary / OPTIMISER, lambda path: torch.save(optimiser.state_dict(), path))
    versions = {"ecgtwin_fast": __version__, "torch": torch.__version__, "python": platform.python_version()}
    # No random state: every step draws from generators keyed by (seed, step).
    state = {"format_version": FORMAT_VERSION, "step": step, "settings": settings, "versions": versions}
    write_json(temporary / STATE, state)
    _sync(temporary)
    os.replace(temporary, final)
    _sync(folder)
    for old in [*folder.glob("checkpoint-*"), *folder.glob(".checkpoint-*.part")]:
        if old != final:
            shutil.rmtree(old)


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the most steps, or None."""
    return max((p for p in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d{8,}", p.name)), default=None)


def load_checkpoint(
    path: Path, settings: Mapping[str, Any], network: nn.Module, average: nn.Module | None, optimiser
) -> int:
    """Fill network, average and optimiser; returns the step to go on with.

    Raises CheckpointError for a damaged checkpoint or one of other settings, naming the first that differs.
    """
    state = read_json(path / STATE)
    check_settings(path, state.get("settings", {}), settings)
    read_weights(path / NETWORK, network)
    if average is not None:
        read_weights(path / AVERAGE, average)
    try:
        optimiser.load_state_dict(torch.load(path / OPTIMISER, map_location="cpu", weights_only=True))
        return int(state["step"])
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path / OPTIMISER}: not readable (truncated or damaged?): {error}") from error


def check_settings(path: Path, written: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """CheckpointError naming the first setting that differs from those that `path` was written with."""
    before, after = dict(_leaves(written)), dict(_leaves(json.loads(json.dumps(now))))
    for key in [*after, *before]:
        if not key.endswith(_FREE) and before.get(key, "absent") != after.get(key, "absent"):
            raise CheckpointError(
                f"{path}: written with {key} = {before.get(key, 'absent')!r}, this run has "
                f"{after.get(key, 'absent')!r}: use the same settings or another folder"
            )


def _leaves(content: Any, key: str = "") -> list[tuple[str, Any]]:
    if not isinstance(content, Mapping):
        return [(key, content)]
    return [leaf for name, value in content.items() for leaf in _leaves(value, f"{key}.{name}" if key else name)]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
