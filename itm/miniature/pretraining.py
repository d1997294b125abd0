"""Pre-train the models: each claimed by one process, resumed after kills, written in half precision."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import safetensors.torch
import torch
import torch.nn.functional as F
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.utils.data import DataLoader

from itm.core import provenance
from itm.core.errors import ItmError
from itm.core.files import try_lock, write_atomic
from itm.core.lightning import no_driver_probe, quiet_lightning
from itm.core.progress import show_progress
from itm.groundtruth.checkpoint import LastCheckpoint, SafeCheckpoints, interruptible
from itm.miniature.module import Pretraining
from itm.miniature.pictures import Pictures, Rounds

_log = logging.getLogger(__name__)


class DivergedError(RuntimeError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class Machine:
    """How this machine trains.

    Args:
        accelerator: ``"cpu"`` or ``"cuda"``.
        precision: Lightning's word: ``"32-true"``, ``"bf16-mixed"``.
        minutes: Between two checkpoints.
    """

    accelerator: str = "cpu"
    precision: str = "32-true"
    minutes: float = 1.0


def train(name: str, module: Pretraining, pictures: Pictures, folder: Path, machine: Machine) -> None:
    """Train a network to its end, from its last checkpoint where there is one.

    Args:
        name: What the progress bar says.
        module: Changed in place.
        pictures: Images to train with.
        folder: Where the checkpoint is kept.
        machine: How to train.

    Raises:
        DivergedError: If the loss is no number any more.
        KeyboardInterrupt: After Ctrl-C; the last checkpoint is kept.
    """
    rounds = module.steps // module.round
    rows = Rounds(len(pictures), module.round * module.batch_size, module.seed)
    loader = DataLoader(pictures, module.batch_size, sampler=rows, collate_fn=tuple)
    last = LastCheckpoint(folder)
    with quiet_lightning(), no_driver_probe(), show_progress(name, rounds, unit="rounds") as advance:
        trainer = L.Trainer(
            accelerator=machine.accelerator,
            devices=1,
            precision=machine.precision,  # type: ignore[arg-type]
            max_epochs=rounds,  # not max_steps, with which Lightning resumes in the midst of an epoch
            gradient_clip_val=module.clip,
            plugins=[LightningEnvironment(), SafeCheckpoints()],
            callbacks=[_AfterRound(last, machine.minutes * 60, advance)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with interruptible(trainer):
            trainer.fit(module, loader, ckpt_path=last.find())


class _AfterRound(Checkpoint):
    """Saves now and then; Lightning runs checkpoint callbacks when everything else of a round is done."""

    def __init__(self, last: LastCheckpoint, seconds: float, advance: Callable[[int], None]) -> None:
        self.last, self.seconds, self.advance = last, seconds, advance
        self.saved = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch:
            _log.info("Going on after step %d.", trainer.global_step)
            self.advance(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Pretraining)
        loss = pl_module.history[-1]["loss"]
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} in step {trainer.global_step}; a lower lr may help")
        if time.monotonic() - self.saved >= self.seconds and trainer.global_step < pl_module.steps:
            self.last.save(trainer.save_checkpoint)
            self.saved = time.monotonic()
        self.advance(1)


def export(net: nn.Module, file: Path, metadata: Mapping[str, Any]) -> None:
    """Write a network's tensors in half precision, under timm's names.

    Args:
        net: The network, without what only its pre-training needs.
        file: A ``.safetensors`` file, whole or not at all.
        metadata: Plain values, each written as JSON.

    Raises:
        DivergedError: If a number is too large for half precision.
    """
    tensors = {}
    for name, value in net.state_dict().items():
        tensors[name] = (
            value.detach().cpu().to(torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        )
        if not tensors[name].isfinite().all():
            raise DivergedError(f"{name} holds numbers that half precision cannot")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, safetensors.torch.save(tensors, {key: json.dumps(value) for key, value in metadata.items()}))


def read_metadata(file: Path) -> dict[str, Any]:
    """What was written beside a file's tensors; empty where there is no such file or it is damaged."""
    try:
        with safe_open(file, "pt") as opened:
            return {key: json.loads(value) for key, value in (opened.metadata() or {}).items()}
    except (FileNotFoundError, SafetensorError, ValueError):
        return {}


@torch.inference_mode()
def judge(module: Pretraining, known: Pictures, new: Pictures, limit: int = 5000) -> dict[str, float]:
    """How well a network's features tell the corpus' classes, in percent of images that it never saw.

    Args:
        module: The trained module; its network is left in evaluation mode.
        known: Images whose labels the neighbours know; the first ``limit`` of them.
        new: Images to recognise.
        limit: Enough of the known ones.

    Returns:
        ``knn``: accuracy of the nearest of the known images by cosine; ``accuracy``: of the network's own head, where
        it has one that is kept.
    """
    module.net.eval()
    features = F.normalize(torch.cat([module.features(part) for part in torch.split(known.images[:limit], 250)]))
    own = [module.features(part) for part in torch.split(new.images, 250)]
    nearest = (F.normalize(torch.cat(own)) @ features.T).argmax(1)
    found = {"knn": known.labels[:limit][nearest.cpu()]}
    if module.keeps_head:
        logits = [module.net.get_classifier()(part) for part in own]  # type: ignore[operator]
        found["accuracy"] = torch.cat(logits).argmax(1).cpu()
    return {key: round(100 * float((labels == new.labels).float().mean()), 2) for key, labels in found.items()}


@dataclass(frozen=True)
class Job:
    """One model to pre-train.

    Args:
        name: Its name in the zoo.
        settings: Everything that decides its weights, plain values.
        build: Makes the untrained module.
    """

    name: str
    settings: Mapping[str, Any]
    build: Callable[[], Pretraining]

    def digest(self, corpus: str) -> str:
        """Identity of the weights: sha256 over the settings and the corpus' digest."""
        return hashlib.sha256(json.dumps([self.settings, corpus], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Walk:
    """One process' way through the models; others that walk with the same folders share the work.

    Args:
        pictures: All images of the corpus.
        corpus: Digest of the corpus.
        weights: Folder of the finished weights.
        state: Folder of checkpoints and claims.
        machine: How to train.
        patience: Seconds between two looks at what other processes hold.
    """

    pictures: Pictures
    corpus: str
    weights: Path
    state: Path
    machine: Machine = Machine()
    patience: float = 10.0

    def run(self, jobs: list[Job]) -> dict[str, str]:
        """Train what is not finished, until all is, whoever trains it.

        Returns:
            By model what went wrong.
        """
        train_with, held_out = self.pictures.split()
        failed: dict[str, str] = {}
        pending = jobs
        while left := [job for job in pending if not self._settle(job, train_with, held_out, failed)]:
            if len(left) == len(pending):
                time.sleep(self.patience)
            pending = left
        return failed

    def _finished(self, job: Job) -> bool:
        return read_metadata(self.weights / f"{job.name}.safetensors").get("digest") == job.digest(self.corpus)

    def _settle(self, job: Job, train_with: Pictures, held_out: Pictures, failed: dict[str, str]) -> bool:
        """Whether nothing is left to do for a model, after training it if nobody has or does."""
        if self._finished(job):
            return True
        folder = self.state / f"{job.name}-{job.digest(self.corpus)[:16]}"
        lock = try_lock(folder)
        try:
            if not lock.is_locked:
                return False
            if not self._finished(job):  # by a process that let go of it just now
                self._train(job, train_with, held_out, folder)
        except (ItmError, RuntimeError) as error:
            failed[job.name] = f"{type(error).__name__}: {error}".splitlines()[0]
            _log.error("%s: %s", job.name, failed[job.name])
        finally:
            lock.release()
        return True

    def _train(self, job: Job, train_with: Pictures, held_out: Pictures, folder: Path) -> None:
        module = job.build()
        _log.info("%s: %d steps of %d images.", job.name, module.steps, module.batch_size)
        train(job.name, module, train_with, folder, self.machine)
        loss = [round(part["loss"], 5) for part in module.history]
        facts = {
            "recipe": job.settings,
            "images": module.steps * module.batch_size,
            "seconds": round(sum(part["seconds"] for part in module.history), 1),
            "loss": loss,
            "held_out": judge(module, train_with, held_out),
            "corpus": self.corpus,
            "digest": job.digest(self.corpus),
            "device": provenance.device(self.machine.accelerator),
            "versions": provenance.versions(),
        }
        export(module.net, self.weights / f"{job.name}.safetensors", facts)
        LastCheckpoint(folder).remove()
        _log.info("%s: loss %.4f, %.0f s. %s", job.name, loss[-1], facts["seconds"], facts["held_out"])
