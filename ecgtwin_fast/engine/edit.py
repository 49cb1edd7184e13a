"""Editing by attention: an edit follows its source and takes its attention to the statements (paper: editing)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TIMESTEPS = 1000


@dataclass(frozen=True)
class Edit:
    """How the records of a request hang together: groups of a source and its edits, which share all draws.

    At timesteps below `threshold` an edit's attention maps are replaced, in every block and head. For the statements
    that both reports have by position, they are the source's. Further statements of the edit keep their own maps,
    times `scales`, not renormalised; where the edit has fewer statements, the source's maps of those that both have
    are scaled to a sum of 1 at every position. So equal counts are the paper's "swap report", and one more
    statement its "add report".

    Attributes:
        group: records of a group, the source first; at least 2.
        scales: (B,) float32, by record; those of sources are not read.
        threshold: 0..1000; 200 in the paper.
    """

    group: int
    scales: Tensor
    threshold: int = 200

    def first_step(self, timesteps: Tensor) -> int:
        """The first of descending timesteps (steps,) at which maps are replaced; their number if none is."""
        return int((timesteps >= self.threshold).sum())

    def maps(self, maps: Tensor, counts: Tensor) -> Tensor:
        """The attention maps (B, heads, L, T) as the edits take them; counts (B,): statements of each record."""
        places = torch.arange(maps.shape[-1], device=maps.device)
        theirs = counts.view(-1, self.group)[:, :1].expand(-1, self.group).flatten()
        source = maps.unflatten(0, (-1, self.group))[:, :1].expand(-1, self.group, *maps.shape[1:]).flatten(0, 1)
        shared = (places < torch.minimum(theirs, counts)[:, None])[:, None, None]
        taken = source * shared
        fewer = (counts < theirs)[:, None, None, None]
        taken = torch.where(fewer, taken / taken.sum(-1, keepdim=True), taken)
        edited = taken + self.scales.to(maps)[:, None, None, None] * maps * ~shared
        is_source = torch.arange(len(maps), device=maps.device) % self.group == 0
        return torch.where(is_source[:, None, None, None], maps, edited)
