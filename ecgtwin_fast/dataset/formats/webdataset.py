"""A shard as a WebDataset tar: for each record its signal as .npy and all else as .json."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import RecordError
from .stored import COLUMNS, SHAPE, Format, Stored, about, reading

if TYPE_CHECKING:
    from ..items import Facts


class WebDataset(Format):
    name = "webdataset"

    def path(self, shard: int) -> str:
        return f"data/shard-{shard:05d}.tar"

    def write(self, path: Path, shard: int, rows: Sequence[Stored], facts: Facts) -> None:
        common = about(facts)
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                array = io.BytesIO()
                np.save(array, row.signal.astype("<i2"))
                _add(tar, f"{row.index:012d}.npy", array.getvalue())
                text = json.dumps(row.values() | common, sort_keys=True, ensure_ascii=False)
                _add(tar, f"{row.index:012d}.json", text.encode())

    def read(self, path: Path) -> Iterator[Stored]:
        with reading(path), tarfile.open(path, "r:") as tar:
            while array := tar.next():
                text = tar.next()
                values = json.loads(_content(tar, text, path))
                stem = f"{values['index']:012d}"
                if (array.name, text.name) != (f"{stem}.npy", f"{stem}.json"):
                    raise RecordError(f"{path}: {array.name} and {text.name} hold record {values['index']}", "damaged")
                signal = np.load(io.BytesIO(_content(tar, array, path)), allow_pickle=False)
                if signal.dtype != np.int16 or signal.shape != SHAPE:
                    raise RecordError(f"{path}: {array.name} is {signal.dtype} {signal.shape}, expected int16 {SHAPE}")
                yield Stored(*(values[name] for name in COLUMNS), signal)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # its time, owner and mode are constants
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo | None, path: Path) -> bytes:
    file = member and tar.extractfile(member)
    if file is None:
        raise RecordError(f"{path}: ends within a record", "damaged")
    return file.read()


FORMAT = WebDataset()
