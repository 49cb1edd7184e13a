from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig

import pytest
import torch

from ecgtwin_fast import extension, info
from ecgtwin_fast.ops import OPERATORS
from ecgtwin_fast.ops.operator import BACKENDS


def python(*arguments: str, **environment: str) -> str:
    """What a fresh Python prints, errors included."""
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def operator_rows(text: str) -> dict[str, list[str]]:
    rows = [line.split() for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows if row and row[0] in OPERATORS}


def test_report_with_the_extension():
    text = info.report()
    assert f"torch         {torch.__version__}" in text
    assert f"in use: {extension.MODULE.best_cpu_level()}" in text
    assert {name: row[:2] for name, row in operator_rows(text).items()} == dict.fromkeys(
        OPERATORS, ["yes", "yes"]
    )


def test_the_environment_caps_the_cpu_level():
    assert "in use: generic" in python("-m", "ecgtwin_fast.info", ECGTWIN_CPU="generic")


WITHOUT = """
import torch
from ecgtwin_fast.info import report
from ecgtwin_fast.ops import OPERATORS, modulated_layer_norm
x, row = torch.randn(2, 3, 8), torch.randn(2, 8)
for _ in range(2):
    out = modulated_layer_norm(x, row, row)
assert torch.equal(out, OPERATORS["modulated_layer_norm"].reference(x, row, row))
print(report())
"""


def test_without_the_extension_operators_run_their_reference_and_say_so_once():
    text = python("-c", WITHOUT, ECGTWIN_EXTENSION="0")
    assert text.count("runs its PyTorch reference on cpu: the compiled operators were left out") == 1
    assert "absent: the compiled operators were left out by ECGTWIN_EXTENSION=0" in text
    assert {name: row[:2] for name, row in operator_rows(text).items()} == dict.fromkeys(
        OPERATORS, ["yes", "no"]
    )


BUILD = {"torch": "2.13.0+cpu", "torch_cuda": "", "python": "cpython-311", "cuda": ""}


@pytest.mark.parametrize(
    ("torch_version", "cuda", "tag", "reason"),
    [
        ("2.13.0+cpu", None, "cpython-311", None),
        ("2.13.1+cu130", "13.0", "cpython-311", None),
        ("2.11.0+cu130", "13.0", "cpython-311", "built for torch 2.13, but torch 2.11.0+cu130 is installed"),
        ("2.13.0+cpu", None, "cpython-312", "built for Python cpython-311, but this is cpython-312"),
    ],
)
def test_mismatch_is_one_line(torch_version, cuda, tag, reason):
    actual = extension.mismatch(BUILD, torch_version, cuda, tag)
    assert actual is None if reason is None else reason in actual and "\n" not in actual


@pytest.mark.parametrize(("cuda", "fits"), [("13.2", True), ("12.8", False), (None, False)])
def test_mismatch_of_cuda(cuda, fits):
    build = BUILD | {"torch_cuda": "13.0", "cuda": "90a-real"}
    actual = extension.mismatch(build, "2.13.0", cuda, "cpython-311")
    assert (actual is None) == fits and (fits or "built for CUDA 13.0" in actual)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder that the loader takes for the package's own, without a module in it."""
    monkeypatch.setattr(extension, "FOLDER", tmp_path)
    return tmp_path


def test_not_built_says_how_to_build(package):
    module, reason = extension._load()
    assert module is None
    assert reason.endswith("they are not built; in the source folder run: " + extension.REBUILD)


@pytest.mark.parametrize("content", ["", "{}", '{"torch": '])
def test_a_damaged_description_of_the_build_counts_as_not_built(package, content):
    (package / "_build.json").write_text(content)
    assert "they are not built" in extension._load()[1]


def test_another_torch_is_recognised_before_the_module_is_loaded(package):
    tag, suffix = (sysconfig.get_config_var(name) for name in ("SOABI", "EXT_SUFFIX"))
    (package / f"_C{suffix}").write_bytes(b"no module: to load it would fail in another way")
    (package / "_build.json").write_text(json.dumps(BUILD | {"torch": "1.0.0", "python": tag}))
    reason = extension._load()[1]
    assert "built for torch 1.0, but torch" in reason and extension.REBUILD in reason


def test_every_operator_answers_for_every_backend():
    for operator in OPERATORS.values():
        reasons = [operator.why_not(backend) for backend in BACKENDS]
        assert reasons[:2] == [None, None]
        assert all(reason is None or (reason and "\n" not in reason) for reason in reasons)
        with pytest.raises(KeyError):
            operator.why_not("abacus")
