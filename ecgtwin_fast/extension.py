"""The compiled module `ecgtwin_fast._C`: loaded when this file is imported, or the reason why it is not.

Importing never fails and never builds. A module built for another torch is recognised by `_build.json`, which lies
beside it, before it is loaded: loading it could crash. Without the module every operator runs its reference.
`ECGTWIN_EXTENSION=0` leaves the module out.
"""

from __future__ import annotations

import importlib
import json
import os
import sysconfig
from pathlib import Path
from types import ModuleType

import torch

REBUILD = "pip install --no-build-isolation --no-deps -e ."
FOLDER = Path(__file__).resolve().parent


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def mismatch(build: dict[str, str], torch_version: str, torch_cuda: str | None, python: str) -> str | None:
    """Why a module built as `build` (the content of _build.json) says does not fit, or None where it fits."""
    if build["python"] != python:
        return f"they were built for Python {build['python']}, but this is {python}"
    if _minor(build["torch"]) != _minor(torch_version):
        return f"they were built for torch {_minor(build['torch'])}, but torch {torch_version} is installed"
    if build["cuda"] and build["torch_cuda"].split(".")[0] != (torch_cuda or "none").split(".")[0]:
        return f"they were built for CUDA {build['torch_cuda']}, but torch {torch_version} has {torch_cuda or 'none'}"
    return None


def _load() -> tuple[ModuleType | None, str | None]:
    if os.environ.get("ECGTWIN_EXTENSION") == "0":
        return None, "the compiled operators were left out by ECGTWIN_EXTENSION=0"
    library = FOLDER / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    try:
        build = json.loads((FOLDER / "_build.json").read_text())
        reason = mismatch(build, torch.__version__, torch.version.cuda, sysconfig.get_config_var("SOABI"))
    except (OSError, ValueError, KeyError):
        reason = "they are not built"
    if reason is None and not library.exists():
        reason = "they are not built"
    if reason is None:
        try:
            return importlib.import_module("ecgtwin_fast._C"), None
        except ImportError as error:
            reason = f"they cannot be loaded ({error})"
    return None, f"the compiled operators cannot be used: {reason}; in the source folder run: {REBUILD}"


def _without_cuda(module: ModuleType | None, reason: str | None) -> str | None:
    if module is None:
        return reason
    if module.cuda_architectures:
        return None
    why = json.loads((FOLDER / "_build.json").read_text())["without_cuda_because"]
    return f"the CUDA kernels are not built ({why}); with a CUDA build of torch and nvcc: ECGTWIN_CUDA=1 {REBUILD}"


MODULE, REASON = _load()
"""The module and None, or None and one line that says why and what mends it."""

CUDA_REASON = _without_cuda(MODULE, REASON)
"""None where CUDA kernels are built, else one line."""

DEVICES = tuple(device for device, reason in (("cpu", REASON), ("cuda", CUDA_REASON)) if reason is None)
"""Device types that have compiled kernels."""
