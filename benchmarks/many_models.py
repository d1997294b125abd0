"""Memory and time of a ranking of many stored models, whose features together exceed the memory.

A few distinct feature matrices stand in the store, and the models take turns with them, which spares the disk. Each
number of models is ranked in a process of its own; its peak memory is what the system counted.

    python benchmarks/many_models.py --models 50 100 200 --scorer regularized_hscore
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from itm.core.console import print_frame
from itm.data.image_set import ImageSet
from itm.extraction.extract import Extraction, read_features
from itm.extraction.store import FeatureKey, FeatureStore, Shard
from itm.extraction.stored_features import StoredFeatures
from itm.ranking.ranking import rank

DISTINCT = 8
CLASSES = 10


def flat_images(count: int) -> ImageSet:
    return ImageSet(
        "many", "train", tuple("abcdefghij"), torch.arange(count) % CLASSES, np.zeros((count, 1, 1), np.uint8)
    )


def key_of(number: int) -> FeatureKey:
    return FeatureKey("random", str(number), "none", "none", "32", "many", name=f"matrix{number}")


def fill(store: FeatureStore, rows: int, dim: int) -> None:
    """Write the distinct matrices: classes on random axes, under noise that differs between the matrices."""
    for number in range(DISTINCT):
        generator = torch.Generator().manual_seed(number)
        y = torch.arange(rows) % CLASSES
        x = torch.randn(rows, dim, generator=generator) + torch.randn(CLASSES, dim, generator=generator)[y] * number / 8
        key = key_of(number)
        store.prepare(key, rows)
        for start, stop in store.spans(rows):
            store.write(key, Shard(start, stop, torch.arange(start, stop), x[start:stop], y[start:stop], seconds=1.0))


def measure(folder: Path, models: int, rows: int, scorer: str) -> dict[str, float]:
    """Rank in this process."""
    store, images = FeatureStore(folder), flat_images(rows)
    pool = StoredFeatures(images, store)
    for number in range(models):
        key = key_of(number % DISTINCT)
        pool.add(
            f"model{number}", Extraction(read_features(images, store, key), 1.0, 1.0, True, key, torch.arange(rows))
        )
    start, cpu = time.perf_counter(), time.process_time()
    ranking = rank(pool, scorer)
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    assert len(ranking.entries) == models
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"models": models, "peak GiB": peak, "seconds": seconds, "CPU s": used, "CPU s per model": used / models}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--scorer", default="regularized_hscore")
    parser.add_argument("--store", type=Path, help="used by the processes of this script")
    arguments = parser.parse_args()
    if arguments.store is not None:
        torch.set_num_threads(1)
        print(json.dumps(measure(arguments.store, arguments.models[0], arguments.rows, arguments.scorer)))
        return
    with tempfile.TemporaryDirectory() as folder:
        fill(FeatureStore(folder), arguments.rows, arguments.dim)
        found = []
        for models in arguments.models:
            words = ["--models", str(models), "--rows", str(arguments.rows), "--scorer", arguments.scorer]
            done = subprocess.run(
                [sys.executable, __file__, "--store", folder, *words],
                check=True,
                capture_output=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
    size = arguments.rows * arguments.dim * 4 / 2**30
    title = f"{arguments.scorer}, {arguments.rows} x {arguments.dim} ({size:.3f} GiB per model)"
    print_frame(pd.DataFrame(found).set_index("models"), title, digits=2)


if __name__ == "__main__":
    main()
