"""Fixtures of several test files."""

from __future__ import annotations

import pytest
import torch

from ecgtwin_fast import extension


@pytest.fixture
def at_level():
    """Sets the instruction set of the kernels until the test ends."""
    before = extension.MODULE.cpu_level()

    def set_level(name: str) -> None:
        if extension.MODULE.set_cpu_level(name) != name:
            pytest.skip(f"this CPU has no {name}")

    yield set_level
    extension.MODULE.set_cpu_level(before)


@pytest.fixture
def with_threads():
    """Sets the number of threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
