"""Entries of a zoo: their settings, checked without building a network."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from itm.core.errors import ItmError, SettingError, unknown
from itm.core.settings import settings
from itm.models import torchvision, vlm
from itm.models.checkpoints import LAYOUTS, locate
from itm.models.families import Family, find_model
from itm.models.preprocessing import check_preprocessing

_MOST_PIXELS = 8192  # per side
_MODEL = "a model's name"
_PREFIXES = {"torchvision": torchvision.PREFIX, "open_clip": vlm.PREFIX}
_CHECKPOINT = "a path, package:<name> or repository:<path>"


@settings("zoo.{name}")
class ZooEntry:
    """Settings of one model of a zoo; :func:`itm.models.backbone.load_backbone` describes each.

    Raises:
        SettingError: For the first wrong setting; the message begins with ``zoo.<name>``.
    """

    name: Annotated[str, Field(description="the name of a zoo's entry")]
    model: Annotated[str | None, Field(description=_MODEL)] = None
    library: Annotated[Literal["timm", "torchvision", "open_clip"] | None, Field(description="a library's name")] = None
    model_args: Annotated[Mapping[str, Any] | None, Field(description="a mapping of the network's arguments")] = None
    pretrained: Annotated[bool, Field(description="true or false")] = False
    checkpoint: Annotated[str | None, Field(description=_CHECKPOINT)] = None
    layout: Annotated[str, Field(description="a layout's name")] = "timm"
    pooling: Annotated[str | None, Field(description="a pooling's name")] = None
    image_size: Annotated[int | None, Field(description="pixels, a whole number")] = None
    preprocessing: Annotated[
        Mapping[str, Any] | None, Field(description="a mapping, as in {crop_pct: 1.0, mean: [...], std: [...]}")
    ] = None
    seed: Annotated[int, Field(description="a whole number")] = 0
    license: Annotated[str | None, Field(description="text")] = None
    source_accuracy: Annotated[float | None, Field(description="a percentage")] = None
    pretraining: Annotated[str | None, Field(description="text")] = None

    @classmethod
    def read(cls, name: str, given: Mapping[str, Any] | None) -> ZooEntry:
        """Read an entry as a zoo holds it: its settings by name, or None where the name says all.

        Raises:
            SettingError: For the first setting that is not known or wrong.
        """
        if not isinstance(given, Mapping | None):
            raise SettingError(f"zoo.{name}={given}: expected settings by name, as in {{model: resnet18}}.")
        values = {str(key): value for key, value in (given or {}).items()}
        allowed = sorted(field.name for field in fields(cls) if field.name != "name")
        for key in values:
            if key not in allowed:
                closest = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
                hint = f" Did you mean {closest[0]!r}?" if closest else ""
                raise SettingError(f"zoo.{name}.{key}: not known.{hint} Allowed: {', '.join(allowed)}.")
        return cls(name, **values)

    def __post_init__(self) -> None:
        self._check_values()
        self._check_weights()

    @property
    def model_name(self) -> str:
        """Name of the network: ``model``, or the entry's own name where that is not given; with the library's prefix.

        ``library: open_clip`` with ``model: ViT-B-32/openai`` is the same as ``model: open_clip:ViT-B-32/openai``.
        """
        name = self.model or self.name
        prefix = _PREFIXES.get(self.library or "timm", "")
        return name if name.startswith(prefix) else f"{prefix}{name}"

    @property
    def has_weights(self) -> bool:
        """Whether weights are loaded; without them the network is a randomly initialised control."""
        return bool(self.pretrained or self.checkpoint)

    def setting(self, key: str) -> str:
        """Return the full name of a setting, as the user types it."""
        return f"zoo.{self.name}.{key}"

    def find_model(self) -> Family:
        """Find the network's family.

        Raises:
            SettingError: If the model is unknown; the message names the closest.
        """
        return find_model(self.model_name, self.setting("model"))

    def find_checkpoint(self) -> Path | None:
        """Find the checkpoint's file; None where the entry has none.

        Raises:
            CheckpointError: If the file does not exist.
        """
        if not self.checkpoint:
            return None
        return locate(self.checkpoint, LAYOUTS[self.layout], self.setting("checkpoint"))

    def _check_values(self) -> None:
        check_preprocessing(self.setting("preprocessing."), self.preprocessing or {})
        if self.layout not in LAYOUTS:
            raise unknown(self.setting("layout"), self.layout, LAYOUTS)
        if self.image_size is not None and not 1 <= self.image_size <= _MOST_PIXELS:
            raise self._wrong("image_size", f"1 to {_MOST_PIXELS} pixels")
        if not -(2**63) <= self.seed < 2**63:
            raise self._wrong("seed", "a whole number of at most 63 bits")
        if self.source_accuracy is not None and not 0 <= self.source_accuracy <= 100:  # NaN is not either
            raise self._wrong("source_accuracy", "a percentage from 0 to 100")
        for key, text, expected in (("model", self.model, _MODEL), ("checkpoint", self.checkpoint, _CHECKPOINT)):
            if text is not None and not text.strip():
                raise SettingError(f"{self.setting(key)}: expected {expected}, found a blank text.")

    def _check_weights(self) -> None:
        """Refuse settings that contradict each other about where weights come from."""
        if self.layout != "timm" and not self.checkpoint:
            layout, checkpoint = self.setting("layout"), self.setting("checkpoint")
            raise SettingError(f"{layout}={self.layout}: says who wrote a checkpoint; set {checkpoint} too.")
        if self.pretrained and self.checkpoint:
            raise SettingError(f"zoo.{self.name}: both pretrained=true and checkpoint={self.checkpoint}; give one.")
        if self.pretraining and not self.has_weights:
            raise SettingError(
                f"{self.setting('pretraining')}={self.pretraining}: no weights are loaded; set "
                f"{self.setting('pretrained')}=true or {self.setting('checkpoint')}, or leave pretraining out for a "
                "randomly initialised control."
            )

    def _wrong(self, key: str, expected: str) -> SettingError:
        return SettingError(f"{self.setting(key)}={getattr(self, key)}: expected {expected}.")


def check_zoo(zoo: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Check every entry of a zoo without building a network: settings, names of models, checkpoint files.

    Args:
        zoo: Settings of :func:`itm.models.backbone.load_backbone` by name.

    Raises:
        SettingError: With the first wrong setting of every entry, its model that is not known and its missing file.
    """
    mistakes: list[str] = []
    for name, given in zoo.items():
        try:
            entry = ZooEntry.read(name, given)
        except ItmError as error:
            mistakes.append(str(error))
            continue
        for check in (entry.find_model, entry.find_checkpoint):
            try:
                check()
            except ItmError as error:
                mistakes.append(str(error))
    if mistakes:
        raise SettingError("; ".join(mistakes))
