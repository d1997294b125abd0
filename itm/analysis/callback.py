"""Analyses as a Hydra callback, so that an experiment needs only a config."""

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

from itm.core.console import print_frame
from itm.core.errors import ItmError
from itm.core.features import Features
from itm.extraction.pool import ExtractionSettings, extract_pool
from itm.report.figures import Figure, save
from itm.report.output import write_csv
from itm.scorers import ITM

AnalysisFunction = Callable[[Mapping[str, Features], ITM, str, Path], tuple[pd.DataFrame, Figure]]


class Analyse(Callback):
    """Runs an analysis after each job and writes ``<name>.csv``, ``.png``, ``.svg`` and, when tracked, a W&B table.

    Args:
        name: Name of the files.
        function: Takes features by model, the run's ITM, the name of the dataset and the folder for files; returns a
            table and a figure.
        shared: Whether the jobs of a multirun share one folder, and the table grows with each.
    """

    def __init__(self, name: str, function: AnalysisFunction, shared: bool = False) -> None:
        self.name, self.function, self.shared = name, function, shared

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Analyse the features of a job that completed."""
        if job_return.status != JobStatus.COMPLETED:
            return
        try:
            self._analyse(config)
        except ItmError as error:  # Hydra would only warn
            print(f"error: {self.name}: {error}", file=sys.stderr)
            raise SystemExit(2) from error

    def _analyse(self, config: DictConfig) -> None:
        keys = ("data", "zoo", "trainer", "store", "seed")
        settings = ExtractionSettings.from_run({key: _plain(config, key) for key in keys})
        pool = extract_pool(settings).features
        folder = Path(config.hydra.sweep.dir if self.shared else config.hydra.runtime.output_dir)
        scorer = instantiate(config.scorer.itm, seed=config.seed)
        frame, figure = self.function(pool, scorer, str(config.data.name), folder)
        write_csv(frame, folder / f"{self.name}.csv")
        png, _ = save(figure, folder / self.name)
        print_frame(frame.set_index(frame.columns[0]), self.name)
        print(f"Table and figure: {folder / self.name}.csv, {png}")
        if "_target_" in config.tracking:
            instantiate(config.tracking).log_table(self.name, frame, [png], folder, {"data": settings.data})


def _plain(config: DictConfig, key: str) -> Any:
    node = config[key]
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
