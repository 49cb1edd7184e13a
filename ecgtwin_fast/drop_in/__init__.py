"""This package's speed in other people's modules: `accelerate` patches them in place, `restore` takes it back."""

from __future__ import annotations

from .patch import accelerate, restore
from .recognition import UnknownModuleError

__all__ = ["UnknownModuleError", "accelerate", "restore"]
