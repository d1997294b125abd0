"""Choice and cost of a race against the full run, on pools whose full run is affordable.

The full run scores every model on all images with the score that decides. The race starts from other samples for every
seed. It is right where it chooses the full run's model, or one whose true accuracy is at most half a point lower.
Features are kept in the store: the full run extracts them, and the races take parts of them, so only the image passes
that a race would need are counted. Its settings are the defaults, which were set before the first measurement. The
photographs for the sixty networks are stored at 64 pixels, which makes the full run affordable.

    python benchmarks/race.py miniature --seeds 10         # 14 models, 500 images, five targets
    python benchmarks/race.py sixty --seeds 10             # 60 small networks, 2,000 photographs of solar cells
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image

import itm
from itm.cli.api import default_store
from itm.cli.models import resolve_models
from itm.core.console import print_frame
from itm.core.errors import ItmError
from itm.data.image_set import load_images
from itm.evaluation.truth import find_truth
from itm.extraction.pool import ExtractionSettings, extract_pool
from itm.models.backbone import load_backbone
from itm.models.candidates import shipped
from itm.ranking.race import Race, race
from itm.ranking.ranking import rank

TARGETS = ("fashion_mnist_test", "decorative_fonts", "thai_digits", "icon_themes", "clipart")
LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
SIDE = 64
TABLES = Path(itm.__file__).parent.parent / "experiments" / "groundtruth"
Zoo = dict[str, dict[str, Any]]


def settings_of(data: str, limit: int, zoo: Zoo, batch_size: int) -> ExtractionSettings:
    images = {"name": data, "root": None, "limit": limit, "on_error": "stop"}
    trainer = {"accelerator": "cpu", "precision": "32", "batch_size": batch_size, "workers": None}
    return ExtractionSettings(images, zoo, trainer, str(default_store()), 0)


def compare(
    extraction: ExtractionSettings, scorers: Sequence[str], seeds: Sequence[int], truth: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return one row per scorer and seed."""
    pool = extract_pool(extraction)
    full = {scorer: rank(pool.features, scorer) for scorer in scorers}
    rows = []
    for seed in seeds:
        start = time.perf_counter()
        finalists, result = race(extraction, Race(), seed)
        seconds = time.perf_counter() - start
        for scorer in scorers:
            chosen, wanted = rank(finalists.features, scorer).order[0], full[scorer].order[0]
            loss = truth.get(wanted, float("nan")) - truth.get(chosen, float("nan"))
            rows.append(
                {
                    "data": pool.images.name,
                    "scorer": scorer,
                    "seed": seed,
                    "models": len(pool.features),
                    "finalists": len(finalists.features),
                    "chosen": chosen,
                    "full": wanted,
                    "place": full[scorer].order.index(chosen) + 1,
                    "points": loss,
                    "right": chosen == wanted or loss <= 0.5,
                    "passes": result.passes / result.full_passes,
                    "seconds": seconds,
                }
            )
    return rows


def small_photographs(folder: Path) -> Path:
    """Write the solar cells of both splits at 64 pixels, one folder per class; a split alone has fewer than 2,000."""
    for split in ("train", "test"):
        images = load_images("elpv", split=split)
        for index in range(len(images)):
            path = folder / "train" / str(int(images.labels[index])) / f"{split}_{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                images.image(index).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    return folder


def sixty(size: int = SIDE) -> Zoo:
    """Return 17 networks with weights and the 43 of timm's smallest architectures that run at 64 pixels, untrained."""
    demo = resolve_models("demo", True)
    zoo = {name: {**entry, "image_size": size} for name, entry in demo.items() if name in LITES}
    zoo |= resolve_models("miniature14", True)
    architectures = dict.fromkeys(name.partition(".")[0] for name in shipped().sort_values("macs").index)
    for architecture in architectures:
        if len(zoo) == 60:
            break
        entry = {"model": architecture, "pretrained": False, "image_size": size}
        try:
            backbone = load_backbone(architecture, **entry).eval()
            with torch.inference_mode():
                backbone(torch.zeros(2, 3, size, size, dtype=torch.uint8))
        except (ItmError, RuntimeError):  # a network of one fixed size
            continue
        zoo[f"{architecture}_untrained"] = entry
    return zoo


def truth_on(data: str, models: Sequence[str], table: str) -> Mapping[str, float]:
    found = find_truth(str(TABLES / table), data, list(models), TABLES)
    return {} if found is None else found.accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", choices=("miniature", "sixty"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scorers", nargs="+", default=["regularized_hscore", "logme"])
    parser.add_argument("--csv", type=Path, help="write every case")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    rows: list[dict[str, Any]] = []
    if arguments.pool == "miniature":
        zoo = resolve_models("miniature14", True)
        for data in TARGETS:
            truth = truth_on(data, list(zoo), "miniature.csv")
            rows += compare(settings_of(data, 500, zoo, 64), arguments.scorers, seeds, truth)
    else:
        photographs = small_photographs(default_store().parent / "solar_cells_64")
        zoo, truth = sixty(), truth_on("elpv", LITES, "demo_64px.csv")  # others have none
        rows = compare(settings_of(str(photographs), 2000, zoo, 128), arguments.scorers, seeds, truth)
    frame = pd.DataFrame(rows)
    if arguments.csv is not None:
        frame.to_csv(arguments.csv, index=False)
    summary = frame.groupby(["data", "scorer"], sort=False).agg(
        cases=("right", "size"), right=("right", "sum"), worst_place=("place", "max"), most_points=("points", "max"),
        passes=("passes", "mean"), most_passes=("passes", "max"), finalists=("finalists", "mean"),
    )  # fmt: skip
    print_frame(summary.reset_index().set_index("data"), f"Race, {arguments.pool}", digits=3)
    total = frame.groupby("scorer", sort=False).agg(right=("right", "mean"), passes=("passes", "mean"))
    print_frame(total, "All cases", digits=3)


if __name__ == "__main__":
    main()
