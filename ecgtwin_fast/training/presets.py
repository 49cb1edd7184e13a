"""Values of each preset and stage that differ from the published ones."""

from __future__ import annotations

_SMALL = {
    "autoencoder": {
        "loop": {
            "steps": 12_000, "batch": 16, "learning_rate": 2.5e-4, "final_learning_rate": 2e-5, "schedule": "cosine",
            "warmup": 400, "weight_decay": 1e-4, "ema": 0.999, "clip": 50.0, "checkpoint_seconds": 60.0,
        },
        "sizes": {"widths": (32, 96, 192, 256), "groups": 8},
        "kl_ramp_steps": 1000, "scale_range": (0.7, 1.4), "lead_mix": 0.15, "shift": True, "lead_balance": 0.02,
        "standardise": True,
    },
    "extractor": {
        "loop": {
            "steps": 700, "batch": 160, "learning_rate": 1e-3, "final_learning_rate": 1e-5, "warmup": 100,
            "clip": 1.0, "checkpoint_seconds": 60.0,
        },
        "sizes": {"hidden": 128, "layers": 2, "heads": 4, "feed_forward": 512},
        "mini_batch": 160, "both_orders": True,
    },
    "denoiser": {
        "loop": {
            "steps": 20_000, "batch": 32, "learning_rate": 1e-3, "final_learning_rate": 2e-5, "warmup": 300,
            "weight_decay": 1e-4, "ema": 0.999, "clip": 500.0, "checkpoint_seconds": 60.0, "sample_every": 1000,
        },
        "sizes": {"hidden": 128, "depth": 6, "heads": 4, "clip_sample_range": 6.0},
        "focus": (200, 900), "snr_weight": "soft", "snr_gamma": 0.1, "both_orders": True, "identity_start": True,
        "standardise": True,
    },
    "clip": {
        "loop": {"steps": 3000, "batch": 64, "warmup": 100, "checkpoint_seconds": 60.0},
        "sizes": {"stem": 16, "widths": (16, 32, 64, 128), "blocks": (1, 1, 2, 2), "text_hidden": 256},
        "mini_batch": 64,
    },
    "diffusets": {
        "loop": {
            "steps": 5000, "batch": 64, "learning_rate": 1e-3, "final_learning_rate": 2e-5, "warmup": 300,
            "weight_decay": 1e-4, "ema": 0.999, "clip": 500.0, "checkpoint_seconds": 60.0, "sample_every": 1000,
            "bfloat16": False,
        },
        "sizes": {"widths": (16, 32, 48, 64), "heads": 4, "clip_sample_range": 6.0},
        "focus": (200, 900), "snr_weight": "soft", "snr_gamma": 0.1, "standardise": True,
    },
}  # fmt: skip
_SMOKE_LOOP = {"steps": 6, "batch": 8, "warmup": 2, "clip": 100.0, "bfloat16": False, "checkpoint_seconds": 0.5}
_SMOKE = {
    "autoencoder": {
        "loop": {**_SMOKE_LOOP, "schedule": "cosine", "learning_rate": 1e-3, "final_learning_rate": 1e-4},
        "sizes": {"widths": (16, 16, 16, 16), "groups": 4}, "kl_ramp_steps": 3, "standardise": True,
    },
    "extractor": {
        "loop": _SMOKE_LOOP,
        "sizes": {"hidden": 32, "layers": 1, "heads": 2, "feed_forward": 32},
        "mini_batch": 8, "both_orders": True,
    },
    "denoiser": {
        "loop": {
            **_SMOKE_LOOP, "bfloat16": True, "ema": 0.9, "sample_every": 6, "learning_rate": 1e-3,
            "final_learning_rate": 1e-4,
        },
        "sizes": {"hidden": 64, "depth": 1, "heads": 2, "clip_sample_range": 6.0},
        "both_orders": True, "identity_start": True, "standardise": True,
    },
    "clip": {
        "loop": _SMOKE_LOOP,
        "sizes": {"stem": 16, "widths": (16, 32), "blocks": (1, 1), "text_hidden": 32, "width": 16},
        "mini_batch": 8,
    },
    "diffusets": {
        "loop": {
            **_SMOKE_LOOP, "ema": 0.9, "sample_every": 6, "learning_rate": 1e-3, "final_learning_rate": 1e-4,
        },
        "sizes": {"widths": (8, 16), "heads": 2, "clip_sample_range": 6.0},
        "standardise": True,
    },
}  # fmt: skip
_PAPER = {
    "autoencoder": {"loop": {"log_every": 10}},
    "extractor": {},
    "denoiser": {"loop": {"log_every": 10, "sample_every": 5000}},
    "clip": {"loop": {"log_every": 10}},
    "diffusets": {"loop": {"log_every": 10, "sample_every": 5000}},
}
PRESETS = {"paper": _PAPER, "small": _SMALL, "smoke": _SMOKE}
"""By name, what is put over the defaults of a stage's configuration."""
