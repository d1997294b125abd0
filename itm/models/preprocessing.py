"""Preprocessing of images as a zoo or a model's configuration states it: checked, and described in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from itm.core.errors import SettingError, unknown

_WORDS = {
    "crop_mode": ("center", "squash", "border"),
    "interpolation": ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
}
_COUNTS = {"crop_pct": 1, "mean": 3, "std": 3}


def check_preprocessing(prefix: str, settings: Mapping[str, Any]) -> None:
    """Check values of timm's ``create_transform``.

    Args:
        prefix: Prefix of a setting's name as the user typed it.
        settings: ``crop_pct``, ``crop_mode``, ``interpolation``, ``mean``, ``std``, or some.

    Raises:
        SettingError: For the first wrong value.
    """
    for key, value in settings.items():
        if key in _WORDS:
            if value not in _WORDS[key]:
                raise unknown(f"{prefix}{key}", value, _WORDS[key])
        elif key in _COUNTS:
            _check_numbers(f"{prefix}{key}", key, value)
        else:
            raise unknown(f"{prefix.rstrip('.')}", key, [*_COUNTS, *_WORDS])


def describe(preprocessing: Mapping[str, Any]) -> str:
    """Return one line that is the same for the same preprocessing.

    Args:
        preprocessing: Arguments of timm's ``create_transform``, complete.
    """
    side = int(preprocessing["input_size"][-1])
    resize = math.floor(side / preprocessing["crop_pct"])
    how = {"squash": "both sides", "border": "longer side"}.get(preprocessing["crop_mode"], "shorter side")
    mean, std = _in_words(preprocessing["mean"]), _in_words(preprocessing["std"])
    return f"resize {how} {resize} {preprocessing['interpolation']}, centre crop {side}, mean {mean}, std {std}"


def _in_words(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _check_numbers(setting: str, key: str, value: Any) -> None:
    count = _COUNTS[key]
    numbers = [value] if count == 1 else value
    expected = "a number" if count == 1 else "three numbers"
    if not isinstance(numbers, Sequence) or isinstance(numbers, str) or len(numbers) != count:
        raise SettingError(f"{setting}={value}: expected {expected}.")
    low = -10.0 if key == "mean" else 1e-3  # crop_pct and std divide; 1/255 keeps pixels of 0 to 255
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= 10:
            raise SettingError(f"{setting}={value}: expected {expected} from {low:g} to 10.")
