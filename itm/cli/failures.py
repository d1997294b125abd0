"""Models without features: those of the jobs of this process, and of jobs that a launcher ran in other processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

failed: list[str] = []
"""Models without features, of every job of this command; not those of jobs with ``on_failure=skip``."""


class FailedModels(Callback):
    """Adds the models without features of all jobs of a multirun, so that the status of the command counts them."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read the folder of each job."""
        for path in sorted(Path(config.hydra.sweep.dir).rglob("ranking.json")):
            written = json.loads(path.read_text(encoding="utf-8"))
            if written["settings"]["on_failure"] == "stop":
                failed.extend(written["failed"])
