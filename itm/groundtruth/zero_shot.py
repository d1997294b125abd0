"""Zero-shot accuracy of vision-language models: a trial without training (Radford et al., ICML 2021)."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from itm.core import provenance
from itm.core.devices import DTYPES
from itm.core.errors import DataError, ItmError
from itm.core.progress import show_progress
from itm.data.image_set import ImageSet
from itm.extraction.loader import decode_batches, worker_errors
from itm.groundtruth.hardware import Hardware
from itm.groundtruth.images import ImageSplits
from itm.groundtruth.module import accuracies
from itm.groundtruth.trials import Record, Trial
from itm.models.backbone import Backbone
from itm.models.prompts import class_embeddings


def evaluate_zero_shot(
    trial: Trial, backbone: Backbone, images: ImageSplits, hardware: Hardware | None = None
) -> Record:
    """Classify the test images by the prompt of a class whose text embedding is nearest.

    Args:
        trial: The trial; its protocol holds the prompts.
        backbone: A model with a text encoder.
        images: The test split is evaluated; the class names are those of the training split.
        hardware: Device settings.

    Returns:
        The record, with one entry in its history: epoch 0, ``accuracy`` and ``class_accuracy`` in per cent, seconds.

    Raises:
        DataError: If an image cannot be read.
    """
    hardware, start = hardware or Hardware(), time.perf_counter()
    provenance.reset_peak_memory(hardware.accelerator)
    facts: dict[str, Any] = {"trainable": 0, "images_at_once": hardware.batch_size}
    try:
        texts = class_embeddings(backbone, images.train.classes, trial.protocol.templates or ())
        confusion = _confusion(backbone, images.test, texts, hardware, DTYPES.get(trial.protocol.precision))
    except DataError:
        raise
    except (ItmError, RuntimeError) as error:
        return Record(trial, " ".join(str(error).split()), (), facts | provenance.facts(hardware.accelerator))
    seconds = time.perf_counter() - start
    accuracy, class_accuracy = accuracies(confusion)
    epoch = {"epoch": 0, "accuracy": accuracy, "class_accuracy": class_accuracy, "seconds": seconds}
    facts |= {"seconds": seconds, "images_per_second": len(images.test) / seconds, "test_images": len(images.test)}
    facts |= provenance.facts(hardware.accelerator)
    if images.skipped:
        facts["skipped"] = list(images.skipped)
    return Record(trial, None, [epoch], facts)


@torch.inference_mode()
def _confusion(
    backbone: Backbone, images: ImageSet, texts: Tensor, hardware: Hardware, dtype: torch.dtype | None
) -> Tensor:
    """Count the images by true class (rows) and predicted class, ``[C, C]``."""
    backbone.eval().to(hardware.accelerator)
    classes = len(texts)
    counts = torch.zeros(classes * classes, dtype=torch.int64)
    rows = list(range(len(images)))
    batches = [rows[start : start + hardware.batch_size] for start in range(0, len(rows), hardware.batch_size)]
    workers = hardware.processes
    with worker_errors(workers), show_progress(f"{backbone.name}: zero-shot", len(rows)) as advance:
        for batch in decode_batches(images, backbone.transform, batches, workers=workers):
            for reason in batch.errors.values():
                raise DataError(f"{reason} Fix or remove the file, or leave such images out: data.on_error=skip.")
            pixels = batch.images.to(hardware.accelerator)
            with torch.autocast(pixels.device.type, dtype, enabled=dtype is not None):
                embeddings = backbone.features(pixels)
            found = (F.normalize(embeddings.float().cpu()) @ texts.T).argmax(1)
            counts += torch.bincount(images.labels[batch.indices] * classes + found, minlength=len(counts))
            advance(len(batch.indices))
    return counts.view(classes, classes)
