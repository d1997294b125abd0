"""Weights & Biases: one run per command or trial, offline where nobody is logged in, and never a prompt."""

from __future__ import annotations

import io
import logging
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from PIL import Image
from pydantic import Strict
from wandb.sdk.lib import import_hooks

from itm.core.settings import settings
from itm.groundtruth.trials import Record, Trial
from itm.ranking.ranking import Entry
from itm.report.figures import Figure, score_bars, truth_scatter
from itm.report.report import Report

_LONGEST_TAG = 64  # characters, W&B's limit
_log = logging.getLogger(__name__)


@settings("tracking")
class Wandb:
    """Settings of tracking with Weights & Biases.

    Args:
        project: W&B project.
        group: Group of the runs of one ablation.
        mode: ``"online"``, ``"offline"`` or ``"disabled"``; None follows ``WANDB_MODE`` and, without it, whether this
            machine holds an API key.
        entity: W&B user or team.
        tags: Tags of every run besides the automatic ones (dataset, models, scorers).
    """

    project: str = "itm"
    group: str | None = None
    mode: Literal["online", "offline", "disabled"] | None = None
    entity: str | None = None
    tags: Annotated[tuple[str, ...], Strict(False)] = ()  # a YAML list is converted

    @contextmanager
    def track_estimate(self, config: Mapping[str, Any], folder: Path) -> Iterator[EstimateRun]:
        """Track one estimate, from before its first image to its report.

        Args:
            config: All settings of the estimate.
            folder: Folder of the run's files.

        Yields:
            The run; it ends as failed if the block raises.
        """
        data = Path(str(config["data"]["name"])).name
        scorers = list(config["scorer"])
        name = f"{data}: {', '.join(scorers)}"
        with self._run(folder, config, "estimate", name=name, tags=[data, *scorers]) as run:
            yield EstimateRun(run)
            run.finish()

    def for_trials(self, folder: Path) -> TrialTracker:
        """Return a tracker of trials whose runs keep their files in a folder."""
        return TrialTracker(self, folder)

    def log_table(
        self, name: str, frame: Any, figures: Sequence[Path], folder: Path, config: Mapping[str, Any]
    ) -> None:
        """Log the collected table and figures of a multirun as a run of its own in the same group."""
        with self._run(folder, config, "collect", name=name) as run:
            pictures = {f"{figure.stem}_figure": wandb.Image(str(figure)) for figure in figures}
            run.log({name: wandb.Table(dataframe=frame), **pictures})
            run.finish()

    @contextmanager
    def _run(
        self,
        folder: Path,
        config: Mapping[str, Any],
        job_type: str,
        *,
        name: str,
        tags: Sequence[str] = (),
        group: str | None = None,
    ) -> Iterator[Any]:
        """Start a run, which ends as failed if the block raises; the block itself ends it otherwise."""
        folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=group or self.group,
            job_type=job_type,
            name=name,
            tags=[tag[:_LONGEST_TAG] for tag in dict.fromkeys([*self.tags, *tags]) if tag],
            dir=str(folder),
            config=dict(config),
            mode=self._mode(),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # W&B reports which libraries are imported later, which fails in the forked processes that score models
        import_hooks.unregister_all_post_import_hooks()
        try:
            yield run
        except BaseException:
            run.finish(exit_code=1)
            raise

    def _mode(self) -> Literal["online", "offline", "disabled"] | None:
        if self.mode or os.environ.get("WANDB_MODE"):
            return self.mode
        if wandb.api.api_key:
            return None
        _log.info("No W&B login on this machine: runs are kept offline; `wandb sync` uploads them.")
        return "offline"


@dataclass(frozen=True)
class EstimateRun:
    """The run of one estimate.

    Args:
        run: The W&B run.
    """

    run: Any

    @property
    def folder(self) -> str:
        """Folder of the run, which ``wandb sync`` uploads later if it was offline."""
        return str(Path(self.run.dir).parent)

    def log(self, report: Report) -> None:
        """Log a report: curves of every seed, seconds, tables, figures, and the comparison with the ground truth."""
        for ranking in report.rankings:
            for entry in ranking.entries:
                _log_curves(self.run, f"{ranking.name}/{entry.model}", entry)
                self.run.summary[f"{ranking.name}/{entry.model}/score"] = entry.score
            if ranking.entries:
                self.run.summary[f"{ranking.name}/mean_score"] = statistics.fmean(ranking.scores.values())
            self.run.summary[f"{ranking.name}/seconds"] = sum(entry.seconds for entry in ranking.entries)
            self.run.log({f"{ranking.name}/scores": _image(score_bars(ranking))})
        self.run.log({"ranking": wandb.Table(dataframe=report.to_frame())})
        _log_comparison(self.run, report)


@dataclass(frozen=True)
class TrialTracker:
    """Tracks the trials of a grid.

    Args:
        tracking: Settings of tracking.
        folder: Folder of the runs' files.
    """

    tracking: Wandb
    folder: Path

    @contextmanager
    def track_trial(self, trial: Trial) -> Iterator[TrialRun]:
        """Track one trial, grouped by its dataset and model unless the settings name a group.

        Args:
            trial: The trial.

        Yields:
            The run; it ends as failed if the block raises, and by :meth:`TrialRun.finish` otherwise.
        """
        with self.tracking._run(
            self.folder,
            asdict(trial),
            "train_groundtruth",
            name=str(trial),
            tags=[trial.dataset, trial.model, trial.adaptation, trial.protocol.label],
            group=self.tracking.group or f"{trial.dataset}/{trial.model}",
        ) as run:
            yield TrialRun(run)


class TrialRun:
    """The run of one trial.

    Args:
        run: The W&B run.

    Attributes:
        logger: Lightning's logger of the run, which receives the curves while the trial trains.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        self.logger: Logger | None = WandbLogger(experiment=run)

    def finish(self, record: Record) -> None:
        """Log the outcome of the trial and end its run."""
        facts = record.to_json()
        self.run.summary.update({key: facts[key] for key in ("status", "error", "facts")})
        if record.error is None:
            self.run.summary.update(
                {
                    "best_accuracy": record.best["accuracy"],
                    "best_epoch": record.best["epoch"],
                    "selection": record.trial.protocol.note,
                }
            )
        self.run.finish(exit_code=int(record.error is not None))


def _log_comparison(run: Any, report: Report) -> None:
    if report.comparison is None or not report.comparison.rows:
        return
    for row in report.comparison.rows:
        prefix = f"prior/{row.name}" if row.prior else row.name
        run.summary[f"{prefix}/tau_w"] = row.tau_w
        run.summary[f"{prefix}/regret"] = row.regret
    figure = _image(truth_scatter(report.rankings, report.truth, report.measure))
    run.log({"comparison": wandb.Table(dataframe=report.comparison.to_frame()), "truth": figure})


def _image(figure: Figure) -> wandb.Image:
    """Render a figure for W&B, whose own conversion fails unless ``matplotlib.pyplot`` has been imported."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return wandb.Image(Image.open(buffer))


def _log_curves(run: Any, prefix: str, entry: Entry) -> None:
    """Log the curve of every seed: ``<prefix>/heldout``, or ``<prefix>/seed1/heldout`` where there are several."""
    for seed, score in enumerate(entry.runs):
        if "curve" not in score.details:
            continue
        name = prefix if len(entry.runs) == 1 else f"{prefix}/seed{seed}"
        run.define_metric(f"{name}/iteration")
        run.define_metric(f"{name}/*", step_metric=f"{name}/iteration")
        for iteration, heldout in score.details["curve"].items():
            loss = score.details["losses"][iteration]
            run.log({f"{name}/iteration": iteration, f"{name}/heldout": heldout, f"{name}/loss": loss})
