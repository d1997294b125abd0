"""How often the recommendation's probabilities hold, on pools of models whose true accuracies are known.

A statement is the recommendation for a random part of a pool's models (two or more) and a random sample of the target's
images, by ``scorer=combined`` with and without its prior. It holds if the recommended model is the truly best one of
the part, or within one point of its accuracy. Run ``python benchmarks/calibration.py``; the features are taken from the
store (``$ITM_HOME/features``) or extracted, which takes ten minutes, the statements take three of CPU time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from itm.cli.api import default_store
from itm.cli.models import resolve_models
from itm.core.console import print_frame
from itm.core.features import Features
from itm.core.seeding import derive_seed
from itm.core.splits import stratified_sample
from itm.evaluation.priors import mean_rank_elsewhere
from itm.extraction.pool import ExtractionSettings, extract_pool
from itm.groundtruth.tables import load
from itm.ranking.recommend import RESAMPLES, best_probabilities
from itm.ranking.resampling import combined_scores, deviations, random_parts, resampled_scores
from itm.scorers import Combined, RegularizedHScore

TABLES = Path(__file__).parents[1] / "experiments" / "groundtruth"
MEMBER = RegularizedHScore()
IMAGES = (100, 200, 500)
BINS = (0.0, 0.4, 0.6, 0.8, 0.9, 1.0)
CLOSE = 1.0  # points of accuracy


@dataclass(frozen=True)
class Pool:
    """Models whose true accuracies a table has.

    Args:
        zoos: Zoos of the models.
        table: Name of the table in ``experiments/groundtruth``.
        limit: Images of a target.
    """

    zoos: tuple[str, ...]
    table: str
    limit: int


POOLS = {
    "miniature": Pool(("miniature14", "miniature_controls"), "miniature.csv", 500),
    "demo": Pool(("demo",), "demo_56px.csv", 600),
}


def features_of(pool: Pool, target: str) -> Mapping[str, Features]:
    """Return the features of every model of a pool on a target, from the store where it has them."""
    zoo = {name: entry for zoo in pool.zoos for name, entry in resolve_models(zoo, pretrained=True).items()}
    data = {"name": target, "limit": pool.limit, "on_error": "stop", "root": None, "range": None, "bands": None}
    trainer = {"accelerator": "cpu", "precision": "32", "batch_size": 64, "workers": None}
    return extract_pool(ExtractionSettings(data, zoo, trainer, str(default_store()), 0)).features


def statements(
    pool: Mapping[str, Features], table: pd.DataFrame, target: str, images: int, count: int, seed: int
) -> Iterator[dict[str, object]]:
    """Yield recommendations for random parts of a pool, with the points that each loses.

    Args:
        pool: Features by model.
        table: True accuracies, index model, columns target.
        target: The column.
        images: Number of images of the sample.
        count: Number of parts.
        seed: Decides the sample, the halves and the parts.
    """
    models = [name for name in pool if np.isfinite(table[target].get(name, np.nan))]
    labels = pool[models[0]].y
    rows = stratified_sample(labels, min(images, len(labels)), seed)
    sample = {name: pool[name].take(rows) for name in models}
    parts = random_parts(labels[rows], RESAMPLES, seed=seed)
    full = np.array(list(MEMBER.score(sample).values()))
    resampled = resampled_scores(sample, MEMBER, parts, seed=seed)
    generator = np.random.default_rng(seed)
    for _ in range(count):
        size = generator.integers(2, len(models) + 1)
        chosen = np.sort(generator.choice(len(models), size=size, replace=False))
        names = [models[index] for index in chosen]
        truth = table.loc[names, target].to_numpy()
        for prior in (None, mean_rank_elsewhere(table.loc[names], target)):
            scorer = Combined(prior=prior)
            scores = scorer.combine({MEMBER.name: full[chosen]}, names)
            moved = combined_scores(scorer, {MEMBER.name: resampled[:, chosen]}, names)
            spread = deviations(moved, len(rows), len(parts[0]))
            chances = best_probabilities(scores, spread, seed=seed)
            lost = truth.max() - truth[chances.argmax()]
            yield {"prior": prior is not None, "models": size, "stated": chances.max(), "lost": lost}


def measure(count: int, seed: int) -> pd.DataFrame:
    """Return one row per statement: target, images, models, whether a prior is used, probability, points lost."""
    found = []
    for name, pool in POOLS.items():
        table = load(TABLES / pool.table)
        for target in table.columns:
            features = features_of(pool, target)
            for images in IMAGES:
                drawn = statements(features, table, target, images, count, derive_seed(seed, images) % 2**31)
                found += [{"pool": name, "target": target, "images": images, **one} for one in drawn]
    return pd.DataFrame(found)


def reliability(frame: pd.DataFrame, by: str | list[str] | None = None) -> pd.DataFrame:
    """Tabulate statements by their stated probability, or by a further column.

    Returns:
        ``statements``, ``stated``: mean probability, ``best``: share that names the truly best model, ``close``: share
        that names one within a point of the best, ``lost``: mean points lost, and ``least``: the smallest ``close``
        of a target.
    """
    groups = pd.cut(frame["stated"], BINS) if by is None else by
    close = frame.assign(best=frame["lost"] == 0, close=frame["lost"] <= CLOSE)
    grouped = close.groupby(groups, observed=True)
    columns = grouped[["stated", "best", "close", "lost"]].mean()
    keys = [groups, "target"] if by is None else [*np.atleast_1d(by), "target"]
    least = close.groupby(keys, observed=True)["close"].mean()
    levels = list(range(least.index.nlevels - 1))
    return columns.assign(statements=grouped.size(), least=least.groupby(level=levels, observed=True).min())


def main() -> None:
    """Print the reliability tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--statements", type=int, default=100, help="parts of a pool per target and number of images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, help="file for every statement")
    chosen = parser.parse_args()
    frame = measure(chosen.statements, chosen.seed)
    if chosen.csv is not None:
        frame.to_csv(chosen.csv, index=False)
    for prior, rows in frame.groupby("prior"):
        title = "with the prior" if prior else "without a prior"
        print_frame(reliability(rows), f"Stated and true, {title}", digits=2)
        sure = rows[rows["stated"] >= 0.8]
        for column in ("target", "images", "models"):
            print_frame(reliability(sure, column), f"Probability of 0.8 or more, {title}, by {column}", digits=2)


if __name__ == "__main__":
    main()
