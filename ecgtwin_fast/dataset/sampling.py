"""The second stage of a worker: a batch becomes signals, and what the model cannot make is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..errors import BackendError, RecordError
from .compute import Compute
from .formats.stored import check_signal
from .items import Failed
from .reader import ATTEMPTS, Ready


class Stopped(Exception):
    """The worker was closed while a shard was in the making."""


def sample(
    compute: Compute, batch: Sequence[Ready], retried: list[str], progress: Callable[[int, int], None]
) -> list[np.ndarray | Failed]:
    """A signal (1024, 12) for each item of a batch of consecutive items, or how it failed, at every attempt.

    Raises BackendError where the backend cannot run, and what `progress` raises.
    """
    try:
        return _attempts(compute, batch, retried, progress)
    except (BackendError, Stopped):
        raise
    except Exception as error:  # out of memory, or whatever one item in the batch brings about
        if len(batch) > 1:
            return [made for one in batch for made in sample(compute, [one], retried, progress)]
        return [_failed(batch[0], type(error).__name__, f"the model fails: {error}")]


def _attempts(compute, batch, retried, progress) -> list[np.ndarray | Failed]:
    bases = torch.stack([ready.reference.base_vector for ready in batch])
    conditions = [ready.condition for ready in batch]
    for attempt in range(ATTEMPTS):
        try:
            signals = compute.signals(bases, conditions, batch[0].item.index, progress)
        except (BackendError, Stopped):
            raise
        except Exception:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        made = [_checked(ready, signal) for ready, signal in zip(batch, signals, strict=True)]
        if not any(isinstance(one, Failed) for one in made):
            break
    if attempt:
        span = f"items {batch[0].item.index}..{batch[-1].item.index}"
        retried.append(f"{span}: sampled {attempt + 1} times")
    return made


def _checked(ready: Ready, signal: np.ndarray) -> np.ndarray | Failed:
    try:
        check_signal(signal, f"record {ready.item.index}")
    except RecordError as error:
        return _failed(ready, error.reason, str(error))
    return signal


def _failed(ready: Ready, reason: str, message: str) -> Failed:
    return Failed(ready.item.index, ready.reference.name, reason, message)
