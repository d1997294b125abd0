"""Memory and CPU seconds of segmentation: extraction of pixels, and every scorer on 20,000 of 1,280 dimensions.

Each measurement runs in a process of its own, on one thread. Extraction reads 203 random tiles of 108 pixels through an
untrained MobileNetV2, whose last map has 1,280 channels. Each scorer runs twice on the same random rows: as pixels of
203 images in nine classes, and as images without groups. Peak memory counts above that of the process with libraries,
features or network alone.

    python benchmarks/segmentation.py                # prints the tables; about 20 minutes on a free core
    python benchmarks/segmentation.py logme nleep    # these scorers only; `extraction` alone for the first table
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import itm.scorers
from itm.core.features import Features
from itm.scorers import PED

ROWS, DIMENSIONS, CLASSES, IMAGES, SIDE = 20_000, 1_280, 9, 203, 108
EXTRACTION = "extraction"
LEFT_OUT = {"leep", "nce", "dcd", "combined"}  # need logits or a table, or repeat others
SCORERS = sorted(itm.scorers.BY_NAME.keys() - LEFT_OUT)


def pixels(groups: bool) -> Features:
    """Rectified Gaussian rows, float32; a class and an image each shift them a little."""
    rng = np.random.default_rng(0)
    image = np.sort(rng.integers(0, IMAGES, ROWS))
    label = rng.integers(0, CLASSES, ROWS)
    shifts = [rng.standard_normal((count, DIMENSIONS)).astype(np.float32) for count in (CLASSES, IMAGES)]
    x = rng.standard_normal((ROWS, DIMENSIONS), dtype=np.float32)
    x += 0.3 * shifts[0][label] + 0.3 * shifts[1][image]
    return Features(np.maximum(x, 0, out=x), label, groups=image if groups else None)


def measure_scorer(name: str, groups: bool) -> dict[str, float]:
    """Return CPU seconds and peak memory in MiB of one scorer."""
    features = pixels(groups)
    source = Features(features.x[:1000].clone(), features.y[:1000])
    settings: dict[str, object] = {"source": {"model": source}} if name == PED.name else {}
    scorer = itm.scorers.BY_NAME[name](**settings)
    few = Features(features.x[:400, :8].clone(), features.y[:400] % 3)
    small = {"source": {"model": few}} if name == PED.name else {}
    itm.scorers.BY_NAME[name](**small).score({"model": few})  # loads what it needs
    before, start = _peak_mib(), time.process_time()
    scorer.score({"model": features})
    return {"seconds": time.process_time() - start, "mib": _peak_mib() - before}


def measure_extraction(folder: str) -> dict[str, float]:
    """Return CPU seconds and peak memory in MiB of an extraction of pixels."""
    from itm.data.image_set import ImageSet
    from itm.data.masks import Masks
    from itm.extraction.extract import extract
    from itm.extraction.readouts.dense import Dense
    from itm.extraction.store import FeatureStore
    from itm.models.backbone import load_backbone

    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    masks = rng.integers(0, CLASSES, (IMAGES, SIDE, SIDE), dtype=np.uint8)
    names = tuple(f"class {number}" for number in range(CLASSES))
    images = ImageSet("tiles", "train", names, torch.zeros(IMAGES).long(), tiles, masks=Masks(masks))
    backbone = load_backbone("net", model="torchvision:mobilenet_v2", image_size=128)
    before, start = _peak_mib(), time.process_time()
    readout = Dense.for_images(images, ROWS, 0)
    found = extract(backbone, images, FeatureStore(folder), readout=readout, progress=False)
    assert found.features.x.shape == (IMAGES * (ROWS // IMAGES), DIMENSIONS)
    return {"seconds": time.process_time() - start, "mib": _peak_mib() - before}


def _peak_mib() -> float:
    # Not getrusage: what it reports a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def in_own_process(task: str, groups: bool = True) -> dict[str, float]:
    """Measure one task in a process of its own."""
    command = [sys.executable, __file__, "--measure", task, *([] if groups else ["--images"])]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | one_thread)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"any of: {EXTRACTION}, {', '.join(SCORERS)}")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--images", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        with tempfile.TemporaryDirectory() as folder:
            task = options.measure
            print(
                json.dumps(
                    measure_extraction(folder) if task == EXTRACTION else measure_scorer(task, not options.images)
                )
            )
        return
    names = options.names or [EXTRACTION, *SCORERS]
    if wrong := sorted(set(names) - {EXTRACTION, *SCORERS}):
        parser.error(f"not known: {', '.join(wrong)}")
    if EXTRACTION in names:
        found = in_own_process(EXTRACTION)
        print(f"Extraction: {found['seconds']:.1f} s, {found['mib']:.0f} MiB above libraries, tiles and network.\n")
    print("| score | pixels s | images s | ratio | pixels MiB |\n|---|---|---|---|---|")
    for name in names:
        if name != EXTRACTION:
            grouped, plain = in_own_process(name), in_own_process(name, groups=False)
            cells = [f"{grouped['seconds']:.1f}", f"{plain['seconds']:.1f}"]
            cells += [f"{grouped['seconds'] / plain['seconds']:.2f}", f"{grouped['mib']:.0f}"]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
