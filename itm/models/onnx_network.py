"""Networks in ONNX files that no library defines: converted by onnx2torch, cut before their pooling and classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from itm.core.errors import SettingError
from itm.models.checkpoints import LAYOUTS, locate
from itm.models.onnx import load_onnx

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

PREFIX = "onnx:"
_CLASSIFIERS = ("MatMul", "Gemm")
# operations between the last feature map and the classifier
_POOLING = ("AveragePool", "GlobalAveragePool", "ReduceMean", "Reshape", "Flatten", "Squeeze", "Dropout")
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class OnnxModel:
    """A convolutional network in an ONNX file, ``onnx:<path>`` or ``onnx:package:<name>``, with its weights.

    Its features are the mean over the last feature map. The file does not state the preprocessing: give it in the
    zoo's entry.

    Args:
        model: As above.
        setting: The setting as the user typed it, for messages.

    Raises:
        SettingError: If onnx2torch is not installed, or the network is not a convolutional classifier.
        CheckpointError: If the file is missing or not ONNX.
    """

    resizable = False
    size_argument = "img_size"
    classifiers: tuple[str, ...] = ()
    pooling: str | None = None
    license = "unknown"

    def __init__(self, model: str, setting: str) -> None:
        self.name = model
        self.path = locate(model.removeprefix(PREFIX), LAYOUTS["onnx"], setting)
        self._typed = f"{setting}={model}"
        whole = load_onnx(self.path, setting)
        self._trunk, side = _trunk(whole, self._typed), _input_side(whole)
        self.preprocessing: dict[str, Any] = {
            "input_size": (3, side, side),
            "crop_pct": 224 / 256,
            "crop_mode": "center",
            "interpolation": "bilinear",
            **_IMAGENET,
        }
        self.hub = self.path.name
        self.pretraining = f"as {self.path.name} holds it"

    def pretrained(self) -> dict[str, Tensor]:
        """Return the weights in the file."""
        return dict(self._convert().state_dict())

    def build(self, num_classes: int, bgr: bool = False, **arguments: Any) -> nn.Module:
        """Build the network, initialised by the global random state.

        Args:
            num_classes: Not used; the network has no head.
            bgr: Whether the network takes blue, green, red.
            arguments: Refused.

        Raises:
            SettingError: If there are other arguments, or onnx2torch cannot convert the network.
        """
        if arguments:
            raise SettingError(f"{self._typed}: takes the argument bgr alone, found {', '.join(arguments)}.")
        net = self._convert(bgr)
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
        return net

    def _convert(self, bgr: bool = False) -> nn.Module:
        """Convert the graph, with the weights of the file."""
        try:
            from onnx2torch import convert
        except ImportError as error:
            raise SettingError(
                f"{self._typed}: the package onnx2torch is not installed; install it with `uv sync --extra demo`."
            ) from error
        try:
            with torch.device("cpu"):
                return Trunk(convert(self._trunk), bgr)
        except NotImplementedError as error:
            raise SettingError(f"{self._typed}: onnx2torch cannot convert it ({error}).") from error

    def finish(self, net: nn.Module, has_head: bool) -> nn.Module:
        """Return the network."""
        return net


class Trunk(nn.Module):
    """A converted network up to its last feature map, with timm's interface.

    Args:
        body: From images ``[B, 3, H, W]`` to a map ``[B, D, h, w]``.
        bgr: Whether the body takes blue, green, red.
    """

    def __init__(self, body: nn.Module, bgr: bool) -> None:
        super().__init__()
        self.body, self.bgr = body, bgr
        with torch.inference_mode():
            self.num_features = int(body.eval()(torch.zeros(1, 3, 64, 64)).shape[1])

    def forward_features(self, images: Tensor) -> Tensor:
        """Compute the last feature map, ``[B, D, h, w]``."""
        return cast(Tensor, self.body(images.flip(1) if self.bgr else images))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the mean over the map, ``[B, D]``."""
        return features.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Compute features ``[B, D]``."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """Return a layer without weights."""
        return nn.Identity()


def _trunk(model: ModelProto, typed: str) -> ModelProto:
    """Cut a classifier behind a transposition of its input, and before pooling and the last linear layer."""
    from onnx import shape_inference
    from onnx.utils import Extractor

    model = shape_inference.infer_shapes(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    last = [node for node in model.graph.node if node.op_type in _CLASSIFIERS]
    if not last or not any(node.op_type == "Conv" for node in model.graph.node):
        raise SettingError(f"{typed}: expected a convolutional network that ends in a linear layer.")
    output = last[-1].input[0]
    while output in makers and makers[output].op_type in _POOLING:
        output = makers[output].input[0]
    images = _image_input(model, makers)
    return Extractor(model).extract_model([images], [output])


def _image_input(model: ModelProto, makers: Mapping[str, NodeProto]) -> str:
    """Return the name of the first value with channels before rows and columns."""
    stored = {initializer.name for initializer in model.graph.initializer}
    name = next(value.name for value in model.graph.input if value.name not in stored)
    users = [node for node in makers.values() if name in node.input]
    if len(users) == 1 and users[0].op_type == "Transpose":
        return str(users[0].output[0])
    return str(name)


def _input_side(model: ModelProto) -> int:
    """Return the side of the input in pixels, 224 where the file leaves it open."""
    sizes = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    sides = [size for size in sizes if size > 3]
    return sides[-1] if sides else 224
