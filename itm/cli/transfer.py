"""Callback of Hydra that collects a multirun over targets into the table of choosing by source tasks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from itm.cli.folders import configs_folder
from itm.cli.multirun import MultirunCallback
from itm.core.console import markdown, print_frame
from itm.core.errors import ItmError, SettingError
from itm.core.files import write_atomic
from itm.evaluation.benchmark import with_priors
from itm.evaluation.transfer import SCIPY, identified, transfer_table, verdict
from itm.extraction.pool import ExtractionSettings
from itm.ranking.tasks import MEAN_RANK, task_conductance
from itm.report import figures
from itm.report.figures import save
from itm.report.output import write_csv

_START, _END = "<!-- table -->", "<!-- end -->"


class Transfer(MultirunCallback):
    """Writes the table of DCD's readings and controls over targets, see :mod:`itm.evaluation.transfer`.

    ``<name>.csv``, ``.md``, ``.png`` and ``.svg`` hold the table, ``<name>_rankings.csv`` every ranking and
    ``<name>_tasks.csv`` how well conductance distinguishes the targets.

    Args:
        name: Name of the files.
        readme: A page, relative to the root of a clone, whose part between ``<!-- table -->`` and ``<!-- end -->`` the
            table replaces; None for none.
    """

    def __init__(self, name: str, readme: str | None = None) -> None:
        super().__init__(name)
        self.readme = None if readme is None else configs_folder().parent / readme

    def finish(self, config: DictConfig, folder: Path, frame: pd.DataFrame) -> None:
        """Write the rankings, the tables and the sentences that follow.

        Raises:
            SystemExit: With status 2 if no job knew the true accuracies, or a file cannot be written.
        """
        try:
            self._finish(config, folder, frame)
        except ItmError as error:  # Hydra would only warn
            print(f"error: {self.name}: {error}", file=sys.stderr)
            raise SystemExit(2) from error

    def _finish(self, config: DictConfig, folder: Path, frame: pd.DataFrame) -> None:
        if "true_accuracy" not in frame:
            raise SettingError("no job knew true accuracies; set groundtruth=<csv>.")
        rankings = frame.rename(columns={"name": "dataset"})
        write_csv(rankings, folder / f"{self.name}_rankings.csv")
        table = transfer_table(_with_size(rankings), MEAN_RANK)
        settings = _settings(folder / str(rankings["job"].iloc[0]))
        tasks = identified({task: task_conductance(settings, task) for task in dict.fromkeys(rankings["dataset"])})
        write_csv(table, folder / f"{self.name}.csv", index=True)
        write_csv(tasks, folder / f"{self.name}_tasks.csv", index=True)
        readings = [name for name in table.index if str(name).startswith("dcd")]
        sentences = verdict(table, readings, MEAN_RANK, tasks)
        count, targets = rankings["model"].nunique(), list(dict.fromkeys(rankings["dataset"]))
        page = _page(f"{self.name}: {count} models on {', '.join(targets)}", table, tasks, sentences)
        (folder / f"{self.name}.md").write_text(f"# {page}", encoding="utf-8")
        if self.readme is not None:
            replace_table(self.readme, page)
        drawn = figures.benchmark_dots(
            table.rename(columns={SCIPY: "mean"})[["mean", "low", "high"]],
            f"{self.name}: {count} models on {len(targets)} targets",
        )
        pictures = save(drawn, folder / self.name)[:1]
        print_frame(table, self.name, digits=3)
        print_frame(tasks, "share of tasks found again", digits=2)
        print(*sentences, sep="\n")
        self.track(config, table.reset_index(), pictures, folder)


def _settings(job: Path) -> ExtractionSettings:
    """Return the settings of a job's extraction, with the models that it chose."""
    run = OmegaConf.to_container(OmegaConf.load(job / "config.yaml"))
    return ExtractionSettings.from_run(cast(dict[str, Any], run))


def _with_size(rankings: pd.DataFrame) -> pd.DataFrame:
    """Append the ranking by the number of parameters."""
    known = with_priors(rankings)
    return known[known["scorer"] != "mean rank elsewhere (prior)"]


def _page(title: str, table: pd.DataFrame, tasks: pd.DataFrame, sentences: list[str]) -> str:
    parts = [title, *sentences, markdown(table, 3), markdown(tasks, 2)]
    return "\n\n".join(parts) + "\n"


def replace_table(readme: Path, page: str) -> None:
    """Replace the part of a page between its two marks.

    Raises:
        SettingError: If the page or a mark is missing.
    """
    try:
        before, rest = readme.read_text(encoding="utf-8").split(_START)
        _, after = rest.split(_END)
    except (OSError, ValueError) as error:
        raise SettingError(f"readme={readme}: expected a page with {_START} and, below it, {_END}.") from error
    write_atomic(readme, f"{before}{_START}\n\n{page}\n{_END}{after}".encode())
