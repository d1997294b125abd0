"""Layer conductance of an image encoder: the share of each block in the length of the image embedding.

Conductance (Dhamdhere, Sundararajan and Yan, ICLR 2019) follows the straight path from a baseline image to the image
and adds up, for each unit of a block, the derivative of a scalar output times the change of the unit. The sum over the
units of one block is the change of the output between the two ends, for every block. Only the absolute values
therefore differ between blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from itm.core.errors import SettingError
from itm.extraction.readouts.readout import Rows

if TYPE_CHECKING:
    from itm.data.image_set import ImageSet
    from itm.models.backbone import Backbone

MOST_BLOCKS = 12
"""A longer chain of blocks is read in this many groups of equal length."""
_CHAINS = ("blocks", "transformer.resblocks", "stages", "layers", "encoder.layers", "trunk", "visual", "net")


@dataclass(frozen=True)
class Conductances:
    """One row per image: the conductance of each block of the network.

    Args:
        steps: Number of intervals of the path.
    """

    steps: int = 16

    @property
    def key(self) -> str:
        """The readout with its settings."""
        return f"conductance, {self.steps} steps from zeros"

    def transform(self, backbone: Backbone) -> Callable[[Image.Image], Tensor]:
        """Return the network's own transform."""
        return backbone.transform

    def transform_text(self, backbone: Backbone) -> str:
        """Return the network's own transform in one line."""
        return backbone.transform_text

    def read(self, backbone: Backbone, pixels: Tensor, images: ImageSet, indices: Sequence[int]) -> Rows:
        """Compute the conductance of all blocks; the labels play no part."""
        net = cast(Any, backbone.net)
        blocks = find_blocks(net, backbone.name)
        # extraction runs in inference mode and mixed precision; gradients need neither
        with torch.inference_mode(False), torch.autocast(pixels.device.type, enabled=False):
            normalized = backbone.normalize(pixels.clone())

            def embed(x: Tensor) -> Tensor:
                return cast(Tensor, net.forward_head(net.forward_features(x), pre_logits=True))

            found = conductance(embed, blocks, normalized, steps=self.steps)
        rows = torch.tensor(indices, dtype=torch.int64)
        return Rows(rows, found.magnitude, images.labels[rows])


@dataclass(frozen=True, eq=False)
class Conductance:
    """Conductance of a batch of images.

    Args:
        magnitude: Sum over the units of a block of the absolute conductance, float32, ``[B, blocks]``.
        signed: The sum without the absolute value, float32, ``[B, blocks]``; equal to ``change`` but for the error of
            the integration.
        change: Difference of the scalar output between image and baseline, float32, ``[B]``.
    """

    magnitude: Tensor
    signed: Tensor
    change: Tensor

    def error(self) -> float:
        """Return the largest deviation from completeness, relative to ``change`` and averaged over the images."""
        deviation = (self.signed - self.change[:, None]).abs().amax(1)
        scale = self.change.abs().clamp_min(torch.finfo(torch.float32).tiny)
        return float((deviation / scale).mean())


def find_blocks(net: nn.Module, name: str = "the network") -> list[nn.Module]:
    """Find the blocks whose outputs are read: stages of a hierarchical encoder, or blocks of a transformer.

    Args:
        net: An encoder of timm, torchvision or open_clip.
        name: The network's name in errors.

    Returns:
        At least two modules in the order of the forward pass, at most :data:`MOST_BLOCKS`: the last of each group.

    Raises:
        SettingError: If the network has fewer than two blocks, or they are not found.
    """
    chain = _chain(net)
    if len(chain) < 2:
        raise SettingError(
            f"{name}: found {len(chain)} block(s) to read conductance from; expected a network of two or more, "
            "with its blocks under the names that timm, torchvision or open_clip give them."
        )
    groups = min(MOST_BLOCKS, len(chain))
    return [chain[-(-(group + 1) * len(chain) // groups) - 1] for group in range(groups)]


def _chain(net: nn.Module) -> list[nn.Module]:
    for path in _CHAINS:
        try:
            found = net.get_submodule(path)
        except AttributeError:
            continue
        children = list(found.children()) if isinstance(found, nn.Sequential | nn.ModuleList) else _chain(found)
        if children:
            return children
    numbered = [getattr(net, f"layer{stage}", None) for stage in range(1, 5)]
    if all(isinstance(stage, nn.Module) for stage in numbered):
        return cast(list[nn.Module], numbered)
    stages = getattr(net, "feature_info", None) or []
    names = [stage["module"] for stage in stages if isinstance(stage, dict)]
    if names:
        return [net.get_submodule(stage) for stage in names]
    features = getattr(net, "features", None)  # torchvision's convolutional networks
    return list(features.children()) if isinstance(features, nn.Sequential) else []


def conductance(
    embed: Callable[[Tensor], Tensor],
    blocks: Sequence[nn.Module],
    images: Tensor,
    *,
    baseline: Tensor | None = None,
    steps: int = 16,
) -> Conductance:
    """Compute the conductance of all blocks in one pass over the path.

    The scalar output is ``F(x) = |z|^2 / 2`` with the embedding ``z`` before L2 normalisation, after which its gradient
    would vanish. The integral is taken by the trapezoid rule: with 16 steps the profile of a real ViT-S is within
    0.004 of that with 128, and 8 steps miss completeness by a third.

    Args:
        embed: From normalised images ``[B, 3, H, W]`` to embeddings ``[B, D]``; differentiable, in evaluation mode.
        blocks: Modules that ``embed`` runs once each, as :func:`find_blocks` returns them.
        images: Normalised images, floating point, ``[B, 3, H, W]``.
        baseline: Start of the path, of the images' shape or one that expands to it; None: zeros.
        steps: Number of intervals of the path.

    Raises:
        SettingError: If ``steps`` is below 1, or a block is not run or its output is not a tensor.
    """
    if steps < 1:
        raise SettingError(f"conductance.steps={steps}: expected 1 or more.")
    start = torch.zeros_like(images) if baseline is None else baseline.expand_as(images)
    outputs, last = _evaluate(embed, blocks, start)
    first = outputs
    totals = [torch.zeros_like(activation) for activation, _ in last]
    for step in range(1, steps + 1):
        # the ends are taken as they are, so that rounding does not move them
        point = images if step == steps else start + (images - start) * (step / steps)
        outputs, current = _evaluate(embed, blocks, point)
        for total, (activation, gradient), (before, gradient_before) in zip(totals, current, last, strict=True):
            total += 0.5 * (gradient + gradient_before) * (activation - before)
        last = current
    flat = [total.flatten(1) for total in totals]
    return Conductance(
        torch.stack([values.abs().sum(1) for values in flat], 1).float(),
        torch.stack([values.sum(1) for values in flat], 1).float(),
        (outputs - first).float(),
    )


def _evaluate(
    embed: Callable[[Tensor], Tensor], blocks: Sequence[nn.Module], images: Tensor
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return the scalar output ``[B]``, and each block's activation with the derivative of the output by it."""
    with torch.enable_grad(), _recorded(blocks) as activations:
        # the path begins at the images, so that blocks are in the graph whether or not weights are frozen
        output = embed(images.detach().requires_grad_()).square().sum(1) / 2
        found = [activations.get(block) for block in blocks]
        if any(activation is None for activation in found):
            raise SettingError("conductance: the forward pass runs a block not at all, or its output is not a tensor.")
        tensors = cast(list[Tensor], found)
        gradients = torch.autograd.grad(output.sum(), tensors)
    pairs = [(tensor.detach(), gradient) for tensor, gradient in zip(tensors, gradients, strict=True)]
    return output.detach(), pairs


@contextmanager
def _recorded(blocks: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Keep the output of each block during a forward pass."""
    activations: dict[nn.Module, Tensor] = {}

    def keep(block: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            activations[block] = output

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        yield activations
    finally:
        for handle in handles:
            handle.remove()
