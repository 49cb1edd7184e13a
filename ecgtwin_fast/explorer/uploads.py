"""Files that a visitor of the page hands over, checked before anything reads them."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from ..data.preprocess import prepare
from ..data.record import Record, read_record
from ..errors import ECGTwinError, RecordError

SUFFIXES = (".hea", ".dat", ".csv", ".npz")
LARGEST_MEGABYTES = 5
_LARGEST_UNPACKED_MEGABYTES = 50
_MEGABYTE = 1_000_000


def read_upload(files: Sequence[str | Path]) -> Record:
    """The model's input (`data.preprocess.prepare`) of an uploaded WFDB pair, CSV or npz; see `read_record`.

    files: paths, possibly each in a folder of its own. Raises RecordError or LeadError, whose one line names the
    file without its folder and the limit, for other kinds, more than 5 MB, a header that names files which were not
    uploaded, and all that makes a record unusable.
    """
    paths = [Path(file) for file in files]
    main = _main_file(paths)
    _check_sizes(paths)
    if main.suffix.lower() == ".npz":
        _check_unpacked(main)
    with tempfile.TemporaryDirectory() as folder:
        # A WFDB header finds its signals beside it.
        for path in paths:
            shutil.copyfile(path, Path(folder) / path.name)
        if main.suffix.lower() == ".hea":
            _check_header(Path(folder) / main.name)
        try:
            return prepare(read_record(Path(folder) / main.name, source=main.name))
        except ECGTwinError as error:
            raise type(error)(str(error).replace(f"{folder}/", ""), error.reason) from None


def _main_file(paths: Sequence[Path]) -> Path:
    """The header of a pair, or the one file."""
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise RecordError(f"{path.name}: expected a WFDB pair (.hea and .dat), a .csv or a .npz")
    headers = [path for path in paths if path.suffix.lower() == ".hea"]
    signals = [path for path in paths if path.suffix.lower() == ".dat"]
    if len(paths) == 1 and not headers and not signals:
        return paths[0]
    if len(headers) == 1 and signals and len(paths) == 1 + len(signals):
        return headers[0]
    given = ", ".join(path.name for path in paths) or "no file"
    raise RecordError(f"{given}: expected a .hea and its .dat together, or one .csv or .npz")


def _check_sizes(paths: Sequence[Path]) -> None:
    for path in paths:
        megabytes = path.stat().st_size / _MEGABYTE
        if megabytes > LARGEST_MEGABYTES:
            raise RecordError(f"{path.name}: {megabytes:.1f} MB, expected at most {LARGEST_MEGABYTES} MB")


def _check_unpacked(path: Path) -> None:
    """A few kilobytes of .npz can unpack to gigabytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            megabytes = sum(entry.file_size for entry in archive.infolist()) / _MEGABYTE
    except zipfile.BadZipFile as error:
        raise RecordError(f"{path.name}: not readable as NumPy: {error}") from None
    if megabytes > _LARGEST_UNPACKED_MEGABYTES:
        limit = f"expected at most {_LARGEST_UNPACKED_MEGABYTES} MB"
        raise RecordError(f"{path.name}: unpacks to {megabytes:.0f} MB, {limit}")


def _check_header(path: Path) -> None:
    """A header may name any file of this computer: those that were not uploaded are not read."""
    text = path.read_text(encoding="latin-1").splitlines()
    lines = [line.split() for line in text if line.strip() and not line.lstrip().startswith("#")]
    if not lines or "/" in lines[0][0]:
        raise RecordError(f"{path.name}: expected the header of one record in one segment")
    for name in dict.fromkeys(fields[0] for fields in lines[1:]):
        if "/" in name or "\\" in name or not (path.parent / name).is_file():
            raise RecordError(f"{path.name}: names the signal file {name}, which was not uploaded with it")
