"""How records lie on disk: Parquet, WFDB or WebDataset, each with the same fields."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ...errors import ECGTwinError

if TYPE_CHECKING:
    from .stored import Format

FORMATS = ("parquet", "wfdb", "webdataset")


def open_format(name: str) -> Format:
    """The format of that name, one of FORMATS; ECGTwinError for any other."""
    if name not in FORMATS:
        raise ECGTwinError(f"unknown format {name!r}: expected {', '.join(FORMATS)}")
    return import_module(f".{name}", __name__).FORMAT
