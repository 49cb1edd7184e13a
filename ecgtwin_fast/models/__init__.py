"""The published networks in plain PyTorch: the definition of correct that every faster path is tested against."""

from __future__ import annotations

from importlib import import_module

from torch import nn

NETWORKS = {
    "dit": ("ecgtwin", "DiT"),
    "ibe": ("extractor", "BaseExtractor"),
    "enc": ("vae", "Encoder"),
    "dec": ("vae", "Decoder"),
    "unet": ("diffusets", "DiffuSETSUNet"),
    "dit_adaln": ("baselines", "DiTAdaLN"),
    "dit_attn": ("baselines", "DiTAttn"),
    "unet_adax": ("unet_adax", "UNetAdaX"),
    "clip": ("ecg_text", "ECGTextEncoder"),
}


def create(name: str, **sizes) -> nn.Module:
    """A network by name, with the published configuration unless `sizes` say otherwise.

    Names: `dit` (ECGTwin's denoiser with AdaX), `ibe` (Individual Base Extractor), `enc` and `dec` (VAE), `unet`
    (DiffuSETS), `dit_adaln`, `dit_attn`, `unet_adax` (the paper's ablations), `clip` (ECG-text encoder of the metrics).
    State-dict names are the published ones. Weights are PyTorch's default initialisation.

    Raises:
        ValueError: unknown name. TypeError: a size that the network does not have.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(NETWORKS)}")
    module, cls = NETWORKS[name]
    return getattr(import_module(f"{__name__}.{module}"), cls)(**sizes)
