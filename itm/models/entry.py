"""Entries of a zoo: their settings, checked without building a network."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from itm.core.errors import ItmError, SettingError, unknown
from itm.models.checkpoints import LAYOUTS, locate
from itm.models.families import find_model

SETTINGS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "model": (str, "a model's name"),
    "model_args": (Mapping, "a mapping of the network's arguments"),
    "pretrained": (bool, "true or false"),
    "checkpoint": (str, "a path, package:<name> or repository:<path>"),
    "layout": (str, "a layout's name"),
    "pooling": (str, "a pooling's name"),
    "image_size": (int, "pixels, a whole number"),
    "preprocessing": (Mapping, "a mapping, as {crop_pct: 1.0, mean: [...], std: [...]}"),
    "seed": (int, "a whole number"),
    "license": (str, "text"),
    "source_accuracy": ((int, float), "a percentage"),
    "pretraining": (str, "text"),
}
"""Types and their words of each setting, in the order of :func:`itm.models.backbone.load_backbone`."""
_DEFAULTS: dict[str, Any] = {**dict.fromkeys(SETTINGS), "pretrained": False, "layout": "timm", "seed": 0}
_MOST_PIXELS = 8192  # per side
_CROP_MODES = ("center", "squash", "border")
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_PREPROCESSING = ("crop_pct", "crop_mode", "interpolation", "mean", "std")


def check_settings(zoo: str, misspelt: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Check the settings of one entry.

    Args:
        zoo: The entry as the user typed it, ``zoo.<name>``.
        misspelt: Settings that are not known.
        settings: Every setting of :data:`SETTINGS`.

    Raises:
        SettingError: For the first wrong setting.
    """
    for key in misspelt:
        closest = difflib.get_close_matches(key, SETTINGS, n=1, cutoff=0.5)
        hint = f" Did you mean {closest[0]!r}?" if closest else ""
        raise SettingError(f"{zoo}.{key}: not known.{hint} Allowed: {', '.join(sorted(SETTINGS))}.")
    for key, (kind, word) in SETTINGS.items():
        value = settings[key]
        required = key in ("pretrained", "layout", "seed")
        if (required or value is not None) and (not isinstance(value, kind) or (key != "pretrained" and value is True)):
            raise SettingError(f"{zoo}.{key}={value}: expected {word}, found {type(value).__name__}.")
    for key, value in (settings["preprocessing"] or {}).items():
        _check_preprocessing(f"{zoo}.preprocessing", key, value)
    if settings["layout"] not in LAYOUTS:
        raise unknown(f"{zoo}.layout", settings["layout"], LAYOUTS)
    if settings["layout"] != "timm" and not settings["checkpoint"]:
        raise SettingError(f"{zoo}.layout={settings['layout']}: says who wrote a checkpoint; set {zoo}.checkpoint too.")
    if settings["image_size"] is not None and not 1 <= settings["image_size"] <= _MOST_PIXELS:
        raise SettingError(f"{zoo}.image_size={settings['image_size']}: expected 1 to {_MOST_PIXELS} pixels.")
    if not -(2**63) <= settings["seed"] < 2**63:
        raise SettingError(f"{zoo}.seed={settings['seed']}: expected a whole number of at most 63 bits.")
    if settings["pretrained"] and settings["checkpoint"]:
        raise SettingError(f"{zoo}: both pretrained=true and checkpoint={settings['checkpoint']}; give one.")
    if settings["pretraining"] and not (settings["pretrained"] or settings["checkpoint"]):
        raise SettingError(
            f"{zoo}.pretraining={settings['pretraining']}: no weights are loaded; set {zoo}.pretrained=true or "
            f"{zoo}.checkpoint, or leave pretraining out for a randomly initialised control."
        )


def _check_preprocessing(setting: str, key: object, value: Any) -> None:
    """Check one value that differs from the model's own preprocessing."""
    if key not in _PREPROCESSING:
        raise unknown(setting, key, _PREPROCESSING)
    words = {"crop_mode": _CROP_MODES, "interpolation": _INTERPOLATIONS}.get(str(key))
    if words is not None:
        if value not in words:
            raise unknown(f"{setting}.{key}", value, words)
        return
    numbers = [value] if key == "crop_pct" else value
    expected = "a number" if key == "crop_pct" else "three numbers"
    count = 1 if key == "crop_pct" else 3
    if not isinstance(numbers, Sequence) or isinstance(numbers, str) or len(numbers) != count:
        raise SettingError(f"{setting}.{key}={value}: expected {expected}.")
    low = -10.0 if key == "mean" else 1e-3  # crop_pct and std divide; 1/255 keeps pixels of 0 to 255
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= 10:
            raise SettingError(f"{setting}.{key}={value}: expected {expected} from {low:g} to 10.")


def check_zoo(zoo: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Check every entry of a zoo without building a network: settings, names of models, checkpoint files.

    Args:
        zoo: Settings of :func:`itm.models.backbone.load_backbone` by name.

    Raises:
        SettingError: With every mistake, if there is one.
    """
    mistakes = []
    for name, entry in zoo.items():
        try:
            if not isinstance(entry, Mapping | None):
                raise SettingError(f"zoo.{name}={entry}: expected settings by name, as in {{model: resnet18}}.")
            _check_entry(name, {str(key): value for key, value in (entry or {}).items()})
        except ItmError as error:
            mistakes.append(str(error))
    if mistakes:
        raise SettingError("; ".join(mistakes))


def _check_entry(name: str, entry: dict[str, Any]) -> None:
    settings = {key: entry.pop(key, default) for key, default in _DEFAULTS.items()}
    check_settings(f"zoo.{name}", entry, settings)
    find_model(settings["model"] or name, f"zoo.{name}.model")
    if settings["checkpoint"]:
        locate(settings["checkpoint"], LAYOUTS[settings["layout"]], f"zoo.{name}.checkpoint")
