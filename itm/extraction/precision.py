"""The precision of extraction where it is left open: bfloat16 where the device has units for it and features agree."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from itm.core.devices import Precision, has_bf16_units
from itm.core.files import storage_errors, write_atomic
from itm.extraction.extract import feature_key, forward, is_stored
from itm.extraction.loader import decode_batches
from itm.extraction.readouts.readout import POOLED, Readout
from itm.extraction.store import FeatureStore

if TYPE_CHECKING:
    from itm.data.image_set import ImageSet
    from itm.models.backbone import Backbone

LEAST_COSINE = 0.999
"""Smallest cosine between the float32 and the bfloat16 features of an image with which bfloat16 is used."""
_IMAGES = 16  # compared, evenly spread over the set: few enough to cost nothing beside an extraction

_log = logging.getLogger(__name__)


def choose_precision(
    backbone: Backbone, images: ImageSet, store: FeatureStore, device: str, readout: Readout = POOLED
) -> Precision:
    """Choose ``"bf16"`` or ``"32"`` for ``trainer.precision=auto``.

    Stored float32 features are used. The comparison is kept beside the bfloat16 features, so it is made once per model
    and set of images.

    Raises:
        StoreError: If the store cannot be read or written.
    """
    if not has_bf16_units(device):
        _log.info("%s: float32, as this device has no bfloat16 units.", backbone.name)
        return "32"
    if is_stored(images, store, feature_key(backbone, images, "32", readout)):
        return "32"
    key = feature_key(backbone, images, "bf16", readout)
    path = store.folder(key) / "agreement.json"
    cosine = _read(path, store)
    if cosine is None:
        cosine = _least_cosine(backbone, images, device, readout)
        _write(path, cosine, store)
    agrees = cosine >= LEAST_COSINE  # false for NaN
    _log.info(
        "%s: %s, as the least cosine between bfloat16 and float32 features of %d images is %.6f.",
        *(backbone.name, "bfloat16" if agrees else "float32", min(_IMAGES, len(images)), cosine),
    )
    return "bf16" if agrees else "32"


def _least_cosine(backbone: Backbone, images: ImageSet, device: str, readout: Readout) -> float:
    """Return the smallest cosine over a few images; 1 where every image is unreadable, which extraction reports."""
    rows = torch.linspace(0, len(images) - 1, min(_IMAGES, len(images))).long().tolist()
    (batch,) = decode_batches(images, readout.transform(backbone), [rows])
    if not batch.indices:
        return 1.0
    backbone.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    read = partial(readout.read, backbone, images=images, indices=batch.indices)
    exact, mixed = (forward(read, batch.images, device, precision).x for precision in ("32", "bf16"))
    return float(torch.cosine_similarity(exact, mixed).min())


def _read(path: Path, store: FeatureStore) -> float | None:
    with storage_errors(f"store={store.root}", "read", path):
        try:
            return float(json.loads(path.read_bytes())["cosine"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # missing, or cut short: compare again
            return None


def _write(path: Path, cosine: float, store: FeatureStore) -> None:
    with storage_errors(f"store={store.root}", "write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({"cosine": cosine}).encode())
