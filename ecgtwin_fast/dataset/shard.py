"""A shard of a data set: written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RecordError
from .durable import fingerprint, replacing
from .formats.stored import stored
from .manifest import Entry

if TYPE_CHECKING:
    from .formats.stored import Format
    from .items import Facts, Failed, Made


def write_shard(
    out: str | Path,
    fmt: Format,
    shard: int,
    first: int,
    count: int,
    made: Sequence[Made],
    failed: Sequence[Failed],
    facts: Facts,
) -> Entry:
    """Write the records of items first..first+count-1, in whatever order they come, and return their manifest entry.

    The shard's bytes depend on its content only; where it is there already, it is replaced. It is on disk when this
    returns. A shard of which every item failed is written too, empty.
    Raises RecordError for items that are missing, doubled or of another shard, and for a signal that is not finite or
    exceeds ±32.767 mV; OSError where the disk is full. Neither leaves anything behind.
    """
    indices = sorted(item.index for item in (*made, *failed))
    if indices != list(range(first, first + count)):
        raise RecordError(f"shard {shard}: holds items {_ends(indices)}, expected each of {first}..{first + count - 1}")
    rows = [stored(record, facts, fmt.gain) for record in sorted(made, key=lambda record: record.index)]
    path = fmt.path(shard)
    with replacing(Path(out) / path) as temporary:
        fmt.write(temporary, shard, rows, facts)
        size, digest = fingerprint(temporary)
    lost = tuple(sorted(failed, key=lambda item: item.index))
    return Entry(shard, first, count, len(rows), path, size, digest, lost)


def _ends(indices: Sequence[int]) -> str:
    return f"{indices[0]}..{indices[-1]} ({len(indices)} of them)" if indices else "none"
