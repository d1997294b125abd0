"""How much of a network's speed extraction keeps: bare forward passes beside the whole way from image files.

The bare passes read tensors that are already in memory; ``itm.extraction.extract`` decodes files, resizes, and
writes the store.
Both are repeated in turn, so that other load on the machine meets them alike, and the medians are compared.

    python benchmarks/extract.py --images 256 --repeats 5 resnet18 resnet50
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from itm.data.image_set import ImageSet
from itm.extraction.extract import extract
from itm.extraction.store import FeatureStore
from itm.models.backbone import Backbone, load_backbone

FORMATS = {"JPEG": {"quality": 90}, "PNG": {}}


def photos(folder: Path, kind: str, count: int) -> ImageSet:
    """Write photo-like files of 300 to 500 pixels: soft shapes under the noise of a sensor."""
    generator = np.random.default_rng(0)
    files = []
    for number in range(count):
        width, height = (int(side) for side in generator.integers(300, 501, 2))
        shapes = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        pixels = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = (pixels + generator.normal(0, 5, pixels.shape)).clip(0, 255).astype(np.uint8)
        files.append(folder / f"{number}.{kind.lower()}")
        Image.fromarray(noisy).save(files[-1], kind, **FORMATS[kind])
    return ImageSet(f"photos-{kind}", "train", ("a", "b"), torch.arange(count) % 2, tuple(files))


def bare(backbone: Backbone, batches: list[torch.Tensor]) -> None:
    with torch.inference_mode():
        for batch in batches:
            backbone(batch)


def from_files(backbone: Backbone, images: ImageSet, batch_size: int, workers: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        extract(backbone, images, FeatureStore(folder), batch_size=batch_size, workers=workers, progress=False)


def seconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(backbone: Backbone, sets: list[ImageSet], arguments: argparse.Namespace) -> list[list[float]]:
    """Seconds of the bare passes and of the extraction from each set, one list per way."""
    images, size, workers = sets[0], arguments.batch_size, arguments.workers
    decoded = torch.stack([backbone.transform(images.image(index)) for index in range(len(images))])
    batches = list(decoded.contiguous(memory_format=torch.channels_last).split(size))
    backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    bare(backbone, batches[:1])
    ways: list[Callable[[], None]] = [lambda: bare(backbone, batches)]
    ways += [lambda images=images: from_files(backbone, images, size, workers) for images in sets]  # type: ignore[misc]
    return [
        list(times) for times in zip(*([seconds(way) for way in ways] for _ in range(arguments.repeats)), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=["tf_efficientnet_lite0", "resnet18", "resnet50"])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    table = Table(title=f"Images per second, {torch.get_num_threads()} threads, medians of {arguments.repeats}")
    for column in ("backbone", "bare", *(f"{kind}{what}" for kind in FORMATS for what in ("", " share"))):
        table.add_column(column, justify="left" if column == "backbone" else "right")
    with tempfile.TemporaryDirectory() as folder:
        sets = [photos(Path(folder), kind, arguments.images) for kind in FORMATS]
        for model in arguments.models:
            memory, *files = measure(load_backbone(model), sets, arguments)
            row = [f"{arguments.images / statistics.median(memory):.1f}"]
            for times in files:
                share = statistics.median(one / other for one, other in zip(memory, times, strict=True))
                row += [f"{arguments.images / statistics.median(times):.1f}", f"{share:.0%}"]
            table.add_row(model, *row)
    Console().print(table)


if __name__ == "__main__":
    main()
