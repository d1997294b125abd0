"""Features of sampled pixels: feature maps of a network, read between their cells by bilinear interpolation.

As Agostinelli et al. (2022, "How stable are transferability metrics evaluations?") sample them: an equal number of
pixels per image, balanced over the classes of the image. Labels are read at the pixel of the full-size mask, so that
thin classes survive a coarse feature map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, v2

from itm.core.errors import SettingError
from itm.core.seeding import derive_seed
from itm.core.settings import Count, settings
from itm.data.masks import IGNORE
from itm.extraction.readouts.readout import Rows

if TYPE_CHECKING:
    from itm.data.image_set import ImageSet
    from itm.models.backbone import Backbone


Sampling = Literal["pixels", "patches"]


@settings("masks")
class MaskSettings:
    """Settings ``masks`` of ``estimate.py``: what is read off a network where images have masks.

    Args:
        sampling: ``"pixels"`` or ``"patches"``, see :class:`Dense`.
        layers: Layers that are read, at even distances along the network's depth.
    """

    sampling: Sampling = "pixels"
    layers: Count = 1


class Points(NamedTuple):
    """Sampled pixels of one image.

    Args:
        places: Centre of each pixel, x and y, from -1 at the left and upper edge to 1, float32, ``[n, 2]``.
        labels: Class of each pixel, int64, ``[n]``.
    """

    places: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dense:
    """Rows of sampled pixels.

    Args:
        per_image: Pixels or patches of an image; all labelled ones where it has fewer.
        seed: Decides the pixels, together with the content of image and mask.
        sampling: ``"pixels"`` draws them, balanced over the classes of the image; ``"patches"`` cuts the image into a
            square grid, reads the feature at the centre of each patch and takes the class of most of its pixels.
        layers: Layers whose features stand side by side in a row, the last layer first.
    """

    per_image: int
    seed: int = 0
    sampling: Sampling = "pixels"
    layers: int = 1

    @classmethod
    def for_images(cls, images: ImageSet, rows: int, seed: int, settings: MaskSettings | None = None) -> Dense:
        """Share a number of rows equally among the images.

        Args:
            images: Images with masks.
            rows: Number of rows of all images together.
            seed: Decides the pixels.
            settings: How they are sampled.

        Raises:
            SettingError: If there are fewer rows than classes.
        """
        if rows < len(images.classes):
            raise SettingError(f"data.rows={rows}: expected {len(images.classes)} pixels or more, one of each class.")
        settings = settings or MaskSettings()
        return cls(max(1, rows // max(1, len(images))), seed, settings.sampling, settings.layers)

    @property
    def key(self) -> str:
        """The readout with its settings."""
        more = "" if self.layers == 1 else f", {self.layers} layers"
        return f"dense, {self.per_image} {self.sampling} per image, seed {self.seed}{more}"

    def transform(self, backbone: Backbone) -> Callable[[Image.Image], Tensor]:
        """Return :func:`whole_image`."""
        return whole_image(backbone)

    def transform_text(self, backbone: Backbone) -> str:
        """Return the transform in one line."""
        return whole_image_text(backbone)

    def read(self, backbone: Backbone, pixels: Tensor, images: ImageSet, indices: Sequence[int]) -> Rows:
        """Compute the features of the sampled pixels."""
        points = [self.points(images, index) for index in indices]
        places = [one.places for one in points]
        x = torch.cat([read_map(maps, places) for maps in backbone.feature_maps(pixels, self.layers)], dim=1)
        rows = torch.tensor(indices, dtype=torch.int64)
        counts = torch.tensor([len(one.labels) for one in points])
        return Rows(rows.repeat_interleave(counts), x, torch.cat([one.labels for one in points]))

    def points(self, images: ImageSet, index: int) -> Points:
        """Sample pixels of one image; the draw does not depend on the other images of the set.

        Raises:
            DataError: If the mask cannot be read.
        """
        mask = images.mask(index)
        if self.sampling == "patches":
            return patches(mask, math.isqrt(self.per_image))
        content = images.digests[index] + (b"" if images.masks is None else images.masks.digests[index])
        words = [int.from_bytes(content[start : start + 8], "big") for start in range(0, len(content), 8)]
        chosen = balanced_pixels(mask.ravel(), self.per_image, derive_seed(self.seed, *words))
        height, width = mask.shape
        rows, columns = np.divmod(chosen, width)
        places = np.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], axis=1)
        return Points(torch.from_numpy(places).float(), torch.from_numpy(mask.ravel()[chosen].astype(np.int64)))


def balanced_pixels(mask: NDArray[np.uint8], count: int, seed: int) -> NDArray[np.int64]:
    """Draw pixels without replacement, in equal numbers from the classes of a mask.

    A class with fewer pixels than its share gives all, and the other classes share the rest. What does not divide
    goes to classes by lot.

    Args:
        mask: Class of each pixel, :data:`itm.data.masks.IGNORE` for pixels that are never drawn, ``[P]``.
        count: Number of pixels; all labelled ones where there are fewer.
        seed: Decides the draw.

    Returns:
        Ascending indices of the drawn pixels, ``[min(count, labelled)]``.
    """
    generator = np.random.default_rng(seed)
    sizes = np.bincount(mask, minlength=256)
    sizes[IGNORE] = 0
    classes = np.flatnonzero(sizes)
    shares = _equal_shares(sizes[classes], count, generator)
    chosen = [
        generator.choice(np.flatnonzero(mask == label), size=share, replace=False)
        for label, share in zip(classes.tolist(), shares.tolist(), strict=True)
    ]
    return np.sort(np.concatenate([*chosen, np.empty(0, dtype=np.int64)]))


def patches(mask: NDArray[np.uint8], side: int) -> Points:
    """Cut a mask into ``side x side`` patches, each with the class of most of its labelled pixels.

    Args:
        mask: Class of each pixel, :data:`itm.data.masks.IGNORE` where there is none, ``[H, W]``.
        side: Patches along each side; fewer where the mask has fewer pixels.

    Returns:
        Centre and class of each patch, row by row; patches of which more than half is ignored are left out.
    """
    height, width = mask.shape
    tall, wide = min(side, height), min(side, width)
    cells = (np.arange(height) * tall // height)[:, None] * wide + (np.arange(width) * wide // width)[None]
    counts = np.bincount(cells.ravel() * 256 + mask.ravel(), minlength=256 * tall * wide).reshape(-1, 256)
    kept = np.flatnonzero(2 * counts[:, IGNORE] <= counts.sum(axis=1))
    rows, columns = np.divmod(kept, wide)
    places = np.stack([(2 * columns + 1) / wide - 1, (2 * rows + 1) / tall - 1], axis=1)
    counts[:, IGNORE] = 0
    labels = counts[kept].argmax(axis=1)
    return Points(torch.from_numpy(places).float(), torch.from_numpy(labels))


def _equal_shares(sizes: NDArray[np.int64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Share ``count`` among classes as equally as their sizes allow."""
    shares = np.zeros_like(sizes)
    left = min(count, int(sizes.sum()))
    while left:
        open_ = np.flatnonzero(shares < sizes)
        each = left // len(open_)
        if each == 0:
            shares[generator.permutation(open_)[:left]] += 1
            break
        given = np.minimum(each, (sizes - shares)[open_])
        shares[open_] += given
        left -= int(given.sum())
    return shares


def read_map(maps: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Read feature maps at some places of each image by bilinear interpolation.

    Args:
        maps: Feature maps, ``[B, D, h, w]``.
        places: Places of each image, x and y from -1 to 1 between the edges, ``[n_b, 2]``.

    Returns:
        Features of all places, image by image, ``[sum n_b, D]``.
    """
    read = [
        F.grid_sample(one[None], grid[None, None].to(one), padding_mode="border", align_corners=False)[0, :, 0].T
        for one, grid in zip(maps, places, strict=True)
    ]
    return torch.cat(read)


def whole_image(backbone: Backbone) -> Callable[[Image.Image], Tensor]:
    """Return the transform of segmentation: the whole image, squashed to the network's square input.

    A relative place in the image is the same in the input and in the feature map, so one rule relates masks of any
    size to features.
    """
    side, interpolation = backbone.input_size, InterpolationMode(backbone.interpolation)
    resize = v2.Resize((side, side), interpolation=interpolation, antialias=True)
    return cast("Callable[[Image.Image], Tensor]", v2.Compose([resize, v2.PILToTensor()]))


def whole_image_text(backbone: Backbone) -> str:
    """Return :func:`whole_image` in one line that is the same for the same preprocessing."""
    side = backbone.input_size
    normalisation = backbone.transform_text.partition(", mean ")[2]
    return f"resize both sides {side} {backbone.interpolation}, mean {normalisation}"
