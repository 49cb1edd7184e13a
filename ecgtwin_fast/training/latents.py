"""Latents and base vectors of a store's records: computed once, kept as memory maps beside the run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..data.store import Store
from ..engine.training import training_forward
from ..errors import CheckpointError
from ..models.extractor import BaseExtractor
from ..models.vae import LATENT_SCALE, Encoder
from .checkpoint import read_json, write_json
from .distributed import Processes

LATENTS, BASES = "latents.json", "bases.json"


@dataclass(frozen=True)
class Latents:
    """Scaled posterior means and standard deviations, float16 (N, channels, 128), of a store's records."""

    mean: np.ndarray
    deviation: np.ndarray
    digest: str

    def means(self, index: np.ndarray) -> np.ndarray:
        """float32 (B, channels, 128) of B records."""
        return self.mean[index].astype(np.float32)

    def deviations(self, index: np.ndarray) -> np.ndarray:
        """float32 (B, channels, 128) of B records."""
        return self.deviation[index].astype(np.float32)


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def encoded(
    encoder: Encoder, store: Store, folder: Path, processes: Processes | None = None, batch: int = 64
) -> Latents:
    """Latents of all records of the store, from `folder` where they are there for this store and these weights."""
    processes = processes or Processes()
    key = {"store": store.digest, "autoencoder": weights_digest(encoder)}
    channels = encoder[-1].out_channels // 2
    shapes = {"mean": (channels, store.signals([0]).shape[1] // 8)}
    shapes["deviation"] = shapes["mean"]
    no_noise = torch.zeros((), device=processes.device)

    def compute(index: np.ndarray) -> tuple[Tensor, Tensor]:
        signal = torch.from_numpy(store.signals(index)).to(processes.device)
        _, mean, log_variance = encoder(signal, no_noise)
        return mean.float() * LATENT_SCALE, torch.exp(0.5 * log_variance.float()) * LATENT_SCALE

    arrays = _cached(folder, LATENTS, key, shapes, np.float16, len(store), compute, batch, processes, "latents")
    return Latents(*arrays, digest=f"{key['store']} {key['autoencoder']}")


def base_vectors(
    extractor: BaseExtractor,
    latents: Latents,
    store: Store,
    folder: Path,
    processes: Processes | None = None,
    batch: int = 256,
) -> np.ndarray:
    """Base vectors float32 (N, hidden) of all records, each under its own condition; kept in `folder`."""
    processes = processes or Processes()
    key = {"latents": latents.digest, "extractor": weights_digest(extractor)}
    extract = training_forward(extractor)

    def compute(index: np.ndarray) -> tuple[Tensor]:
        arrays = latents.means(index).swapaxes(1, 2), *store.condition(index)
        return (extract(*(torch.from_numpy(np.ascontiguousarray(a)).to(processes.device) for a in arrays)).float(),)

    shapes = {"bases": (extractor.classfree_emb.shape[1],)}
    return _cached(folder, BASES, key, shapes, np.float32, len(store), compute, batch, processes, "base vectors")[0]


@torch.no_grad()
def _cached(
    folder: Path,
    manifest: str,
    key: dict[str, str],
    shapes: dict[str, tuple[int, ...]],
    dtype: type,
    count: int,
    compute: Callable[[np.ndarray], tuple[Tensor, ...]],
    batch: int,
    processes: Processes,
    label: str,
) -> list[np.ndarray]:
    """Memory maps name.npy (count, *shape) in `folder`; filled by all processes unless `manifest` holds the key."""
    files = {name: folder / f"{name}.npy" for name in shapes}
    there = all(path.is_file() for path in (folder / manifest, *files.values()))
    done = there and read_json(folder / manifest) == key
    # Nobody may touch the files before everybody has looked at them.
    processes.wait()
    if not done:
        parts = {name: path.with_suffix(".npy.part") for name, path in files.items()}
        if processes.first:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / manifest).unlink(missing_ok=True)
            for name, shape in shapes.items():
                np.lib.format.open_memmap(parts[name], mode="w+", dtype=dtype, shape=(count, *shape)).flush()
        processes.wait()
        maps = [np.lib.format.open_memmap(path, mode="r+") for path in parts.values()]
        starts = range(processes.rank * batch, count, processes.world * batch)
        for start in tqdm(starts, desc=label, unit="batch", mininterval=1, disable=not processes.first):
            index = np.arange(start, min(start + batch, count))
            for mapped, values in zip(maps, compute(index), strict=True):
                values = values.cpu().numpy().astype(dtype)
                if not np.isfinite(values).all():
                    raise CheckpointError(f"{folder}: {label} of record {start} or one after it are not finite")
                mapped[index] = values
        for mapped in maps:
            mapped.flush()
        processes.wait()
        if processes.first:
            for name, path in files.items():
                os.replace(parts[name], path)
            write_json(folder / manifest, key)
        processes.wait()
    return [np.load(path, mmap_mode="r") for path in files.values()]
