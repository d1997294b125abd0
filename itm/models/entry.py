"""Entries of a zoo: their settings, checked without building a network."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from itm.core.errors import ItmError, SettingError, unknown
from itm.models.checkpoints import LAYOUTS, locate
from itm.models.families import find_model
from itm.models.preprocessing import check_preprocessing

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
    check_preprocessing(f"{zoo}.preprocessing.", settings["preprocessing"] or {})
    if settings["layout"] not in LAYOUTS:
        raise unknown(f"{zoo}.layout", settings["layout"], LAYOUTS)
    if settings["layout"] != "timm" and not settings["checkpoint"]:
        raise SettingError(f"{zoo}.layout={settings['layout']}: says who wrote a checkpoint; set {zoo}.checkpoint too.")
    if settings["image_size"] is not None and not 1 <= settings["image_size"] <= _MOST_PIXELS:
        raise SettingError(f"{zoo}.image_size={settings['image_size']}: expected 1 to {_MOST_PIXELS} pixels.")
    if not -(2**63) <= settings["seed"] < 2**63:
        raise SettingError(f"{zoo}.seed={settings['seed']}: expected a whole number of at most 63 bits.")
    accuracy = settings["source_accuracy"]
    if accuracy is not None and not 0 <= accuracy <= 100:  # NaN is not either
        raise SettingError(f"{zoo}.source_accuracy={accuracy}: expected a percentage from 0 to 100.")
    for key in ("model", "checkpoint"):
        if settings[key] is not None and not settings[key].strip():
            raise SettingError(f"{zoo}.{key}: expected {SETTINGS[key][1]}, found a blank text.")
    if settings["pretrained"] and settings["checkpoint"]:
        raise SettingError(f"{zoo}: both pretrained=true and checkpoint={settings['checkpoint']}; give one.")
    if settings["pretraining"] and not (settings["pretrained"] or settings["checkpoint"]):
        raise SettingError(
            f"{zoo}.pretraining={settings['pretraining']}: no weights are loaded; set {zoo}.pretrained=true or "
            f"{zoo}.checkpoint, or leave pretraining out for a randomly initialised control."
        )


def check_zoo(zoo: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Check every entry of a zoo without building a network: settings, names of models, checkpoint files.

    Args:
        zoo: Settings of :func:`itm.models.backbone.load_backbone` by name.

    Raises:
        SettingError: With every mistake, if there is one.
    """
    mistakes = []
    for name, entry in zoo.items():
        for check in (_check_settings, _check_model, _check_file):
            try:
                check(name, entry or {})
            except ItmError as error:
                mistakes.append(str(error))
                if check is _check_settings:
                    break  # the others read the settings
    if mistakes:
        raise SettingError("; ".join(mistakes))


def _check_settings(name: str, entry: Mapping[str, Any]) -> None:
    if not isinstance(entry, Mapping):
        raise SettingError(f"zoo.{name}={entry}: expected settings by name, as in {{model: resnet18}}.")
    given = {str(key): value for key, value in entry.items()}
    settings = {key: given.pop(key, default) for key, default in _DEFAULTS.items()}
    check_settings(f"zoo.{name}", given, settings)


def _check_model(name: str, entry: Mapping[str, Any]) -> None:
    find_model(entry.get("model") or name, f"zoo.{name}.model")


def _check_file(name: str, entry: Mapping[str, Any]) -> None:
    if entry.get("checkpoint"):
        locate(entry["checkpoint"], LAYOUTS[entry.get("layout", "timm")], f"zoo.{name}.checkpoint")
