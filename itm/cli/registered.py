"""Callbacks of Hydra for a registered benchmark: its tables by part, and how many images each score needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from itm.cli.folders import configs_folder
from itm.cli.multirun import MultirunCallback
from itm.core.console import print_frame
from itm.evaluation.registered import ALL, by_images, by_part, too_noisy, truth_noise
from itm.evaluation.registration import read_registration
from itm.models.backbone import UNTRAINED
from itm.report import figures
from itm.report.figures import save
from itm.report.output import write_csv

_SHOWN = [
    "datasets",
    "models",
    "mean",
    "low",
    "high",
    "difference",
    "difference low",
    "difference high",
    "wins",
    "loses",
]


class Registered(MultirunCallback):
    """Collects a multirun over registered datasets into one table by part, without and with the untrained controls.

    ``<name>_rankings.csv`` has every ranking, ``<name>.csv`` the table (:func:`itm.evaluation.registered.by_part`),
    ``<name>.png`` and ``.svg`` the figure of all datasets without the controls.

    Args:
        name: Name of the files.
        registration: As in :class:`itm.cli.multirun.MultirunCallback`.
        truth: The table of the registered datasets, relative to the root of a clone; the setting ``groundtruth`` takes
            its place where it names a file.
        against: The scorer that the others are compared with.
    """

    def __init__(self, name: str, registration: str, truth: str, against: str = "itm") -> None:
        super().__init__(name, registration)
        self.page, self.truth, self.against = registration, truth, against

    def finish(self, config: DictConfig, folder: Path, frame: pd.DataFrame) -> None:
        """Write the rankings, the table and its figure."""
        rankings = frame.rename(columns={"name": "dataset"})
        write_csv(rankings, folder / f"{self.name}_rankings.csv")
        controls = rankings.loc[rankings["pretraining"] == UNTRAINED, "model"].unique()
        named = Path(str(config.groundtruth)).suffix != ""
        truth = Path(config.groundtruth) if named else configs_folder().parent / self.truth
        noisy = too_noisy(truth, list(controls))
        for dataset, ratio in noisy.items():
            print(f"{dataset} is left out: its true accuracies range over {ratio:.1f} times their seed noise, below 5.")
        rankings = rankings[~rankings["dataset"].isin(list(noisy))]
        if rankings.empty:
            print(f"error: {self.name}: no dataset is left to compare scores on.", file=sys.stderr)
            raise SystemExit(2)
        parts, noise = read_registration(configs_folder().parent / self.page), truth_noise(truth)
        table = by_part(rankings, parts, noise, list(controls), against=self.against)
        write_csv(table, folder / f"{self.name}.csv")
        drawn = (table["part"] == ALL) & (table["controls"] == table["controls"].iloc[0])
        whole = table[drawn].set_index("scorer")
        datasets = list(dict.fromkeys(rankings["dataset"]))
        title = f"{self.name}: {int(whole['models'].max())} models on {len(datasets)} datasets"
        pictures = save(figures.benchmark_dots(whole[[*datasets, "mean", "low", "high"]], title), folder / self.name)
        for (part, word), rows in table.groupby(["part", "controls"], sort=False):
            print_frame(rows.set_index("scorer")[_SHOWN], f"{self.name}: {part}, controls {word}", digits=2)
        self.track(config, table, pictures[:1], folder)


class ImagesNeeded(MultirunCallback):
    """Collects a multirun over datasets and numbers of images (``data.limit``) into the curve of each score.

    ``<name>.csv`` has the weighted tau by score, images and dataset, ``<name>.png`` and ``.svg`` the means.

    Args:
        name: Name of the files.
        registration: As in :class:`itm.cli.multirun.MultirunCallback`.
    """

    def finish(self, config: DictConfig, folder: Path, frame: pd.DataFrame) -> None:
        """Write the table and its figure."""
        table = by_images(frame.rename(columns={"name": "dataset"}))
        write_csv(table, folder / f"{self.name}.csv")
        lines = table.rename(columns={"scorer": "model", "mean": "tau_w (scipy)"})
        title = f"{self.name}: mean of {int(table['datasets'].max())} datasets"
        pictures = save(figures.sweep_lines(lines, "images", None, ["tau_w (scipy)"], title), folder / self.name)
        shown = table.pivot(index="scorer", columns="images", values="mean").loc[table["scorer"].unique()]
        print_frame(shown, self.name, digits=2)
        self.track(config, table, pictures[:1], folder)
