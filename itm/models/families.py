"""Models of timm and of torchvision behind one interface: facts before weights, then the network."""

from __future__ import annotations

import difflib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import timm
from timm.models import PretrainedCfg, load_model_config_from_hf
from torch import Tensor, nn

from itm.core.errors import SettingError
from itm.models import onnx_network, vlm
from itm.models.pixels import RAW_RGB, RawRgb
from itm.models.torchvision import PREFIX, TorchvisionModel

_PREPROCESSING = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
_HUB = ("hf-hub:", "hf_hub:", "local-dir:")


class Family(Protocol):
    """Facts of a library about one of its models."""

    name: str
    resizable: bool  # built for one image size, which can be given
    hub: str
    license: str
    pretraining: str
    preprocessing: dict[str, Any]
    pooling: str | None  # where its authors' differs from the network's own

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Names of the layers that make logits."""

    def pretrained(self) -> dict[str, Tensor]:
        """Fetch the published weights, or take them from the cache."""

    def build(self, num_classes: int, **arguments: Any) -> nn.Module:
        """Build the network, initialised by the global random state."""

    def finish(self, net: nn.Module, has_head: bool) -> nn.Module:
        """Give the network timm's interface, once the weights are in."""


class TimmModel:
    """One model of timm.

    Args:
        model: timm's name, for example ``resnet50`` or ``vit_base_patch16_224.mae``.
        setting: The setting as the user typed it, for messages.

    Raises:
        SettingError: If timm has no such model or no such tag.
    """

    def __init__(self, model: str, setting: str) -> None:
        model = model.removeprefix("timm/")  # as the hub's pages show it
        self.name = self.architecture = model
        try:
            if model.startswith(_HUB):
                config, self.architecture = _hub_config(model)
            else:
                config = timm.get_pretrained_cfg(model, allow_unregistered=False)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise SettingError(
                f"{setting}={model}: its config.json could not be read ({reason}). Check the name and the network; a "
                "folder is local-dir:<path>."
            ) from error
        except RuntimeError as error:
            closest = difflib.get_close_matches(model, [*timm.list_models(), *timm.list_pretrained()], n=4)
            hint = f" Closest: {', '.join(closest)}." if closest else ""
            raise SettingError(
                f"{setting}={model}: not known to timm {timm.__version__}.{hint} "
                f"Allowed: any of timm.list_models(), or {PREFIX}<name>."
            ) from error
        names = config.classifier or ()
        self.classifiers: tuple[str, ...] = (names,) if isinstance(names, str) else tuple(names)
        self.resizable = bool(config.fixed_input_size)
        self.preprocessing: dict[str, Any] = {key: getattr(config, key) for key in _PREPROCESSING}
        self.hub = f"model.safetensors of {config.hf_hub_id}" if config.hf_hub_id else "its weight file"
        self.license = str(config.license or "unknown")
        self.pretraining = f"timm {config.tag or model}"
        self.pooling = "mean" if config.tag == "mae" else None  # timm pools these by class token, their authors do not

    def pretrained(self) -> dict[str, Tensor]:
        """Fetch the published weights, or take them from the cache."""
        return dict(timm.create_model(self.name, pretrained=True).state_dict())

    def build(self, num_classes: int, **arguments: Any) -> nn.Module:
        """Build the network, initialised by the global random state."""
        return timm.create_model(self.architecture, pretrained=False, num_classes=num_classes, **arguments)

    def finish(self, net: nn.Module, has_head: bool) -> nn.Module:
        """Return the network: timm's give features and logits apart."""
        return net


def _hub_config(model: str) -> tuple[Any, str]:
    """Read the configuration of a ``hf-hub:owner/name`` or ``local-dir:<path>`` model, as timm does."""
    source, _, place = model.partition(":")
    if source == "local-dir":
        content = json.loads((Path(place).expanduser() / "config.json").read_text(encoding="utf-8"))
        known, architecture = content.get("pretrained_cfg", content), content["architecture"]
    else:
        known, architecture, _ = load_model_config_from_hf(place)
    names = {field.name for field in fields(PretrainedCfg)}
    return PretrainedCfg(**{key: value for key, value in known.items() if key in names}), str(architecture)


def find_model(model: str, setting: str) -> Family:
    """Look a model up; ``torchvision:``, ``open_clip:`` and ``onnx:`` come before its name, timm's have nothing."""
    if model.startswith(PREFIX):
        return TorchvisionModel(model, setting)
    if model.startswith(vlm.PREFIX):
        return vlm.OpenClipModel(model, setting)
    if model.startswith(onnx_network.PREFIX):
        return onnx_network.OnnxModel(model, setting)
    if model == RAW_RGB:
        return RawRgb(model, setting)
    return TimmModel(model, setting)
