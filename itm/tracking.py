"""Weights & Biases: one run per command, offline where nobody is logged in, and never a question."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb

from itm.figures import score_bars
from itm.report import Report

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wandb:
    """Settings of tracking with Weights & Biases.

    Args:
        project: W&B project.
        group: Runs of one ablation share a group.
        mode: ``"online"``, ``"offline"`` or ``"disabled"``; None follows ``WANDB_MODE`` and, without it, whether this
            machine holds an API key.
        entity: W&B user or team.
    """

    project: str = "itm"
    group: str | None = None
    mode: str | None = None
    entity: str | None = None

    def log(self, report: Report, folder: Path) -> str:
        """Log a report as one run: settings, curves, the ranking table, the figure and seconds.

        Args:
            report: What to log.
            folder: Where the run's files go.

        Returns:
            The folder of the run, which ``wandb sync`` uploads later if it was offline.
        """
        run = self._start(folder, report.settings, job_type="estimate")
        try:
            for ranking in report.rankings:
                for entry in ranking.entries:
                    _log_curve(run, f"{ranking.scorer.name}/{entry.model}", entry.details)
                    run.summary[f"{ranking.scorer.name}/{entry.model}/score"] = entry.score
                run.summary[f"{ranking.scorer.name}/seconds"] = sum(entry.seconds for entry in ranking.entries)
                run.log({f"{ranking.scorer.name}/scores": wandb.Image(score_bars(ranking))})
            run.log({"ranking": wandb.Table(dataframe=report.to_frame())})
            return str(Path(run.dir).parent)
        finally:
            run.finish()

    def log_table(self, name: str, frame: Any, figure: Path, folder: Path, settings: Mapping[str, Any]) -> None:
        """Log the collected table and figure of a multirun as a run of their own in the same group."""
        run = self._start(folder, settings, job_type="collect")
        try:
            run.log({name: wandb.Table(dataframe=frame), f"{name}_figure": wandb.Image(str(figure))})
        finally:
            run.finish()

    def _start(self, folder: Path, settings: Mapping[str, Any], job_type: str) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group,
            job_type=job_type,
            dir=str(folder),
            config=dict(settings),
            mode=self._mode(),  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True, console="off"),
        )

    def _mode(self) -> str | None:
        if self.mode or os.environ.get("WANDB_MODE"):
            return self.mode
        if wandb.api.api_key:
            return None
        _log.info("No W&B login on this machine: runs are kept offline; `wandb sync` uploads them.")
        return "offline"


def _log_curve(run: Any, prefix: str, details: Mapping[str, Any]) -> None:
    if "curve" not in details:
        return
    run.define_metric(f"{prefix}/iteration")
    run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/iteration")
    for iteration, score in details["curve"].items():
        loss = details["losses"][iteration]
        run.log({f"{prefix}/iteration": iteration, f"{prefix}/heldout": score, f"{prefix}/loss": loss})
