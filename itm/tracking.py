"""Weights & Biases: one run per command or trained cell, offline where nobody is logged in, and never a question."""

from __future__ import annotations

import io
import logging
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import wandb
from PIL import Image

from itm.groundtruth.trials import Record
from itm.report.figures import Figure, score_bars, truth_scatter
from itm.report.report import Report

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
        """Log a report as one run: settings, curves, seconds, tables, figures, and how true the rankings are.

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
                    _log_curve(run, f"{ranking.name}/{entry.model}", entry.details)
                    run.summary[f"{ranking.name}/{entry.model}/score"] = entry.score
                run.summary[f"{ranking.name}/mean_score"] = statistics.fmean(ranking.scores.values())
                run.summary[f"{ranking.name}/seconds"] = sum(entry.seconds for entry in ranking.entries)
                run.log({f"{ranking.name}/scores": _image(score_bars(ranking))})
            run.log({"ranking": wandb.Table(dataframe=report.to_frame())})
            _log_comparison(run, report)
            return str(Path(run.dir).parent)
        finally:
            run.finish()

    def log_table(
        self, name: str, frame: Any, figures: Sequence[Path], folder: Path, settings: Mapping[str, Any]
    ) -> None:
        """Log the collected table and figures of a multirun as a run of their own in the same group."""
        run = self._start(folder, settings, job_type="collect")
        try:
            pictures = {f"{figure.stem}_figure": wandb.Image(str(figure)) for figure in figures}
            run.log({name: wandb.Table(dataframe=frame), **pictures})
        finally:
            run.finish()

    def log_cell(self, record: Record, folder: Path) -> None:
        """Log a cell of the ground truth as one run, grouped by its dataset and model."""
        cell, facts = record.cell, record.to_json()
        grouped = replace(self, group=self.group or f"{cell.dataset}/{cell.model}")
        run = grouped._start(folder, facts["cell"], job_type="train_groundtruth")
        try:
            for epoch in record.history:
                run.log(dict(epoch), step=int(epoch["epoch"]))
            run.summary.update({key: facts[key] for key in ("status", "error", "facts")})
            if record.error is None:
                run.summary.update({"best_accuracy": record.best["accuracy"], "best_epoch": record.best["epoch"]})
        finally:
            run.finish(exit_code=int(record.error is not None))

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


def _log_comparison(run: Any, report: Report) -> None:
    if report.comparison is None or not report.comparison.rows:
        return
    for row in report.comparison.rows:
        prefix = f"prior/{row.name}" if row.prior else row.name
        run.summary[f"{prefix}/tau_w"] = row.tau_w
        run.summary[f"{prefix}/regret"] = row.regret
    figure = _image(truth_scatter(report.rankings, report.truth))
    run.log({"comparison": wandb.Table(dataframe=report.comparison.to_frame()), "truth": figure})


def _image(figure: Figure) -> wandb.Image:
    """Render a figure for W&B, whose own conversion fails unless ``matplotlib.pyplot`` has been imported."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return wandb.Image(Image.open(buffer))


def _log_curve(run: Any, prefix: str, details: Mapping[str, Any]) -> None:
    if "curve" not in details:
        return
    run.define_metric(f"{prefix}/iteration")
    run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/iteration")
    for iteration, score in details["curve"].items():
        loss = details["losses"][iteration]
        run.log({f"{prefix}/iteration": iteration, f"{prefix}/heldout": score, f"{prefix}/loss": loss})
