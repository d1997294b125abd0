"""The network that a set of weights needs: timm's or torchvision's, sized, pooled and headed as the weights are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import Tensor, nn

from itm.core.errors import CheckpointError, SettingError, unknown
from itm.models.checkpoints import Layout, locate, read
from itm.models.families import Family
from itm.models.foreign import fit_names
from itm.models.loading import check_values, load_weights, match_by_order

# arguments of create_model that have settings of their own, or would make another interface of the network
_OURS = ("pretrained", "checkpoint_path", "num_classes", "in_chans", "global_pool", "features_only", "weights")
_POSITIONS = ("pos_embed", "encoder.pos_embedding")  # timm's and torchvision's names
_BIASES = "relative_position_bias_table"
_TIMM_POOLING = {"cls": "token", "mean": "avg"}  # our word: timm's, for transformers with a class token


def build_network(
    family: Family, arguments: Mapping[str, Any], num_classes: int, setting: str, **ours: Any
) -> nn.Module:
    """Build a network with arguments of the user's, initialised by the global random state.

    Args:
        family: The model.
        arguments: Of the network's constructor: widths, depths, patch size, ...
        num_classes: Outputs of its head, 0 for none.
        setting: The arguments' setting as the user typed it, for messages.
        ours: Further arguments, which follow from other settings.

    Raises:
        SettingError: If the network does not take such arguments.
    """
    for key in arguments:
        if key in _OURS:
            raise SettingError(f"{setting}.{key}: is not set here: it follows from the other settings and the weights.")
    try:
        return family.build(num_classes, **arguments, **ours)
    except (TypeError, ValueError, AssertionError, RuntimeError, LookupError, ArithmeticError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingError(f"{setting}={dict(arguments)}: {family.name} cannot be built so ({reason}).") from error


@dataclass(frozen=True)
class Network:
    """A network with its weights.

    Args:
        net: Has timm's ``forward_features`` and ``forward_head``.
        pooling: ``"gap"``, ``"cls"``, ``"mean"``, or timm's word for a rarer one.
        has_head: Whether ``forward_head`` makes source logits.
    """

    net: nn.Module
    pooling: str
    has_head: bool


@dataclass(frozen=True)
class NetworkBuilder:
    """Builds the network that a set of weights needs and loads them into it.

    Args:
        family: The model.
        layout: Who wrote the weights.
        image_size: Side in pixels, or None for the weights' own.
        seed: Of what the weights do not fill.
        zoo: The zoo entry as the user typed it, for messages.
        model_args: Arguments of the network that the weights were trained with.
    """

    family: Family
    layout: Layout
    image_size: int | None
    seed: int
    zoo: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        special = (kept for start, kept in self.layout.arguments.items() if self.family.name.startswith(start))
        size = {self.family.size_argument: self.image_size} if self.image_size and self.family.resizable else {}
        object.__setattr__(self, "arguments", dict(next(special, {})) | dict(self.model_args) | size)

    def fetch(self) -> dict[str, Tensor]:
        """Return the weights that the model's library publishes.

        Raises:
            CheckpointError: If they cannot be had.
        """
        try:
            return self.family.pretrained()
        except Exception as error:  # each hub client fails with classes of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"{self.zoo}.pretrained=true: the weights of {self.family.name} could not be fetched ({reason}). "
                f"Without a network, copy {self.family.hub} here and set "
                f"++{self.zoo}.pretrained=false ++{self.zoo}.checkpoint=<file>."
            ) from error

    def read(self, checkpoint: str) -> dict[str, Tensor]:
        """Return the weights in a file, under the network's names.

        Raises:
            CheckpointError: If the file is missing, unsafe, damaged, or of another network.
        """
        setting = f"{self.zoo}.checkpoint"
        weights = read(locate(checkpoint, self.layout, setting), self.layout, setting)
        source = f"{setting}={checkpoint}"
        if self.layout.by_order:
            last = list(weights.values())[-1]
            net = self._without_memory(len(last) if last.ndim > 0 else 1)
            return match_by_order(weights, net.state_dict(), source)
        if self.layout.any_holder:
            return fit_names(weights, self._without_memory(2), self.family.classifiers, source)
        return weights

    def build(self, weights: Mapping[str, Tensor] | None, pooling: str | None, source: str) -> Network:
        """Build the network and load the weights.

        Args:
            weights: Under the network's names, or None for a random control.
            pooling: The user's choice, or None.
            source: The setting that the weights come from, for messages.

        Raises:
            SettingError: If the network cannot be pooled so.
            CheckpointError: If the weights do not fit.
        """
        heads = self.family.classifiers
        weights = weights or {}
        found = [weights[f"{head}.weight"] for head in heads if f"{head}.weight" in weights]
        for head, weight in zip(heads, found, strict=False):
            check_values(f"{head}.weight", weight, True, source)
        found = [weight for weight in found if weight.ndim in (2, 4)]  # linear, or a convolution of one pixel
        classes = len(found[0]) if found and len(found) == len(heads) else 0
        net = self._build(classes)
        own = _pooling_of(net)
        trained = _trained_pooling(own, net, weights)
        allowed = tuple(_TIMM_POOLING) if own in _TIMM_POOLING else (own,)
        authors = self.layout.pooling or self.family.pooling
        wanted = pooling or (authors if authors in allowed else trained)
        if wanted not in allowed:
            raise unknown(f"{self.zoo}.pooling", wanted, allowed)
        has_head = classes > 0 and wanted == trained  # a head reads the pooling it was trained on, no other
        if classes and not has_head:
            weights = {name: value for name, value in weights.items() if name.rpartition(".")[0] not in heads}
        if wanted != own or (classes > 0) != has_head:
            arguments = {"global_pool": _TIMM_POOLING[wanted]} if wanted != own else {}
            net = self._build(classes if has_head else 0, **arguments)
        if weights and not has_head:  # torchvision's networks keep a head, as initialised, until `finish` removes it
            kept = net.state_dict()
            weights = {name: kept[name] for name in kept if name.rpartition(".")[0] in heads} | dict(weights)
        if weights:
            load_weights(net, self._resampled(weights, net), source)
        return Network(self.family.finish(net, has_head), wanted, has_head)

    def _without_memory(self, num_classes: int) -> nn.Module:
        """Build the network on the meta device, for its names and shapes."""
        with torch.device("meta"):
            return self._build(num_classes)

    def _build(self, num_classes: int, **arguments: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if not self.model_args and self.family.size_argument not in self.arguments:
                return self.family.build(num_classes, **self.arguments, **arguments)
            if not self.model_args:
                return self._build_resized(num_classes, arguments)
            return build_network(self.family, self.arguments, num_classes, f"{self.zoo}.model_args", **arguments)

    def _build_resized(self, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
        """Build for the image size asked for; constructors of timm refuse a size in several ways."""
        try:
            return self.family.build(num_classes, **self.arguments, **arguments)
        except (AssertionError, ValueError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            setting = f"{self.zoo}.image_size={self.image_size}"
            raise SettingError(f"{setting}: the network cannot take it ({reason}).") from error

    def _resampled(self, weights: Mapping[str, Tensor], net: nn.Module) -> Mapping[str, Tensor]:
        """Resample what a transformer learned per position to the image size asked for."""
        if self.image_size is None and self.family.size_argument not in self.arguments:
            return weights
        prefix = 0 if getattr(net, "no_embed_class", False) else int(getattr(net, "num_prefix_tokens", 1))
        expected = net.state_dict()
        resampled = dict(weights)
        for name, value in weights.items():
            if name not in expected or value.shape == expected[name].shape:
                continue  # what fits, and what belongs to nothing and will be refused
            own = expected[name].shape
            if name in _POSITIONS and value.ndim == 3 and _is_square(value.shape[1] - prefix):
                check_values(name, value, True, f"{self.zoo}.checkpoint")
                resampled[name] = resample_abs_pos_embed(value, _grid_of(net), num_prefix_tokens=prefix)
            elif name.endswith(_BIASES) and value.ndim == 2 and value.shape[1:] == own[1:]:
                extra = 0 if _is_square(own[0]) else 3  # places of a class token
                if _is_square(len(value) - extra):
                    check_values(name, value, True, f"{self.zoo}.checkpoint")
                    window = (math.isqrt(own[0] - extra) + 1) // 2
                    resampled[name] = resize_rel_pos_bias_table(value, (window, window), own)
        return resampled


def _grid_of(net: Any) -> tuple[int, int]:
    """Return rows and columns of a transformer's patches."""
    if hasattr(net, "patch_embed"):
        return cast(tuple[int, int], tuple(net.patch_embed.grid_size))
    side = net.image_size // net.patch_size  # torchvision's
    return side, side


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _pooling_of(net: nn.Module) -> str:
    """Name the pooling that the network was built with."""
    pool = getattr(net, "global_pool", "class_token" if hasattr(net, "class_token") else "avg")
    word = pool if isinstance(pool, str) else getattr(pool, "pool_type", "avg")
    if isinstance(getattr(net, "cls_token", None), nn.Parameter):
        return {"token": "cls", "avg": "mean"}.get(word, word)
    return "gap" if word in ("avg", "") else str(word)


def _trained_pooling(own: str, net: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Infer from the place of the last LayerNorm how the weights were pooled when their head was trained."""
    norms = {"norm.weight", "fc_norm.weight"}
    in_network, in_weights = norms & net.state_dict().keys(), norms & weights.keys()
    if own not in _TIMM_POOLING or in_network == in_weights or len(in_weights) != 1:
        return own
    return "cls" if "norm.weight" in in_weights else "mean"
