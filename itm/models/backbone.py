"""Pre-trained networks as feature extractors, each with the preprocessing and pooling that its weights were made for.

Weights come from timm's or torchvision's hub (``pretrained``), from a file (``checkpoint``), or, for controls, from a
seeded random initialisation. Features are pooled as the weights' authors evaluate them:

- ``gap``: the global average of the last feature map (convolutional networks);
- ``cls``: the class token after the last LayerNorm (supervised ViT, DINO, MoCo v3);
- ``mean``: the LayerNorm of the mean of the last block's patch tokens (MAE, SimMIM, BEiT). Pre-trained MAE and SimMIM
  weights lack this LayerNorm; it starts as the identity scale, as it does when their authors fine-tune.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal, cast

import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from itm.core.errors import SettingError
from itm.models.builder import Network, NetworkBuilder
from itm.models.checkpoints import LAYOUTS, digest
from itm.models.entry import ZooEntry
from itm.models.preprocessing import describe
from itm.models.pretraining import NO_WEIGHTS

UNTRAINED = "none (randomly initialised control)"
"""Pre-training of a model without weights, in words."""


class Backbone(nn.Module):
    """A network that turns images into features; built by :func:`load_backbone`.

    Attributes:
        net: The network, with its source head where the weights have one; in evaluation mode.
        name: The zoo's name.
        model: timm's name, or ``torchvision:<name>``, with the network's arguments where there are any.
        dim: Width of a feature, ``D``.
        input_size: Side of the square that the network sees, in pixels.
        pooling: ``"gap"``, ``"cls"``, ``"mean"``, or timm's word for a rarer one.
        num_parameters: Number of weights without the source head.
        license: Licence of the weights.
        pretraining: How the weights came about.
        source_accuracy: ImageNet top-1 in percent, or None where not known.
        weights_digest: SHA-256 over names, shapes and values of the network's tensors.
        transform: Makes a PIL image in RGB a uint8 tensor ``[3, H, W]``: resize and crop, no normalisation.
        preprocessing: Arguments of timm's ``create_transform``, with mean and std.
        interpolation: How that resizes: ``"bicubic"``, ``"bilinear"``, ...
        transform_text: All of the preprocessing in one line, the same for the same preprocessing.
        mean: What is subtracted from pixels in [0, 1], ``[1, 3, 1, 1]``.
        std: What they are then divided by, ``[1, 3, 1, 1]``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: Network,
        preprocessing: Mapping[str, Any],
        *,
        name: str,
        model: str,
        license: str = "unknown",
        pretraining: str = UNTRAINED,
        source_accuracy: float | None = None,
    ) -> None:
        super().__init__()
        net = network.net
        self.net = net.eval()
        self.name, self.model, self.pooling = name, model, network.pooling
        self.license, self.pretraining, self.source_accuracy = license, pretraining, source_accuracy
        self.has_head = network.has_head
        self.dim = int(getattr(net, "head_hidden_size", None) or cast(int, net.num_features))
        self.input_size = int(preprocessing["input_size"][-1])
        self.weights_digest = digest(net.state_dict())
        self.transform: Callable[[Image.Image], Tensor] = create_transform(**preprocessing, normalize=False)
        self.preprocessing = dict(preprocessing)
        self.interpolation = str(preprocessing["interpolation"])
        self.transform_text = describe(preprocessing)
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(preprocessing[key]).view(1, 3, 1, 1), persistent=False)

    @property
    def num_parameters(self) -> int:
        """Number of weights without the source head."""
        in_heads = {id(weight) for weight in self.head_parameters()}
        return sum(weight.numel() for weight in self.net.parameters() if id(weight) not in in_heads)

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the weights of the source head, which no feature depends on; empty where there is none."""
        try:
            head = cast(Any, self.net).get_classifier()
        except AttributeError:  # some networks of timm, built without a classifier, cannot say so
            return []
        return [weight for part in (head if isinstance(head, tuple) else (head,)) for weight in part.parameters()]

    def normalize(self, images: Tensor) -> Tensor:
        """Bring uint8 images ``[B, 3, H, W]`` to the range that the network was trained on."""
        return (images.to(self.mean.dtype) / 255 - self.mean) / self.std

    def features(self, images: Tensor) -> Tensor:
        """Compute features ``[B, D]`` of uint8 images ``[B, 3, H, W]``; differentiable, for fine-tuning."""
        net = cast(Any, self.net)
        return cast(Tensor, net.forward_head(net.forward_features(self.normalize(images)), pre_logits=True))

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute the last feature map ``[B, D', h, w]`` of uint8 images ``[B, 3, H, W]``; differentiable.

        The map of a transformer holds its patch tokens after the last LayerNorm. ``D'`` may differ from ``dim``: some
        networks widen their features after pooling.

        Raises:
            SettingError: If the network has no feature map.
        """
        return self.feature_maps(images)[0]

    def feature_maps(self, images: Tensor, count: int = 1) -> list[Tensor]:
        """Compute the maps of some layers in one pass, the last layer first, as :meth:`feature_map` does.

        Args:
            images: uint8, ``[B, 3, H, W]``.
            count: Number of layers, at even distances along the network's depth; a network of fewer gives all of
                them, and one without timm's ``forward_intermediates`` gives the last one alone.

        Raises:
            SettingError: If the network has no feature map.
        """
        net, images = cast(Any, self.net), self.normalize(images)
        if hasattr(net, "forward_intermediates"):
            settings = {"norm": True, "output_fmt": "NCHW", "intermediates_only": True}
            maps = net.forward_intermediates(images, indices=1 if count == 1 else None, **settings)
            chosen = {round((len(maps) - 1) * (1 - step / count)) for step in range(count)}
            return [maps[place] for place in sorted(chosen, reverse=True)]
        last = net.feature_map(images) if hasattr(net, "feature_map") else net.forward_features(images)
        if last is None or last.ndim != 4:
            raise SettingError(
                f"zoo.{self.name}: {self.model} gives no feature map, which segmentation needs; take a convolutional "
                "network or one of timm with forward_intermediates."
            )
        return [last]

    @cached_property
    def map_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the last feature map.

        Raises:
            SettingError: If the network has no feature map.
        """
        return self.map_shapes(1)[0]

    def map_shapes(self, count: int) -> list[tuple[int, int, int]]:
        """Return the shapes of the maps that :meth:`feature_maps` computes of one image, the last layer first."""
        blank = torch.zeros(1, 3, self.input_size, self.input_size, dtype=torch.uint8, device=self.mean.device)
        training = self.net.training
        with torch.no_grad():
            maps = self.eval().feature_maps(blank, count)
        self.train(training)
        return [(one.shape[1], one.shape[2], one.shape[3]) for one in maps]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute features and, where the loaded weights have a head, its logits.

        Args:
            images: uint8, ``[B, 3, H, W]``, as ``transform`` makes them.

        Returns:
            Features before the head, ``[B, D]``, and source logits, ``[B, K]``, or None.
        """
        net = cast(Any, self.net)
        tokens = net.forward_features(self.normalize(images))
        features = net.forward_head(tokens, pre_logits=True)
        return features, net.forward_head(tokens) if self.has_head else None


def load_backbone(
    name: str,
    *,
    model: str | None = None,
    library: Literal["timm", "torchvision", "open_clip"] | None = None,
    model_args: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    checkpoint: str | None = None,
    layout: str = "timm",
    pooling: str | None = None,
    image_size: int | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    seed: int = 0,
    license: str | None = None,
    source_accuracy: float | None = None,
    pretraining: str | None = None,
    **misspelt: Any,
) -> Backbone:
    """Build one entry of a model zoo.

    With neither ``pretrained`` nor ``checkpoint`` the network is a randomly initialised control, marked as such, and
    the same for the same seed.

    Args:
        name: The zoo's name for it.
        model: timm's name, with or without its tag, ``torchvision:<name>`` or ``open_clip:<architecture>/<tag>``;
            ``name`` where not given.
        library: ``"timm"``, ``"torchvision"`` or ``"open_clip"``, in place of the prefix of ``model``.
        model_args: Arguments of the network's constructor that differ from that name's: widths, depths, patch size, ...
        pretrained: Fetch the weights that timm or torchvision publishes under that name.
        checkpoint: A local weight file, or ``package:<name>`` for the one that a Python package ships, or
            ``repository:<path>`` for one in this project's repository.
        layout: Who wrote the checkpoint: a key of :data:`itm.models.checkpoints.LAYOUTS`.
        pooling: ``"cls"`` or ``"mean"`` for a transformer with a class token; the authors' own where not given.
        image_size: Side in pixels; the weights' own where not given. What is learned per position is resampled.
        preprocessing: What differs from the model's own: ``crop_pct``, ``crop_mode``, ``interpolation``, ``mean``,
            ``std``.
        seed: Seed of the tensors that the weights do not fill.
        license: Licence of the weights; the hub's where not given.
        source_accuracy: ImageNet top-1 in percent.
        pretraining: How the weights came about; the hub's words where not given.
        misspelt: Refused, with the closest known setting.

    Returns:
        The backbone, in evaluation mode, on the CPU.

    Raises:
        SettingError: If a setting has a value it cannot take; the message begins with ``zoo.<name>.<setting>``.
        CheckpointError: If weights cannot be fetched, are missing, unsafe or damaged, or do not fit the network.
    """
    given = {
        "model": model,
        "library": library,
        "model_args": model_args,
        "pretrained": pretrained,
        "checkpoint": checkpoint,
        "layout": layout,
        "pooling": pooling,
        "image_size": image_size,
        "preprocessing": preprocessing,
        "seed": seed,
        "license": license,
        "source_accuracy": source_accuracy,
        "pretraining": pretraining,
    }
    return build_backbone(ZooEntry.read(name, given | misspelt))


def build_backbone(entry: ZooEntry) -> Backbone:
    """Build the network of a checked entry; see :func:`load_backbone`."""
    family, layout = entry.find_model(), LAYOUTS[entry.layout]
    arguments = dict(entry.model_args or {})
    builder = NetworkBuilder(family, layout, entry.image_size, entry.seed, f"zoo.{entry.name}", arguments)
    network, origin, license_ = _build_network(entry, builder)
    size = entry.image_size or arguments.get(family.size_argument)
    backbone = Backbone(
        network,
        {
            **family.preprocessing,
            **layout.preprocessing,
            **(entry.preprocessing or {}),
            **({} if size is None else {"input_size": (3, size, size)}),
        },
        name=entry.name,
        # part of the identity of features and trials: the tensors alone do not show the number of attention heads
        model=entry.model_name + (json.dumps(arguments, sort_keys=True) if arguments else ""),
        license=entry.license or license_,
        pretraining=entry.pretraining or origin,
        source_accuracy=entry.source_accuracy,
    )
    if entry.image_size is not None:
        _try(backbone, f"{entry.setting('image_size')}={entry.image_size}")
    return backbone


def _build_network(entry: ZooEntry, builder: NetworkBuilder) -> tuple[Network, str, str]:
    """Return the network with the entry's weights, how they came about, and their licence."""
    source = entry.setting("pretrained")
    if entry.pretrained:
        network = builder.build(builder.fetch(), entry.pooling, source)
        return network, builder.family.pretraining, builder.family.license
    if entry.checkpoint:
        weights = builder.read(entry.checkpoint)
        network = builder.build(weights, entry.pooling, f"{entry.setting('checkpoint')}={entry.checkpoint}")
        return network, f"{entry.layout} checkpoint {entry.checkpoint}", "unknown"
    return builder.build(None, entry.pooling, source), UNTRAINED, NO_WEIGHTS


def _try(backbone: Backbone, setting: str) -> None:
    """Refuse an image size that the network cannot take, before any image is read."""
    side = backbone.input_size
    patch = getattr(getattr(backbone.net, "patch_embed", None), "patch_size", (1, 1))
    pixels = patch[0] if isinstance(patch, tuple) else int(patch)
    if side % pixels:
        raise SettingError(f"{setting}: expected a multiple of the network's patches of {pixels} pixels.")
    try:
        with torch.inference_mode():
            backbone(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise SettingError(f"{setting}: the network cannot take it ({str(error).splitlines()[0]}).") from error
