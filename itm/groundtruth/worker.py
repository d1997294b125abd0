"""A worker: trains the trials of a grid that no other worker has trained or holds."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from lightning.pytorch.loggers import Logger

from itm.core.errors import ItmError
from itm.groundtruth.checkpoint import LastCheckpoint
from itm.groundtruth.grid import Grid
from itm.groundtruth.hardware import Hardware
from itm.groundtruth.images import ImageSplits
from itm.groundtruth.train import train_trial
from itm.groundtruth.trials import Record, Trial, TrialStore
from itm.groundtruth.zero_shot import evaluate_zero_shot
from itm.models.backbone import Backbone, load_backbone

_log = logging.getLogger(__name__)


class TrialsFailedError(Exception):
    """Some trials failed; the others were trained.

    Args:
        failed: Each failed model or trial with its reason.
    """

    def __init__(self, failed: Sequence[str]) -> None:
        super().__init__(failed)
        self.failed = failed

    def __str__(self) -> str:
        lines = "\n".join(f"  {line}" for line in self.failed)
        return f"error: {len(self.failed)} failed; the same command tries them again.\n{lines}"


class TrackedRun(Protocol):
    """A tracked run of one trial."""

    @property
    def logger(self) -> Logger | None:
        """Lightning logger that receives the curves while the trial trains."""

    def finish(self, record: Record) -> None:
        """Log the outcome and end the run."""


class Tracker(Protocol):
    """Opens a tracked run for each trial."""

    def track_trial(self, trial: Trial) -> AbstractContextManager[TrackedRun]:
        """Start a run; the block ends it as failed unless :meth:`TrackedRun.finish` was called."""


@dataclass
class Worker:
    """One of the workers that share a grid.

    A recorded trial is skipped. A trial that another worker holds is tried again later, until every trial is recorded.
    A failure that was recorded before this worker began is trained again, once by all workers together.

    Args:
        zoo: Settings of :func:`itm.models.backbone.load_backbone` by the model's name.
        images: The images of every trial.
        store: Folder of the records.
        hardware: Device settings.
        patience: Seconds between two checks of the trials that other workers hold.
        keep_weights: Save the weights of every trial's best epoch in its folder.
        tracker: Tracks every trial that this worker trains; None for no tracking.
    """

    zoo: Mapping[str, Mapping[str, Any] | None]
    images: ImageSplits
    store: TrialStore
    hardware: Hardware = field(default_factory=Hardware)
    patience: float = 10.0
    keep_weights: bool = False
    tracker: Tracker | None = None

    def __post_init__(self) -> None:
        self._loaded: Backbone | None = None
        self._old_failures: dict[str, Record] = {}

    def run(self, grid: Grid) -> tuple[list[Record], list[str]]:
        """Train every trial that is not recorded.

        Returns:
            The records of all trials, also those of other workers, and the failed models and trials with their
            reasons.

        Raises:
            DataError: If an image cannot be read.
            StoreError: If the folder of the records cannot be written.
        """
        plan, unusable = self._plan(grid)
        records = self._train(plan)
        if grid.best_seeds:
            records += self._train(grid.repeats(records))
        failed = [f"{record.trial}: {record.error}" for record in records if record.error is not None]
        return records, [*(f"{name}: {reason}" for name, reason in unusable.items()), *failed]

    def backbone(self, model: str) -> Backbone:
        """Load a model of the zoo; the last one loaded stays in memory."""
        if self._loaded is None or self._loaded.name != model:
            self._loaded = load_backbone(model, **(self.zoo[model] or {}))
        return self._loaded

    def train_if_free(self, trial: Trial) -> bool:
        """Train a trial unless it is recorded or another worker holds it; return whether it is recorded now."""
        if self._is_done(trial):
            return True
        with self.store.claim(trial) as claimed:
            if not claimed:
                return False
            if self._is_done(trial):  # recorded by another worker before this claim
                return True
            _log.info("%s", trial)
            self._train_claimed(trial)
        return True

    def _train_claimed(self, trial: Trial) -> None:
        with ExitStack() as stack:
            tracked = self._track(trial, stack)
            record = self._outcome(trial, None if tracked is None else tracked.logger)
            self.store.write(record)
            if record.error is None:
                LastCheckpoint(self.store.folder(trial)).remove()
            _log_outcome(record)
            if tracked is not None:
                _finish(tracked, record)

    def _outcome(self, trial: Trial, logger: Logger | None) -> Record:
        backbone = self.backbone(trial.model)
        if trial.adaptation == "zero_shot":
            return evaluate_zero_shot(trial, backbone, self.images, self.hardware)
        return train_trial(
            trial,
            backbone,
            self.images,
            self.store,
            self.hardware,
            keep_weights=self.keep_weights,
            logger=logger,
        )

    def _track(self, trial: Trial, stack: ExitStack) -> TrackedRun | None:
        """Start a tracked run; a tracker that fails does not cost the trial."""
        if self.tracker is None:
            return None
        try:
            return stack.enter_context(self.tracker.track_trial(trial))
        except Exception as error:
            _log.warning("%s is not tracked: %s", trial, error)
            return None

    def _train(self, plan: Sequence[Trial]) -> list[Record]:
        """Train the trials of the plan that are not recorded, and return the records of all."""
        found = [record for trial in plan if (record := self.store.read(trial)) is not None]
        self._old_failures = {record.trial.digest: record for record in found if record.error is not None}
        finished = len(found) - len(self._old_failures)
        _log.info("%d of %d trials are recorded in %s.", finished, len(plan), self.store.root)
        pending = list(plan)
        while left := [trial for trial in pending if not self.train_if_free(trial)]:
            if len(left) == len(pending):
                time.sleep(self.patience)
            else:
                _log.info("%d trials are left, which other workers hold.", len(left))
            pending = left
        return [record for trial in plan if (record := self.store.read(trial)) is not None]

    def _plan(self, grid: Grid) -> tuple[list[Trial], dict[str, str]]:
        """Build every model once, so that an unusable one is reported before training starts."""
        plan: list[Trial] = []
        unusable = {}
        for name in self.zoo:
            try:
                plan += grid.trials(self.backbone(name), self.images)
            except (ItmError, RuntimeError) as error:
                unusable[name] = " ".join(str(error).split())
                _log.error("%s: %s", name, unusable[name])
        return plan, unusable

    def _is_done(self, trial: Trial) -> bool:
        record = self.store.read(trial)
        return record is not None and (record.error is None or record != self._old_failures.get(trial.digest))


def _finish(tracked: TrackedRun, record: Record) -> None:
    try:
        tracked.finish(record)
    except Exception as error:  # the record is written; tracking is not worth the rest of the grid
        _log.warning("%s is recorded, but its tracked run did not end properly: %s", record.trial, error)


def _log_outcome(record: Record) -> None:
    if record.error is not None:
        _log.error("%s failed: %s", record.trial, record.error)
        return
    best, facts = record.best, record.facts
    _log.info(
        "%s: %.2f %% in epoch %d (%.0f s, %.0f images/s); %s.",
        *(record.trial, best["accuracy"], best["epoch"], facts["seconds"], facts["images_per_second"]),
        record.trial.protocol.note,
    )
