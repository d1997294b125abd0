"""torchvision's classifiers behind the interface of timm's: features first, head apart."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, cast

import torchvision
from torch import Tensor, nn

from itm.core.errors import SettingError

PREFIX = "torchvision:"
# Both rescale the input to the range that their weights know and carry auxiliary heads that only training uses.
_INCEPTION = {"aux_logits": False, "transform_input": True, "init_weights": False}
_ARGUMENTS: dict[str, dict[str, Any]] = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}


class TorchvisionModel:
    """One ``torchvision:<name>`` or ``torchvision:<name>.<weights>``, for example ``torchvision:googlenet``.

    The weights default to torchvision's first ones, ``IMAGENET1K_V1``.

    Args:
        model: As above.
        setting: The setting as the user typed it, for messages.

    Raises:
        SettingError: If torchvision has no such classifier or no such weights.
    """

    size_argument = "image_size"
    license = "BSD-3-Clause"

    def __init__(self, model: str, setting: str) -> None:
        self.name, _, tag = model.removeprefix(PREFIX).partition(".")
        known = torchvision.models.list_models(module=torchvision.models)
        if self.name not in known:
            closest = [PREFIX + name for name in difflib.get_close_matches(self.name, known, n=3)]
            hint = f" Closest: {', '.join(closest)}." if closest else ""
            raise SettingError(f"{setting}={model}: torchvision has no such classifier.{hint}")
        choices = {weights.name: weights for weights in torchvision.models.get_model_weights(self.name)}
        if tag and tag not in choices:
            raise SettingError(f"{setting}={model}: weights {tag!r} not known. Allowed: {', '.join(choices)}.")
        self.weights = choices[tag or next(iter(choices))]
        preset = self.weights.transforms()
        (crop,), (resize,) = preset.crop_size, preset.resize_size
        self.preprocessing = {
            "input_size": (3, crop, crop),
            "crop_pct": crop / resize,
            "crop_mode": "center",
            "interpolation": preset.interpolation.value,
            "mean": tuple(preset.mean),
            "std": tuple(preset.std),
        }
        self.resizable = self.name.startswith("vit_")  # learns one embedding per position
        self.hub = Path(self.weights.url).name
        self.pretraining = f"ImageNet-1k supervised (torchvision {self.weights.name})"
        self.pooling: str | None = None

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Name of the last linear layer."""
        return (_head_name(self.build(num_classes=1)),)

    def pretrained(self) -> dict[str, Tensor]:
        """Fetch the weights, or take them from torch's cache."""
        return dict(self.weights.get_state_dict(progress=False, check_hash=True, weights_only=True))

    def build(self, num_classes: int, **arguments: Any) -> nn.Module:
        """Build the network with its head, under torchvision's names; initialised by the global random state."""
        size = {self.size_argument: self.preprocessing["input_size"][-1]} if self.resizable else {}
        arguments = _ARGUMENTS.get(self.name, {}) | size | arguments
        net = torchvision.models.get_model(self.name, weights=None, num_classes=max(num_classes, 1), **arguments)
        return cast(nn.Module, net)

    def finish(self, net: nn.Module, has_head: bool) -> nn.Module:
        """Part the head from the rest once the weights are in."""
        return SplitNetwork(net, has_head)


class SplitNetwork(nn.Module):
    """A classifier cut before its last linear layer.

    Args:
        net: A torchvision classifier; it is changed.
        has_head: Whether the last layer is kept as the head.
    """

    global_pool = "avg"

    def __init__(self, net: nn.Module, has_head: bool) -> None:
        super().__init__()
        name = _head_name(net)
        parent, _, leaf = name.rpartition(".")
        head = cast(nn.Linear, net.get_submodule(name))
        setattr(net.get_submodule(parent), leaf, nn.Identity())
        self.body = net
        self.head = head if has_head else nn.Identity()
        self.num_features = head.in_features

    def forward_features(self, images: Tensor) -> Tensor:
        """Compute the input of the head, ``[B, D]``."""
        return cast(Tensor, self.body(images))

    def feature_map(self, images: Tensor) -> Tensor | None:
        """Compute the last feature map ``[B, D, h, w]``: the last output of a layer that has several positions.

        Returns:
            The map, or None for a transformer, whose tokens have no such layout.
        """
        if any(isinstance(module, nn.MultiheadAttention) for module in self.body.modules()):
            return None
        found: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] * output.shape[-2] > 1:
                found[:] = [output]

        hooks = [module.register_forward_hook(keep) for module in self.body.modules() if not list(module.children())]
        try:
            self.body(images)
        finally:
            for hook in hooks:
                hook.remove()
        return found[0] if found else None

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Compute the logits ``[B, K]``, or hand back the features."""
        return features if pre_logits else cast(Tensor, self.head(features))

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits ``[B, K]``."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        return self.head


def _head_name(net: nn.Module) -> str:
    names = [str(name) for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        name = PREFIX + type(net).__name__.lower()
        raise SettingError(f"model={name}: its classifier is not a linear layer; take a network of timm instead.")
    return names[-1]
