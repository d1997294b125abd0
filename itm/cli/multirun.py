"""What a multirun leaves behind: its jobs collected into one table and one figure, by a Hydra callback."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from itm.core.errors import ItmError, unknown
from itm.evaluation import benchmark
from itm.metrics.uncertainty import chance
from itm.report import figures
from itm.report.figures import save, sweep_dots, sweep_lines, sweep_spread

_log = logging.getLogger(__name__)

_TRUTH = {"tau_w": "tau_w (scipy)", "regret": "regret (points)"}  # of a whole ranking, not of a model
_ROW = ("scorer", "model", "rank")  # what a row is of: the override `scorer=[...]` is told by the rows
_WIDE = 9  # columns of numbers that fit beside the scorers' names
_TABLES = ("datasets", "metrics", "subpools", "benchmark")
_DRAW = {"lines": sweep_lines, "dots": sweep_dots, "spread": sweep_spread}


class Collect(Callback):
    """Collects the rankings of a multirun's jobs.

    After every job ``<name>.csv`` in the multirun's folder holds all jobs so far, so a later failure costs nothing; at
    the end come ``<name>.png`` and ``.svg``, a table on the console and, where tracking is on, a W&B table. Where the
    true accuracies are known, ``<name>_truth.png`` and ``.svg`` show the weighted tau and the regret. A job that failed
    is named with its reason, the others count, and the command ends with status 2.

    Args:
        name: Name of the files.
        x: Swept setting on the horizontal axis, or told apart by colour, by the last word of its key.
        line: Swept setting that tells lines or dots of one ``x`` apart, or None.
        values: Columns to draw, one panel each.
        figure: ``"lines"`` over numbers, ``"dots"`` for words, ``"spread"`` for a setting that should not matter.
        names: Words for values of ``x`` that do not speak for themselves.
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
        if figure not in _DRAW:
            raise unknown("figure", figure, _DRAW)
        self.name, self.x, self.line, self.values, self.figure = name, x, line, tuple(values), figure
        self.names = dict(names or {})
        self.failed: list[str] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the table of all jobs so far, and keep a job's failure for the end."""
        if job_return.status == JobStatus.FAILED:
            self._keep(config.hydra.job.num, job_return)
        folder = Path(config.hydra.sweep.dir)
        frame = self._collect(folder)
        if len(frame):
            frame.to_csv(folder / f"{self.name}.csv", index=False)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table, draw the figure and log both."""
        folder = Path(config.hydra.sweep.dir)
        frame = self._collect(folder)
        if frame.empty:
            _log.error("No job of %s left a ranking, so there is nothing to collect.", folder)
        else:
            self._finish(config, folder, frame)
        if self.failed:
            print(f"error: {len(self.failed)} job(s) failed: " + " | ".join(self.failed), file=sys.stderr)
            raise SystemExit(2)

    def _collect(self, folder: Path) -> pd.DataFrame:
        frame = collect(folder)
        return frame.replace({self.x: self.names}) if self.x in frame and self.names else frame

    def _keep(self, number: int, job_return: JobReturn) -> None:
        """Note a failure, and mark the job as ended: Hydra would stop before the end of the multirun is told."""
        try:
            _ = job_return.return_value
        except (ItmError, InstantiationException) as error:
            self.failed.append(f"{number}: " + " ".join(str(error.__cause__ or error).split()))
        except Exception as error:  # a defect, not a setting: its traceback is wanted
            _log.exception("Job %d failed.", number)
            self.failed.append(f"{number}: {type(error).__name__}: {error}")
        job_return.return_value, job_return.status = None, JobStatus.COMPLETED

    def _finish(self, config: DictConfig, folder: Path, frame: pd.DataFrame) -> None:
        draw, title = _DRAW[self.figure], self._title(config)
        shown = frame.assign(model=frame["model"] + ", " + frame["scorer"]) if frame["scorer"].nunique() > 1 else frame
        pictures = [save(draw(shown, self.x, self.line, self.values, title), folder / self.name)[0]]
        if "tau_w" in frame:
            rankings = frame.drop_duplicates(["job", "scorer"]).drop(columns="model")
            rankings = rankings.rename(columns={"scorer": "model", **_TRUTH})
            figure = draw(rankings, self.x, self.line, list(_TRUTH.values()), title)
            pictures += save(figure, folder / f"{self.name}_truth")[:1]
        _show(self.name, frame, [self.x, *([self.line] if self.line else [])])
        print(f"Table and figure: {folder / self.name}.csv, {', '.join(map(str, pictures))}")
        if "_target_" in config.tracking:
            settings = {"collects": self.name, "data": OmegaConf.to_container(config.data)}
            instantiate(config.tracking).log_table(self.name, frame, pictures, folder, settings)

    def _title(self, config: DictConfig) -> str:
        """What a figure is of: nobody could tell from the axes which images were scored."""
        limit, seeds = config.data.limit, config.seeds
        images = "all images" if limit is None else f"{limit} images"
        drawn = "" if self.x == "seed" else f", {seeds} seed{'s' * (seeds > 1)}"
        return f"{self.name}: {config.data.name}, {images}{drawn}"


class Standings(Collect):
    """Collects a multirun over datasets (``data.name``) into one table of scorers, see :mod:`itm.evaluation.benchmark`.

    ``<name>_rankings.csv`` has every ranking, ``<name>.csv``, ``.png`` and ``.svg`` the table and its figure;
    ``<name>_statistics.csv`` comes with ``"benchmark"`` and has every rank statistic by scorer and dataset.

    Args:
        name: Name of the files.
        table: ``"datasets"``: weighted tau by dataset; ``"metrics"``: every rank statistic, averaged over the
            datasets; ``"subpools"``: weighted tau over all sub-pools of the models; ``"benchmark"``: by dataset, with
            intervals and what each loses or wins against one scorer.
        size: Models of a sub-pool.
        against: The scorer that the others are set against on sub-pools.
        radar: Whether the figure of ``"datasets"`` is a radar of the best scorers instead of dots.
    """

    def __init__(
        self,
        name: str,
        table: Literal["datasets", "metrics", "subpools", "benchmark"] = "datasets",
        size: int = 10,
        against: str = "itm",
        radar: bool = False,
    ) -> None:
        if table not in _TABLES:
            raise unknown("table", table, _TABLES)
        super().__init__(name, x="name")
        self.table, self.size, self.against, self.radar = table, size, against, radar

    def _finish(self, config: DictConfig, folder: Path, frame: pd.DataFrame) -> None:
        if "true_accuracy" not in frame:
            print(
                f"error: {self.name}: no job knew true accuracies; set groundtruth=paper or groundtruth=<csv>.",
                file=sys.stderr,
            )
            raise SystemExit(2)
        rankings = frame.rename(columns={"name": "dataset"})
        rankings.to_csv(folder / f"{self.name}_rankings.csv", index=False)
        table, drawn = self._sum_up(rankings, folder)
        table.to_csv(folder / f"{self.name}.csv")
        pictures = figures.save(drawn, folder / self.name)[:1]
        _print(self.name, table)
        print(f"Table and figure: {folder / self.name}.csv, {pictures[0]}")
        if "_target_" in config.tracking:
            instantiate(config.tracking).log_table(
                self.name, table.reset_index(), pictures, folder, {"collects": self.name}
            )

    def _sum_up(self, rankings: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, Any]:
        models, data = rankings["model"].nunique(), ", ".join(rankings["dataset"].unique())
        title = f"{self.name}: {models} models on {data}"
        if self.table == "metrics":
            table = benchmark.by_metric(rankings)
            return table, figures.benchmark_dots(table[[*list(benchmark.METRICS)[:6], "models"]], title)
        if self.table == "datasets":
            table = benchmark.by_dataset(self._comparisons(rankings, folder), rankings)
            if self.radar:
                return table, figures.radar(table, title=f"{title}\n{figures.axis_label('tau_w (scipy)')}")
            return table, figures.benchmark_dots(table, title, chance(range(models)))
        if self.against not in set(rankings["scorer"]):
            raise unknown("hydra.callbacks.collect.against", self.against, rankings["scorer"].unique())
        if self.table == "benchmark":
            each = benchmark.statistics(benchmark.with_priors(rankings))
            each.to_csv(folder / f"{self.name}_statistics.csv", index=False)
            table = benchmark.benchmark(rankings, self.size, self.against)
            return table, figures.benchmark_dots(table, title, chance(range(models)))
        values = benchmark.subset_taus(rankings, self.size)
        label = figures.axis_label("tau_w (scipy)")
        title += f"\n{label}, mean of the datasets; a point is one of {len(values)} subsets"
        return benchmark.stability(values, self.against), figures.subset_scatter(values, self.against, title)

    def _comparisons(self, rankings: pd.DataFrame, folder: Path) -> pd.DataFrame:
        found = {job: folder / str(job) / "comparison.csv" for job in rankings["job"].unique()}
        names = rankings.groupby("job")["dataset"].first()
        return pd.concat(pd.read_csv(path).assign(dataset=names[job]) for job, path in found.items() if path.is_file())


def collect(folder: Path) -> pd.DataFrame:
    """Read the rankings of a multirun's jobs.

    Args:
        folder: The multirun's folder, one numbered folder per job below it.

    Returns:
        One row per job, scorer and model: ``job``, the job's overrides by the last word of their key, then the columns
        of the ranking. A column of the ranking that an override hides is kept as ``<name>_used``. Where a job knew the
        true accuracies: ``tau_w`` (scipy's definition) and ``regret`` (points) of each scorer, and ``prior_tau_w``, the
        best of the rankings that never look at the images.
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
    frame = frame.merge(rows.loc[~rows["prior"], ["scorer", *_TRUTH]], on="scorer", how="left")
    return frame.assign(prior_tau_w=rows.loc[rows["prior"], "tau_w"].max())


def _setting(override: str) -> tuple[str, Any]:
    key, _, value = override.partition("=")
    # a list or a mapping is one value of the table, and `null` is a word in it
    simple = value != "null" and value[:1] not in ("[", "{")
    return key.rpartition(".")[2].lstrip("+~"), yaml.safe_load(value) if simple else value


def _show(name: str, frame: pd.DataFrame, swept: list[str]) -> None:
    """One line per setting of the sweep: the order it gave, how true that is where it is known, and what it took."""
    table = Table(title=name, title_justify="left")
    known = [column for column in _TRUTH if column in frame]
    for header in (*swept, "scorer", "order, best first (score)", *known, "seconds"):
        table.add_column(header)
    for keys, rows in frame.groupby([*swept, "scorer"], sort=False):
        order = ", ".join(_score(row) for row in rows.sort_values("rank").itertuples())
        truth = (f"{value:.2f}" for value in rows[known].iloc[0])
        table.add_row(*(str(key) for key in keys), order, *truth, f"{rows['seconds'].sum():.1f}")
    _console().print(table)
    if known and frame["prior_tau_w"].notna().any():
        best = frame["prior_tau_w"].max()
        print(f"tau_w by scipy's definition; the best ranking without a look at the images has {best:.2f}.")


def _print(title: str, frame: pd.DataFrame) -> None:
    """Print a table, one that is too wide for a console in two parts."""
    parts = [frame] if len(frame.columns) <= _WIDE else [frame.iloc[:, :_WIDE], frame.iloc[:, _WIDE:]]
    for part in parts:
        table = Table(title=title, title_justify="left")
        for header in ("", *part.columns):
            table.add_column(str(header), justify="right" if header else "left", no_wrap=not header, overflow="fold")
        for name, row in part.iterrows():
            table.add_row(
                str(name),
                *("-" if pd.isna(value) else f"{value:.{0 if key == 'models' else 2}f}" for key, value in row.items()),
            )
        _console().print(table)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 110)


def _score(row: Any) -> str:
    return f"{row.model} ({row.score:.3f}" + ("" if pd.isna(row.std) else f" ± {row.std:.3f}") + ")"
