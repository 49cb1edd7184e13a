"""Folders that appear complete: everything is written elsewhere first and renamed at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import ECGTwinError


@contextmanager
def staged_folder(target: str | Path, replaces: Sequence[str] = ()) -> Iterator[Path]:
    """A scratch folder whose files move into `target` when the block ends; an error in the block leaves no trace.

    Other files of an existing target stay, except those that match a pattern of `replaces`.
    Raises ECGTwinError where `target` is a file.
    """
    target = Path(target).absolute()
    check_folder(target)
    # On the target's own file system, so that renaming works.
    base = next(folder for folder in (target, *target.parents) if folder.is_dir())
    scratch = Path(tempfile.mkdtemp(prefix=".ecgtwin-", dir=base))
    try:
        yield scratch
        new = sorted(path.name for path in scratch.iterdir())
        target.mkdir(parents=True, exist_ok=True)
        for name in new:
            os.replace(scratch / name, target / name)
        for old in {path for pattern in replaces for path in target.glob(pattern) if path.name not in new}:
            old.unlink()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_folder(target: str | Path) -> None:
    """ECGTwinError unless `target` is a folder or can become one."""
    for path in (Path(target), *Path(target).parents):
        if path.exists():
            if not path.is_dir():
                raise ECGTwinError(f"{path}: is a file, expected a folder")
            if not os.access(path, os.W_OK):
                raise ECGTwinError(f"{path}: no permission to write here")
            return
