"""Fine-tuning for segmentation: a backbone with a linear decoder on its last feature map.

The decoder is a 1 x 1 convolution whose logits are upsampled bilinearly. Kerssies et al. (CVPRW 2024, "How to benchmark
vision foundation models for semantic segmentation?") found that it ranks fine-tuned encoders as heavier decoders do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from itm.data.image_set import ImageSet
from itm.data.masks import IGNORE
from itm.extraction.readouts.dense import whole_image, whole_image_text
from itm.groundtruth.module import FineTuneModule, accuracies, check_scale
from itm.models.backbone import Backbone

Pair = tuple[Image.Image, tv_tensors.Mask]
"""An image and its mask ``[H, W]``."""


class MaskedImages(Dataset[tuple[Pair, int]]):
    """Images with their masks by index, each as a pair with the label of its image.

    Args:
        images: A set of images with masks.
    """

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Pair, int]:
        mask = tv_tensors.Mask(torch.tensor(self.images.mask(index)))
        return (self.images.image(index), mask), int(self.images.labels[index])


def paired_crops(
    backbone: Backbone, *, scale: tuple[float, float] = (0.25, 1.0), flip: bool = True
) -> Callable[[Pair], tuple[Tensor, Tensor]]:
    """Return random crops for training that treat image and mask alike; masks take the nearest pixel.

    Args:
        backbone: Network that is trained on the crops.
        scale: Smallest and largest share of the image's area that a crop has.
        flip: Mirror each pair left to right with probability 1/2.

    Returns:
        A transform from a pair to pixels, uint8 ``[3, S, S]``, and classes, uint8 ``[S, S]``.

    Raises:
        SettingError: If ``scale`` is not a range within 0..1.
    """
    check_scale(scale)
    side, interpolation = backbone.input_size, InterpolationMode(backbone.interpolation)
    steps: list[nn.Module] = [v2.RandomResizedCrop(side, scale=scale, interpolation=interpolation, antialias=True)]
    steps += [v2.RandomHorizontalFlip()] if flip else []
    return _Paired(v2.Compose([*steps, v2.PILToTensor()]))


def paired_whole(backbone: Backbone) -> Callable[[Pair], tuple[Tensor, Tensor]]:
    """Return the transform of evaluation: the whole image as the network sees it, and the mask at its own size."""
    transform = whole_image(backbone)
    return _Paired(lambda image, mask: (transform(image), mask))


def segmentation_text(backbone: Backbone) -> str:
    """Return preprocessing and decoder in one line, part of a trial's identity."""
    return f"masks at full size, linear decoder on the last map, {whole_image_text(backbone)}"


def collate_masks(items: Sequence[tuple[tuple[Tensor, Tensor], int]]) -> tuple[tuple[Tensor, list[Tensor]], Tensor]:
    """Stack pixels and labels of a batch; masks may differ in size and stay a list."""
    pixels, labels = default_collate([(pixels, label) for (pixels, _), label in items])
    return (pixels, [mask for (_, mask), _ in items]), labels


class SegmentationModule(FineTuneModule):
    """A backbone and a new linear decoder, trained together by AdamW on the cross-entropy of pixels.

    Ignored pixels neither train nor count. The mean IoU stands under ``accuracy`` in :attr:`history`, beside
    ``pixel_accuracy``, ``class_accuracy`` and ``iou_<class>`` by the number of the class, all in percent.

    Attributes:
        keep: Number of the first test images whose predicted masks are kept.
        predictions: Those masks after the last evaluation, uint8 ``[H, W]``.

    Raises:
        SettingError: If the network has no feature map, or as :class:`itm.groundtruth.module.FineTuneModule` does.
    """

    ignore_index = IGNORE
    keep = 0
    predictions: list[Tensor]

    def new_head(self, backbone: Backbone, num_classes: int) -> nn.Module:
        """Build the decoder ``[B, D', h, w]`` to ``[B, C, h, w]``."""
        return nn.Conv2d(backbone.map_shape[0], num_classes, kernel_size=1)

    def features_of(self, backbone: Backbone) -> Callable[[Tensor], Tensor]:
        """Return the function from images to what the decoder sees."""
        return backbone.feature_map

    def training_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> Tensor:
        """Compute the mean cross-entropy of the labelled pixels of a batch."""
        (images, masks), labels = batch
        targets = torch.stack(list(masks)).long()
        logits = upsample(self(images), targets.shape[-2:])
        smoothing = self.settings.label_smoothing
        total = F.cross_entropy(logits, targets, ignore_index=IGNORE, label_smoothing=smoothing, reduction="sum")
        loss = total / (targets != IGNORE).sum().clamp_min(1)  # the mean of an all-ignored batch would be NaN
        self.count_loss(loss, len(labels))
        return loss

    def validation_step(self, batch: tuple[Any, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the confusion matrix of the part with every pixel of its full-size masks."""
        (images, masks), _ = batch
        confusion = self.confusion_of(dataloader_idx)
        is_test = confusion is self.confusion
        if is_test and batch_idx == 0:
            self.predictions = []
        for logits, mask in zip(self(images), masks, strict=True):
            predicted = upsample(logits[None], mask.shape[-2:]).argmax(dim=1)
            confusion.update(predicted, mask[None].long())
            if is_test and len(self.predictions) < self.keep:
                self.predictions.append(predicted[0].to(torch.uint8).cpu())

    def measures(self, confusion: Tensor) -> dict[str, float]:
        """Return mean IoU, accuracies and the IoU of each class, percent."""
        ious = class_ious(confusion)
        present = {index: 100 * iou for index, iou in enumerate(ious.tolist()) if iou == iou}
        pixel_accuracy, class_accuracy = accuracies(confusion)
        numbers = {"accuracy": sum(present.values()) / len(present), "class_accuracy": class_accuracy}
        return numbers | {"pixel_accuracy": pixel_accuracy} | {f"iou_{i}": iou for i, iou in present.items()}


def upsample(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Resize logits ``[B, C, h, w]`` to ``size`` (height, width) by bilinear interpolation, in float32."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)


def class_ious(confusion: Tensor) -> Tensor:
    """Return the intersection over union of each class; NaN where no pixel has the class.

    Args:
        confusion: Number of pixels by true class (rows) and predicted class, ``[C, C]``.

    Returns:
        Numbers in 0..1, float64, ``[C]``.
    """
    confusion = confusion.cpu().double()
    hits, true = confusion.diagonal(), confusion.sum(dim=1)
    return torch.where(true > 0, hits / (true + confusion.sum(dim=0) - hits), torch.nan)


class _Paired:
    """Applies a transform of image and mask to a pair.

    Args:
        transform: Takes image and mask.
    """

    def __init__(self, transform: Callable[[Image.Image, tv_tensors.Mask], Any]) -> None:
        self.transform = transform

    def __call__(self, pair: Pair) -> tuple[Tensor, Tensor]:
        pixels, mask = self.transform(*pair)
        return cast(Tensor, pixels), mask.as_subclass(Tensor)
