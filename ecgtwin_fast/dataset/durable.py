"""Files and folders that appear whole, and stay: written under another name, forced to disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = ".writing-"
"""How the name of all that is not complete begins."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary name beside `target` for the block to write a file or folder to, which then replaces `target`.

    An error in the block, such as an OSError of a full disk, leaves no trace and passes through.
    """
    new = not target.parent.exists()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:16]}-{target.name}")
    try:
        yield temporary
        _sync_all(temporary)
        _move(temporary, target)
        sync(target.parent)
        if new:
            sync(target.parent.parent)
    finally:
        _remove(temporary)


def remove_leftovers(out: str | Path) -> list[Path]:
    """Remove the temporaries that killed writers left in the data set `out`, and return their paths.

    Writers that are at work there must have ended: theirs would go too.
    """
    found = [path for folder in (".", "data", "records") for path in sorted(Path(out, folder).glob(f"{TEMPORARY}*"))]
    for path in found:
        _remove(path)
    return found


def fingerprint(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file or of a folder's files.

    A folder's SHA-256 is that of the lines '<SHA-256>  <name>', in order of the names, as sha256sum prints them.
    """
    if not path.is_dir():
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    total, lines = 0, hashlib.sha256()
    for file in sorted(path.iterdir()):
        size, digest = fingerprint(file)
        total += size
        lines.update(f"{digest}  {file.name}\n".encode())
    return total, lines.hexdigest()


def sync(path: Path) -> None:
    """Force a file or a folder's list of files to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(path: Path) -> None:
    if path.is_dir():
        for file in path.iterdir():
            sync(file)
    sync(path)


def _move(temporary: Path, target: Path) -> None:
    while True:
        try:
            return os.replace(temporary, target)
        except OSError as error:
            # A folder cannot be renamed over one that holds files.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with suppress(FileNotFoundError):  # where another writer of the same folder is at this point too
            # An equal folder stays: the manifest may name it already, so it must not be gone even for a moment.
            if fingerprint(target) == fingerprint(temporary):
                return None
            old = temporary.with_name(f"{temporary.name}-old")
            os.replace(target, old)
            _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
