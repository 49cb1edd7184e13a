"""The contrastive core of both CLIP-style stages: the loss, gradient caching, and negatives from every process.

Radford et al. 2021 (arXiv 2103.00020): symmetric cross-entropy over cosines times exp(logit_scale). Gradient caching:
Gao et al. 2021 (arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK_ELEMENTS = 2**25
"""Similarities held at a time, 128 MiB in float32: a matrix of 65,536 x 65,536 is never whole in memory."""

Embed = Callable[[Any], tuple[Tensor, Tensor]]
"""The features (n, width) of both sides of a chunk, with gradients; called again on the same chunk, the same ones."""


class Contrast(NamedTuple):
    """loss; hit_rate: share of first sides whose most similar second side is their own; cosine: mean of positives."""

    loss: Tensor
    hit_rate: Tensor
    cosine: Tensor


class BatchGradient(NamedTuple):
    """Gradients of the whole batch's loss: by the rows' unit vectors (n, width) on both sides, and what these rows
    contribute to that by logit_scale."""

    contrast: Contrast
    first: Tensor
    second: Tensor
    logit_scale: Tensor


def contrast(first: Tensor, second: Tensor, logit_scale: Tensor) -> Contrast:
    """Of unit vectors (n, width), row i of one side being the positive of row i of the other; float32."""
    with torch.autocast(first.device.type, enabled=False):
        cosines = first @ second.T
        logits = logit_scale.exp() * cosines
        own = torch.arange(len(first), device=first.device)
        loss = 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))
        hits = (logits.detach().argmax(1) == own).float().mean()
    return Contrast(loss, hits, cosines.detach().diagonal().mean())


def contrastive_backward(
    network: nn.Module, embed: Embed, chunks: Sequence[Any], gradient_caching: bool
) -> dict[str, Tensor]:
    """Gradients of one optimiser step into `network.parameters()`; returns the fields of `Contrast`.

    Every process calls this with the same chunks and does its share of them whole (chunk k: process k modulo their
    number), so that the mean of the processes' gradients, and of what they return, is that of one process. One that
    has none leaves its gradients as they are, None: fewer chunks than processes leave some of them idle.

    Args:
        network: has the parameter logit_scale. embed: features of a chunk, by `network`.
        chunks: what embed takes; each has a len, its number of pairs.
        gradient_caching: False: the mean over the chunks' losses, negatives from the chunk alone (published). True:
            the loss of all chunks together, with exactly its gradient; features are computed twice, and only one
            chunk's graph is in memory at a time.
    """
    own = own_chunks(len(chunks))
    world = own.step
    if gradient_caching and len(chunks) > 1:
        found = _cached(network, embed, chunks, own, world)
    else:
        found = _accumulated(network, embed, chunks, own, world)
    return found._asdict()


def own_chunks(count: int) -> range:
    """Which of `count` chunks are this process's."""
    return range(dist.get_rank(), count, dist.get_world_size()) if dist.is_initialized() else range(count)


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A Tensor of the array on the device; the copy to a GPU does not wait for what it computes."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _accumulated(network: nn.Module, embed: Embed, chunks: Sequence[Any], own: range, world: int) -> Contrast:
    weight = world / len(chunks)
    total = torch.zeros(len(Contrast._fields), device=network.logit_scale.device)
    for index in own:
        found = contrast(*_units(embed(chunks[index])), network.logit_scale)
        (weight * found.loss).backward()
        total += weight * torch.stack(found).detach()
    return Contrast(*total)


def _cached(network: nn.Module, embed: Embed, chunks: Sequence[Any], own: range, world: int) -> Contrast:
    ends = np.cumsum([len(chunk) for chunk in chunks])
    device = network.logit_scale.device
    rows = np.concatenate([np.arange(ends[k] - len(chunks[k]), ends[k]) for k in own] or [np.zeros(0, np.int64)])
    rows = torch.from_numpy(rows).to(device)
    with torch.no_grad():
        features = [torch.cat(_units(embed(chunks[k])), dim=1) for k in own]
        # Autocast keeps weights that it cast, and those cast here lead to no gradients.
        torch.clear_autocast_cache()
        if len(chunks) < world:  # then a process without features does not know their width
            features.append(torch.zeros(0, _largest(features[0].shape[1] if own else 0, device), device=device))
        both = _gathered(torch.cat(features), rows, int(ends[-1]))
        found = batch_gradient(*both.chunk(2, dim=1), network.logit_scale, rows)
    (world * found.logit_scale * network.logit_scale).backward()
    place = 0
    for k in own:
        part = slice(place, place + len(chunks[k]))
        torch.autograd.backward(_units(embed(chunks[k])), [world * found.first[part], world * found.second[part]])
        place = part.stop
    return found.contrast


@torch.no_grad()
def batch_gradient(first: Tensor, second: Tensor, logit_scale: Tensor, rows: Tensor) -> BatchGradient:
    """Loss of all unit vectors (N, width) and its gradient by those in `rows`, in blocks of the similarity matrix.

    Where the rows are divided among processes, all call this together, each with its own.
    """
    with torch.autocast(first.device.type, enabled=False):
        scale = logit_scale.exp()
        sums, hits = _log_sums(first, second, scale, rows)
        other_sums, _ = _log_sums(second, first, scale, rows)
        whole = _gathered(torch.stack([sums, other_sums, hits], dim=1), rows, len(first))
        cosine = (first * second).sum(1).mean()
        loss = whole[:, :2].mean() - scale * cosine
        log_sums = whole[:, 0], whole[:, 1]
        by_first = _side_gradient(first, second, scale, rows, *log_sums)
        by_second = _side_gradient(second, first, scale, rows, *reversed(log_sums))
        # By log s of a loss in s * a.b: the sum over rows of a . dL/da.
        by_scale = (first[rows] * by_first).sum()
    return BatchGradient(Contrast(loss, whole[:, 2].mean(), cosine), by_first, by_second, by_scale)


def _log_sums(side: Tensor, other: Tensor, scale: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """For each of the rows: log of its summed exponentials, and 1 where its own partner is the most similar."""
    sums, hits = [], []
    for block in _blocks(rows, len(other)):
        logits = scale * (side[block] @ other.T)
        sums.append(logits.logsumexp(1))
        hits.append((logits.argmax(1) == block).float())
    return torch.cat(sums), torch.cat(hits)


def _side_gradient(
    side: Tensor, other: Tensor, scale: Tensor, rows: Tensor, log_sums: Tensor, other_log_sums: Tensor
) -> Tensor:
    """(n, width) gradient by the rows of one side: softmaxes along both directions, less the positives."""
    parts = []
    for block in _blocks(rows, len(other)):
        logits = scale * (side[block] @ other.T)
        share = (logits - log_sums[block, None]).exp_() + logits.sub_(other_log_sums).exp_()
        parts.append((share @ other - 2 * other[block]) * (scale / (2 * len(side))))
    return torch.cat(parts)


def _blocks(rows: Tensor, columns: int) -> tuple[Tensor, ...]:
    return rows.split(max(1, BLOCK_ELEMENTS // columns))


def _units(sides: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    first, second = sides
    return F.normalize(first.float(), dim=-1), F.normalize(second.float(), dim=-1)


def _gathered(part: Tensor, rows: Tensor, total: int) -> Tensor:
    """(total, ...): every process's part, row i of it at rows[i]. A sum with zeros elsewhere: parts differ in size."""
    if not dist.is_initialized():
        return part
    whole = part.new_zeros(total, *part.shape[1:])
    whole[rows] = part
    dist.all_reduce(whole)
    return whole


def _largest(number: int, device: torch.device) -> int:
    """Over the processes."""
    value = torch.tensor(number, device=device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)
