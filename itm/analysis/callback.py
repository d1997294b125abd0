"""A look at a run's features as a Hydra callback, so that an experiment's config is all it takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from itm.core.errors import ItmError
from itm.core.features import Features
from itm.extraction.pool import ExtractionSettings, extract_pool
from itm.report.figures import Figure, save
from itm.scorers import ITM

Look = Callable[[Mapping[str, Features], ITM, str, Path], tuple[pd.DataFrame, Figure]]


class Analyse(Callback):
    """Takes a look after every job, and leaves ``<name>.csv``, ``.png``, ``.svg``, a printed and, tracked, a W&B table.

    Args:
        name: Name of the files.
        look: From features by model, the run's ITM, the dataset's name and the folder for files to table and figure.
        shared: Whether the jobs of a multirun share one folder, and the table grows with each.
    """

    def __init__(self, name: str, look: Look, shared: bool = False) -> None:
        self.name, self.look, self.shared = name, look, shared

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Look at the features of the job that ended well."""
        if job_return.status != JobStatus.COMPLETED:
            return
        try:
            self._take(config)
        except ItmError as error:  # Hydra would make a warning of it
            print(f"error: {self.name}: {error}", file=sys.stderr)
            raise SystemExit(2) from error

    def _take(self, config: DictConfig) -> None:
        keys = ("data", "zoo", "trainer", "store", "seed")
        settings = ExtractionSettings.from_run({key: _plain(config, key) for key in keys})
        pool = extract_pool(settings).features
        folder = Path(config.hydra.sweep.dir if self.shared else config.hydra.runtime.output_dir)
        scorer = instantiate(config.scorer.itm, seed=config.seed)
        frame, figure = self.look(pool, scorer, str(config.data.name), folder)
        frame.to_csv(folder / f"{self.name}.csv", index=False)
        png, _ = save(figure, folder / self.name)
        _show(self.name, frame)
        print(f"Table and figure: {folder / self.name}.csv, {png}")
        if "_target_" in config.tracking:
            instantiate(config.tracking).log_table(self.name, frame, [png], folder, {"data": settings.data})


def _plain(config: DictConfig, key: str) -> Any:
    node = config[key]
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _show(name: str, frame: pd.DataFrame) -> None:
    table = Table(title=name, title_justify="left", box=box.SIMPLE, padding=(0, 1))
    for column in frame.columns:
        text = not pd.api.types.is_numeric_dtype(frame[column])
        table.add_column(str(column), justify="left" if text else "right", overflow="fold", no_wrap=text)
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
