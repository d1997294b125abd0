"""Callbacks of Hydra that collect the jobs of a multirun into one table and one figure."""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from itm.cli.folders import configs_folder
from itm.cli.jobs import TRUTH, collect, comparisons
from itm.cli.targets import build, trusted
from itm.core.console import print_frame
from itm.core.errors import ItmError, unknown
from itm.data.catalog import CATALOG_PREFIX
from itm.evaluation import benchmark
from itm.evaluation.registration import check_registered, read_registration
from itm.evaluation.segmentation import PAPER, SCIPY, segmentation_table
from itm.metrics.uncertainty import chance
from itm.report import figures
from itm.report.figures import Figure, save, sweep_dots, sweep_lines, sweep_spread
from itm.report.output import write_csv

_log = logging.getLogger(__name__)

_DRAW = {"lines": sweep_lines, "dots": sweep_dots, "spread": sweep_spread}

Table = Literal["datasets", "metrics", "subpools", "benchmark", "segmentation"]


class MultirunCallback(Callback, ABC):
    """Collects the rankings of all jobs, keeps their failures for the end and ends the command with status 2 then.

    Subclasses write their table and figure in :meth:`finish`.

    Args:
        name: Name of the files.
        registration: A page that registers datasets, relative to the root of a clone; a job on any other dataset is
            refused (:mod:`itm.evaluation.registration`). None: every dataset may be scored.
    """

    def __init__(self, name: str, registration: str | None = None) -> None:
        self.name = name
        self.registration = None if registration is None else configs_folder().parent / registration
        self.failed: list[str] = []

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a dataset that is not registered, before its images are read.

        Raises:
            SystemExit: With status 2. Hydra only warns of any other exception of a callback.
        """
        if self.registration is None:
            return
        try:
            registered = read_registration(self.registration)
            check_registered([config.data.name.removeprefix(CATALOG_PREFIX)], registered, self.registration)
        except ItmError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from error

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the table of all jobs so far, and keep a job's failure for the end."""
        if job_return.status == JobStatus.FAILED:
            self._keep(config.hydra.job.num, job_return)
        folder = Path(config.hydra.sweep.dir)
        frame = self.read(folder)
        if len(frame):
            write_csv(frame, folder / f"{self.name}.csv")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table, draw the figure and log both."""
        folder = Path(config.hydra.sweep.dir)
        frame = self.read(folder)
        if frame.empty:
            _log.error("No job of %s left a ranking: nothing to collect.", folder)
        else:
            self.finish(config, folder, frame)
        if self.failed:
            print(f"error: {len(self.failed)} job(s) failed: " + " | ".join(self.failed), file=sys.stderr)
            raise SystemExit(2)

    def read(self, folder: Path) -> pd.DataFrame:
        """Return the rankings of all jobs so far, see :func:`itm.cli.jobs.collect`."""
        return collect(folder)

    @abstractmethod
    def finish(self, config: DictConfig, folder: Path, frame: pd.DataFrame) -> None:
        """Print and write the result of the multirun.

        Args:
            config: Config of the multirun.
            folder: Its folder.
            frame: Rankings of its jobs, not empty.
        """

    def track(
        self, config: DictConfig, frame: pd.DataFrame, pictures: Sequence[Path], folder: Path, **settings: Any
    ) -> None:
        """Log the table and the figures where tracking is on."""
        print(f"Table and figure: {folder / self.name}.csv, {', '.join(map(str, pictures))}")
        if "_target_" in config.tracking:
            tracker = build("tracking", config.tracking, trusted(config.get("trust")))
            tracker.log_table(self.name, frame, pictures, folder, {"collects": self.name, **settings})

    def _keep(self, number: int, job_return: JobReturn) -> None:
        """Record a failed job and mark it completed, so that Hydra still calls ``on_multirun_end``."""
        try:
            _ = job_return.return_value
        except (ItmError, InstantiationException) as error:
            self.failed.append(f"{number}: " + " ".join(str(error.__cause__ or error).split()))
        except Exception as error:  # a defect, not a setting: log its traceback
            _log.exception("Job %d failed.", number)
            self.failed.append(f"{number}: {type(error).__name__}: {error}")
        job_return.return_value, job_return.status = None, JobStatus.COMPLETED


class Collect(MultirunCallback):
    """Collects the rankings of a sweep over settings.

    After every job ``<name>.csv`` in the multirun's folder holds all jobs so far, so a later failure costs nothing; at
    the end it adds ``<name>.png`` and ``.svg``, a console table and, where tracking is on, a W&B table. Where the
    ground truth is known, ``<name>_truth.png`` and ``.svg`` show the weighted tau and the regret.

    Args:
        name: Name of the files.
        x: Swept setting on the horizontal axis, or distinguished by colour, by the last word of its key.
        line: Swept setting that distinguishes lines or dots of one ``x``, or None.
        values: Columns to draw, one panel each.
        figure: ``"lines"`` over numbers, ``"dots"`` for words, ``"spread"`` for a setting that should not matter.
        names: Labels for values of ``x``.
    """

    def __init__(
        self,
        name: str,
        x: str,
        line: str | None = None,
        values: Sequence[str] = ("score", "seconds"),
        figure: Literal["lines", "dots", "spread"] = "lines",
        names: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name)
        if figure not in _DRAW:
            raise unknown("figure", figure, _DRAW)
        self.x, self.line, self.values, self.figure = x, line, tuple(values), figure
        self.names = dict(names or {})

    def read(self, folder: Path) -> pd.DataFrame:
        """Return the rankings of all jobs so far, with the labels of ``x``."""
        frame = super().read(folder)
        if self.x in frame and self.names:
            return frame.replace({self.x: self.names})
        return frame

    def finish(self, config: DictConfig, folder: Path, frame: pd.DataFrame) -> None:
        """Draw the swept setting, print one line per value and write the figures."""
        draw, title = _DRAW[self.figure], self._title(config)
        shown = frame
        if frame["scorer"].nunique() > 1:
            shown = frame.assign(model=frame["model"] + ", " + frame["scorer"])
        pictures = [save(draw(shown, self.x, self.line, self.values, title), folder / self.name)[0]]
        if "tau_w" in frame:
            rankings = frame.drop_duplicates(["job", "scorer"]).drop(columns="model")
            rankings = rankings.rename(columns={"scorer": "model", **TRUTH})
            figure = draw(rankings, self.x, self.line, list(TRUTH.values()), title)
            pictures += save(figure, folder / f"{self.name}_truth")[:1]
        _print_orders(self.name, frame, [self.x, *([self.line] if self.line else [])])
        self.track(config, frame, pictures, folder, data=OmegaConf.to_container(config.data))

    def _title(self, config: DictConfig) -> str:
        """Return the title of a figure: the axes do not say which images were scored."""
        limit, seeds = config.data.limit, config.seeds
        images = "all images" if limit is None else f"{limit} images"
        title = f"{self.name}: {config.data.name}, {images}"
        if self.x == "seed":
            return title
        return f"{title}, {seeds} seed" if seeds == 1 else f"{title}, {seeds} seeds"


class Standings(MultirunCallback):
    """Collects a multirun over datasets (``data.name``) into one table of scorers, see :mod:`itm.evaluation.benchmark`.

    ``<name>_rankings.csv`` has every ranking, ``<name>.csv``, ``.png`` and ``.svg`` the table and its figure;
    ``<name>_statistics.csv`` comes with ``"benchmark"`` and has every rank statistic by scorer and dataset.

    Args:
        name: Name of the files.
        table: ``"datasets"``: weighted tau by dataset; ``"metrics"``: every rank statistic, averaged over the
            datasets; ``"subpools"``: weighted tau over all subsets of the models; ``"benchmark"``: by dataset, with
            intervals, wins and losses against one scorer; ``"segmentation"``: both weighted taus and the regret on
            datasets with masks, beside the paper's table 3.
        size: Models of a subset.
        against: The scorer that the others are compared with on subsets.
        radar: Whether the figure of ``"datasets"`` is a radar of the best scorers instead of dots.
        registration: As in :class:`MultirunCallback`.
    """

    def __init__(
        self,
        name: str,
        table: Table = "datasets",
        size: int = 10,
        against: str = "itm",
        radar: bool = False,
        registration: str | None = None,
    ) -> None:
        super().__init__(name, registration)
        if table not in get_args(Table):
            raise unknown("table", table, get_args(Table))
        self.table, self.size, self.against, self.radar = table, size, against, radar

    def finish(self, config: DictConfig, folder: Path, frame: pd.DataFrame) -> None:
        """Write the rankings, the table of scorers and its figure.

        Raises:
            SystemExit: With status 2 if no job knew the ground truth.
        """
        if "true_accuracy" not in frame:
            reason = "no job knew true accuracies; set groundtruth=paper or groundtruth=<csv>."
            print(f"error: {self.name}: {reason}", file=sys.stderr)
            raise SystemExit(2)
        rankings = frame.rename(columns={"name": "dataset"})
        write_csv(rankings, folder / f"{self.name}_rankings.csv")
        models, data = rankings["model"].nunique(), ", ".join(rankings["dataset"].unique())
        table, drawn = self._summarise(rankings, folder, f"{self.name}: {models} models on {data}")
        write_csv(table, folder / f"{self.name}.csv", index=True)
        pictures = save(drawn, folder / self.name)[:1]
        print_frame(table, self.name, digits=2)
        self.track(config, table.reset_index(), pictures, folder)

    def _summarise(self, rankings: pd.DataFrame, folder: Path, title: str) -> tuple[pd.DataFrame, Figure]:
        """Return the chosen table and its figure."""
        by_chance = chance(range(rankings["model"].nunique()))
        if self.table == "metrics":
            table = benchmark.by_metric(rankings)
            return table, figures.benchmark_dots(table[[*list(benchmark.METRICS)[:6], "models"]], title)
        if self.table == "segmentation":
            table = segmentation_table(rankings)
            shown = table.loc[table["reported"].isna(), [SCIPY, PAPER]].groupby("scorer", sort=False).mean()
            return table, figures.benchmark_dots(shown, title, by_chance)
        if self.table == "datasets":
            table = benchmark.by_dataset(comparisons(rankings, folder), rankings)
            if self.radar:
                return table, figures.radar(table, title=f"{title}\n{figures.axis_label('tau_w (scipy)')}")
            return table, figures.benchmark_dots(table, title, by_chance)
        if self.against not in set(rankings["scorer"]):
            raise unknown("hydra.callbacks.collect.against", self.against, rankings["scorer"].unique())
        if self.table == "benchmark":
            each = benchmark.statistics(benchmark.with_priors(rankings))
            write_csv(each, folder / f"{self.name}_statistics.csv")
            table = benchmark.benchmark(rankings, self.size, self.against)
            return table, figures.benchmark_dots(table, title, by_chance)
        values = benchmark.subset_taus(rankings, self.size)
        label = figures.axis_label("tau_w (scipy)")
        title += f"\n{label}, mean of the datasets; a point is one of {len(values)} subsets"
        return benchmark.stability(values, self.against), figures.subset_scatter(values, self.against, title)


def _print_orders(name: str, frame: pd.DataFrame, swept: list[str]) -> None:
    """Print one line per setting of the sweep: the order of the models, its weighted tau if known, and seconds."""
    known = [column for column in TRUTH if column in frame]
    lines = []
    for keys, rows in frame.groupby([*swept, "scorer"], sort=False):
        line = dict(zip([*swept, "scorer"], map(str, keys), strict=True))
        line["order, best first (score)"] = ", ".join(_score(row) for row in rows.sort_values("rank").itertuples())
        line |= {column: rows[column].iloc[0] for column in known}
        lines.append(line | {"seconds": rows["seconds"].sum()})
    print_frame(pd.DataFrame(lines).set_index(swept[0]), name, digits=2)
    if known and frame["prior_tau_w"].notna().any():
        best = frame["prior_tau_w"].max()
        print(f"tau_w by scipy's definition; the best ranking that ignores the images has {best:.2f}.")


def _score(row: Any) -> str:
    spread = "" if pd.isna(row.std) else f" ± {row.std:.3f}"
    return f"{row.model} ({row.score:.3f}{spread})"
