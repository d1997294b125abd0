"""Pre-train models: one process per model, resumed after a kill, weights written in half precision."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import safetensors.torch
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.utils.data import DataLoader

from experiments.miniature.module import Pretraining
from experiments.miniature.pictures import Pictures, RoundSampler
from itm.core import provenance
from itm.core.errors import ItmError
from itm.core.files import json_digest, try_lock, write_atomic
from itm.core.lightning import no_driver_probe, quiet_lightning
from itm.core.progress import show_progress
from itm.groundtruth.checkpoint import LastCheckpoint, SafeCheckpoints, interruptible

FORMAT = 2
"""Format of the weight files' headers; 2 since the settings name the method instead of an import path."""

_log = logging.getLogger(__name__)


class PretrainingError(RuntimeError):
    """Training diverged, or its weights do not fit half precision."""


@dataclass(frozen=True)
class PretrainingSettings:
    """Hardware settings of Lightning's trainer.

    Args:
        accelerator: ``"cpu"`` or ``"cuda"``.
        precision: Lightning's name: ``"32-true"``, ``"bf16-mixed"``.
        minutes: Minutes between two checkpoints.
    """

    accelerator: str = "cpu"
    precision: str = "32-true"
    minutes: float = 1.0


def train(name: str, module: Pretraining, pictures: Pictures, folder: Path, settings: PretrainingSettings) -> None:
    """Train a network to the end, from its last checkpoint if one exists.

    Args:
        name: Title of the progress bar.
        module: Trained in place.
        pictures: Training images.
        folder: Folder of the checkpoint.
        settings: Accelerator, precision and checkpoint interval.

    Raises:
        PretrainingError: If the loss is NaN or infinite.
        KeyboardInterrupt: After Ctrl-C; the last checkpoint is kept.
    """
    rounds = module.steps // module.round
    rows = RoundSampler(len(pictures), module.round * module.batch_size, module.seed)
    loader = DataLoader(pictures, module.batch_size, sampler=rows, collate_fn=tuple)
    last = LastCheckpoint(folder)
    with quiet_lightning(), no_driver_probe(), show_progress(name, rounds, unit="rounds") as advance:
        trainer = L.Trainer(
            accelerator=settings.accelerator,
            devices=1,
            precision=settings.precision,  # type: ignore[arg-type]
            max_epochs=rounds,  # with max_steps Lightning would resume inside an epoch
            gradient_clip_val=module.clip,
            plugins=[LightningEnvironment(), SafeCheckpoints()],
            callbacks=[_RoundCallback(last, settings.minutes * 60, advance)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with interruptible(trainer):
            trainer.fit(module, loader, ckpt_path=last.find())


class _RoundCallback(Checkpoint):
    """Checks the loss and saves at intervals; Lightning runs checkpoint callbacks last, after the round is complete."""

    def __init__(self, last: LastCheckpoint, seconds: float, advance: Callable[[int], None]) -> None:
        self.last, self.seconds, self.advance = last, seconds, advance
        self.saved = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch:
            _log.info("Resuming after step %d.", trainer.global_step)
            self.advance(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Pretraining)
        loss = pl_module.history[-1]["loss"]
        if not math.isfinite(loss):
            raise PretrainingError(f"the loss is {loss} in step {trainer.global_step}; a lower lr may help")
        if time.monotonic() - self.saved >= self.seconds and trainer.global_step < pl_module.steps:
            self.last.save(trainer.save_checkpoint)
            self.saved = time.monotonic()
        self.advance(1)


def export(net: nn.Module, file: Path, metadata: Mapping[str, Any]) -> None:
    """Write a network's tensors in half precision, under timm's names.

    Args:
        net: The network, without the parts that only pre-training needs.
        file: A ``.safetensors`` file, written atomically.
        metadata: Plain values, each stored as JSON in the header.

    Raises:
        PretrainingError: If a value is not finite in half precision.
    """
    tensors = {}
    for name, value in net.state_dict().items():
        dtype = torch.float16 if value.is_floating_point() else value.dtype
        tensors[name] = value.detach().cpu().to(dtype).contiguous()
        if not tensors[name].isfinite().all():
            raise PretrainingError(f"{name} has values that are not finite in half precision")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, safetensors.torch.save(tensors, {key: json.dumps(value) for key, value in metadata.items()}))


def read_metadata(file: Path) -> dict[str, Any]:
    """Return the header values that :func:`export` wrote; empty if the file is missing or damaged."""
    try:
        with safe_open(file, "pt") as opened:
            return {key: json.loads(value) for key, value in (opened.metadata() or {}).items()}
    except (FileNotFoundError, SafetensorError, ValueError):
        return {}


@dataclass(frozen=True)
class Job:
    """One model to pre-train.

    Args:
        name: Name of the model in the zoo.
        settings: All settings that determine the weights, as plain values.
        build: Builds the untrained module.
        file: Path of the finished weights below their folder; ``{name}`` stands for the model's name.
        choose: Returns the images that the model may see, of those to train with; by default all.
    """

    name: str
    settings: Mapping[str, Any]
    build: Callable[[], Pretraining]
    file: str = "{name}.safetensors"
    choose: Callable[[Pictures], Pictures] = lambda pictures: pictures

    def digest(self, corpus: str) -> str:
        """Return the identity of the weights: sha256 over the format, the settings and the corpus' digest."""
        return json_digest([FORMAT, self.settings, corpus])


@dataclass(frozen=True)
class PretrainingWorker:
    """One process that trains models; several with the same folders share the work.

    Args:
        pictures: All images of the corpus.
        corpus: Digest of the corpus.
        weights: Folder of the finished weights.
        state: Folder of checkpoints and locks.
        trainer: Accelerator, precision and checkpoint interval.
        patience: Seconds to wait before checking models again that other processes have locked.
    """

    pictures: Pictures
    corpus: str
    weights: Path
    state: Path
    trainer: PretrainingSettings = PretrainingSettings()
    patience: float = 10.0

    def run(self, jobs: list[Job]) -> dict[str, str]:
        """Train the unfinished models and wait for those that other processes train.

        Returns:
            The reason of each failure, by model.
        """
        return train_all([(self, job) for job in jobs], self.patience)

    def is_finished(self, job: Job) -> bool:
        """Return whether the weights of exactly these settings and this corpus exist."""
        return read_metadata(self.file(job)).get("digest") == job.digest(self.corpus)

    def file(self, job: Job) -> Path:
        """Return the path of a model's finished weights."""
        return self.weights / job.file.format(name=job.name)

    def train_if_free(self, job: Job, failed: dict[str, str]) -> bool:
        """Train a model unless it is finished or locked; return False if another process holds the lock.

        Args:
            job: The model.
            failed: Receives the reason of a failure, by model.
        """
        if self.is_finished(job):
            return True
        folder = self.state / f"{job.name}-{job.digest(self.corpus)[:16]}"
        lock = try_lock(folder)
        try:
            if not lock.is_locked:
                return False
            if not self.is_finished(job):  # another process may have finished it since the first check
                self._train(job, folder)
        except (ItmError, RuntimeError) as error:
            failed[job.name] = f"{type(error).__name__}: {error}".splitlines()[0]
            _log.error("%s: %s", job.name, failed[job.name])
        finally:
            lock.release()
        return True

    def _train(self, job: Job, folder: Path) -> None:
        train_with, held_out = self.pictures.split()
        train_with = job.choose(train_with)
        module = job.build()
        _log.info("%s: %d steps of %d images.", job.name, module.steps, module.batch_size)
        train(job.name, module, train_with, folder, self.trainer)
        loss = [round(part["loss"], 5) for part in module.history]
        facts = {
            "format": FORMAT,
            "recipe": job.settings,
            "images": module.steps * module.batch_size,
            "seconds": round(sum(part["seconds"] for part in module.history), 1),
            "loss": loss,
            "held_out": module.held_out_accuracy(train_with, held_out),
            "corpus": self.corpus,
            "digest": job.digest(self.corpus),
            "device": provenance.device(self.trainer.accelerator),
            "versions": provenance.versions(),
        }
        export(module.net, self.file(job), facts)
        LastCheckpoint(folder).remove()
        _log.info("%s: loss %.4f, %.0f s. %s", job.name, loss[-1], facts["seconds"], facts["held_out"])


def train_all(work: Sequence[tuple[PretrainingWorker, Job]], patience: float = 10.0) -> dict[str, str]:
    """Train the unfinished models, each on the pictures of its worker, and wait for those that other processes train.

    Args:
        work: The models with their workers.
        patience: Seconds to wait before checking models again that other processes have locked.

    Returns:
        The reason of each failure, by model.
    """
    failed: dict[str, str] = {}
    pending = list(work)
    while left := [(worker, job) for worker, job in pending if not worker.train_if_free(job, failed)]:
        if len(left) == len(pending):
            time.sleep(patience)
        pending = left
    return failed
