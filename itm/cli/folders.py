"""Folders that lie beside the package in a clone and inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def configs_folder() -> Path:
    """Return the folder of the configs: ``itm/configs`` of a wheel, else ``configs`` at the root of the clone."""
    return _shipped("configs")


def groundtruth_folder() -> Path:
    """Return the folder of the shipped ground-truth tables; it may be missing."""
    return _shipped("experiments/groundtruth")


def _shipped(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
