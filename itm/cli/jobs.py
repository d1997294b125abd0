"""Rankings and comparisons that the jobs of a multirun have left, as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

TRUTH = {"tau_w": "tau_w (scipy)", "regret": "regret (points)"}  # of a whole ranking, not of a model
_ROW = ("scorer", "model", "rank")  # columns that identify a row; the rows show the override `scorer=[...]`


def collect(folder: Path) -> pd.DataFrame:
    """Read the rankings of a multirun's jobs.

    Args:
        folder: The multirun's folder, one numbered folder per job below it.

    Returns:
        One row per job, scorer and model: ``job``, the job's overrides by the last word of their key, then the columns
        of the ranking. A column of the ranking that an override hides is kept as ``<name>_used``. Where a job knew the
        true accuracies: ``tau_w`` (scipy's definition) and ``regret`` (points) of each scorer, and ``prior_tau_w``, the
        best of the rankings that ignore the images.
    """
    frames = []
    for job in sorted(folder.glob("*/ranking.csv"), key=lambda path: (len(path.parent.name), path.parent.name)):
        overrides = yaml.safe_load((job.parent / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
        settings = dict(_setting(word) for word in overrides)
        swept = {name: value for name, value in settings.items() if name not in _ROW}
        frame = pd.read_csv(job).rename(columns={name: f"{name}_used" for name in swept})
        for place, (name, value) in enumerate(swept.items()):
            frame.insert(place, name, value)
        frame.insert(0, "job", job.parent.name)
        frames.append(_with_truth(frame, job.with_name("comparison.csv")))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _with_truth(frame: pd.DataFrame, comparison: Path) -> pd.DataFrame:
    if not comparison.is_file():
        return frame
    rows = pd.read_csv(comparison)
    frame = frame.merge(rows.loc[~rows["prior"], ["scorer", *TRUTH]], on="scorer", how="left")
    return frame.assign(prior_tau_w=rows.loc[rows["prior"], "tau_w"].max())


def _setting(override: str) -> tuple[str, Any]:
    key, _, value = override.partition("=")
    # a list or a mapping is one value of the table, and `null` is a word in it
    simple = value != "null" and value[:1] not in ("[", "{")
    return key.rpartition(".")[2].lstrip("+~"), yaml.safe_load(value) if simple else value


def comparisons(rankings: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return the comparisons with the ground truth of all jobs that have one, with their dataset."""
    frames = []
    for job, dataset in rankings.groupby("job")["dataset"].first().items():
        path = folder / str(job) / "comparison.csv"
        if path.is_file():
            frames.append(pd.read_csv(path).assign(dataset=dataset))
    return pd.concat(frames)
