"""Load fine-tuned weights that ``train_groundtruth.py keep=weights`` wrote, and classify images with them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from itm.core.errors import CheckpointError, DataError, ItmError
from itm.data.decode import decode
from itm.data.value_range import PixelSettings
from itm.groundtruth.module import FineTuneModule, FineTuneSettings
from itm.models.backbone import Backbone
from itm.models.builder import NetworkBuilder
from itm.models.checkpoints import LAYOUTS
from itm.models.families import find_model

FORMAT = "1"
"""Version of a folder's content."""

_SETTINGS = ("adaptation", "rank", "prompts")  # of FineTuneSettings: they decide which weights exist


class FineTuned:
    """A fine-tuned classifier; built by :func:`load_finetuned`.

    Attributes:
        classes: Names of the classes.
        module: The network with its head, in evaluation mode.
    """

    def __init__(self, module: FineTuneModule, classes: Sequence[str], pixels: PixelSettings) -> None:
        self.module, self.classes, self._pixels = module, tuple(classes), pixels

    def predict(self, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
        """Return the name of the most probable class of each image.

        Args:
            paths: Image files, or a single one.

        Raises:
            DataError: If an image cannot be read.
        """
        return [self.classes[index] for index in self.probabilities(paths).argmax(dim=1).tolist()]

    def probabilities(
        self, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], batch_size: int = 64
    ) -> Tensor:
        """Return the class probabilities of images.

        Args:
            paths: Image files, or a single one.
            batch_size: Images in memory at once.

        Returns:
            Probabilities in the order of :attr:`classes`, float32, ``[N, C]``; each row sums to 1.

        Raises:
            DataError: If an image cannot be read.
        """
        files = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
        parts = [torch.empty(0, len(self.classes))]
        with torch.inference_mode():
            for start in range(0, len(files), batch_size):
                chosen = files[start : start + batch_size]
                images = torch.stack([self.module.backbone.transform(decode(path, self._pixels)) for path in chosen])
                parts.append(self.module(images).softmax(dim=1))
        return torch.cat(parts)


def load_finetuned(folder: str | os.PathLike[str]) -> FineTuned:
    """Load fine-tuned weights with exactly the preprocessing that they were trained with.

    Args:
        folder: Folder that ``train_groundtruth.py keep=weights`` wrote.

    Returns:
        The classifier, on the CPU.

    Raises:
        DataError: If a file is missing or is not such a file.
        CheckpointError: If the weights do not fit the network.
    """
    path = Path(folder)
    try:
        with safe_open(path / "model.safetensors", "pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format {metadata.get('format')} of model.safetensors is not {FORMAT}")
        network = json.loads(metadata["network"])
        preprocessing = json.loads((path / "preprocessing.json").read_bytes())
        classes = [str(name) for name in json.loads((path / "labels.json").read_bytes())]
        pixels = PixelSettings(preprocessing.pop("range"), preprocessing.pop("bands"))
        weights = load((path / "model.safetensors").read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: expected a folder that train_groundtruth.py keep=weights wrote ({error}).") from error
    try:
        module = _build(network, preprocessing, len(classes))
    except (ItmError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / 'model.safetensors'}: its network cannot be built ({error}).") from error
    _load(module, weights, path / "model.safetensors")
    return FineTuned(module.eval(), classes, pixels)


def _build(network: Mapping[str, Any], preprocessing: Mapping[str, Any], num_classes: int) -> FineTuneModule:
    setting = f"zoo.{network['name']}"
    builder = NetworkBuilder(
        find_model(network["model"], f"{setting}.model"),
        LAYOUTS[network["layout"]],
        network["image_size"],
        0,
        setting,
        network["model_args"],
    )
    built = builder.build(None, network["pooling"], setting)
    backbone = Backbone(built, preprocessing, name=network["name"], model=network["model"])
    settings = FineTuneSettings(lr=1.0, weight_decay=0.0, **{key: network[key] for key in _SETTINGS})
    return FineTuneModule(backbone, num_classes, settings)


def _load(module: FineTuneModule, weights: Mapping[str, Tensor], path: Path) -> None:
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes that differ
        raise CheckpointError(f"{path}: does not fit the network ({str(error).splitlines()[-1].strip()}).") from error
    needed = set(missing) - set(source_head(module))
    if needed or unexpected:
        name = min([*needed, *unexpected])
        raise CheckpointError(f"{path}: does not fit the network; {name} is missing or not expected.")


def source_head(module: FineTuneModule) -> list[str]:
    """Return the names of the source head's weights, which no prediction depends on."""
    head = {id(weight) for weight in module.backbone.head_parameters()}
    return [name for name, weight in module.named_parameters() if id(weight) in head]
