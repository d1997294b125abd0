"""Small networks of timm for tests that train or load weights."""

from __future__ import annotations

VIT = {
    "model": "vit_tiny_patch16_224",
    "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
}
CNN = {"model": "resnet10t", "model_args": {"channels": [8, 8, 16, 16]}}
PIXELS = {"interpolation": "bicubic", "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3}
