"""Models of timm and of torchvision behind one interface: facts before weights, then the network."""

from __future__ import annotations

import difflib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import huggingface_hub.constants
import timm
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from timm.models import PretrainedCfg
from torch import Tensor, nn

from itm.core.errors import SettingError
from itm.models import onnx_network, vlm
from itm.models.pixels import RAW_RGB, RawRgb
from itm.models.preprocessing import check_preprocessing
from itm.models.torchvision import PREFIX, TorchvisionModel

_PREPROCESSING = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
_HUB = ("hf-hub:", "hf_hub:", "local-dir:")


class Family(Protocol):
    """Facts of a library about one of its models."""

    name: str
    resizable: bool  # built for one image size, which can be given
    size_argument: str  # of the constructor, by which the size is given
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

    size_argument = "img_size"

    def __init__(self, model: str, setting: str) -> None:
        model = model.removeprefix("timm/")  # as the hub's pages show it
        self.name = self.architecture = model
        try:
            if model.startswith(_HUB):
                config, self.architecture = _hub_config(model)
            else:
                known = timm.get_pretrained_cfg(model, allow_unregistered=False)
                config = known or PretrainedCfg()  # with allow_unregistered=False it is never None
        except (OSError, ValueError, KeyError, TypeError, ImportError, RecursionError) as error:
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


def _hub_config(model: str) -> tuple[PretrainedCfg, str]:
    """Read the configuration of a ``hf-hub:owner/name`` or ``local-dir:<path>`` model, as timm does.

    Raises:
        ValueError: If it is not one of timm's, or has a value that the preprocessing cannot take.
        OSError: If it cannot be read; without a network also if it is not in the hub's cache.
    """
    source, _, place = model.partition(":")
    path = Path(place).expanduser() / "config.json" if source == "local-dir" else _fetched_config(place)
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"expected values by name, found a {type(content).__name__}")
    architecture = content.get("architecture")
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ValueError(f"architecture {architecture!r} is not known to timm {timm.__version__}")
    known = content.get("pretrained_cfg", content)
    if not isinstance(known, dict):
        raise ValueError(f"pretrained_cfg: expected values by name, found {known!r}")
    names = {field.name for field in fields(PretrainedCfg)}
    config = PretrainedCfg(**{key: value for key, value in known.items() if key in names})
    check_preprocessing("", {key: getattr(config, key) for key in _PREPROCESSING if key != "input_size"})
    size, heads = config.input_size, config.classifier
    if not isinstance(size, list | tuple) or len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f"input_size={size}: expected three whole numbers")
    if heads is not None and not isinstance(heads, str | list | tuple):
        raise ValueError(f"classifier={heads}: expected a layer's name")
    return config, architecture


def _fetched_config(place: str) -> Path:
    """Return the file of a model of the hub, from the cache where it is there."""
    name, _, revision = place.partition("@")
    cached = try_to_load_from_cache(name, "config.json", revision=revision or None)
    if isinstance(cached, str):
        return Path(cached)
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise OSError(f"not in the cache, and HF_HUB_OFFLINE is set; fetch it: hf download {name}")
    return Path(hf_hub_download(name, "config.json", revision=revision or None))


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
