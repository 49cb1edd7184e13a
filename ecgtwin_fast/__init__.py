"""Personalised 12-lead ECG generation: a patient's ECG under another condition (ECGTwin, arXiv 2508.02720).

Generated ECGs are synthetic and not for diagnosis.
"""

from __future__ import annotations

from importlib import import_module

NOTICE = "Generated ECGs are synthetic and not for diagnosis."

# Loaded on first use, so that `import ecgtwin_fast` and `--help` do not wait for torch.
_HOMES = {
    "DiffuSETS": "diffusets",
    "ECGTwin": "generate",
    "Record": "data.record",
    "read_record": "data.record",
    "accelerate": "drop_in",
    "generate_latents": "engine.latents",
    "restore": "drop_in",
}
_MODULES = ("models", "samplers", "scheduler")

__all__ = [
    "DiffuSETS",
    "ECGTwin",
    "Record",
    "__version__",
    "accelerate",
    "generate_latents",
    "models",
    "read_record",
    "restore",
    "samplers",
    "scheduler",
]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ecgtwin-fast")
    except PackageNotFoundError:
        return "not installed"
