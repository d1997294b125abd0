"""Train one cell of the grid: resumed after a kill, within the memory there is, and with a record however it ends."""

from __future__ import annotations

import copy
import gc
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint

from itm.core import provenance
from itm.core.errors import DataError, ItmError, StoreError
from itm.core.lightning import no_driver_probe, quiet_lightning
from itm.core.progress import show_progress
from itm.data.image_set import ImageSet
from itm.groundtruth.checkpoint import LastCheckpoint, SafeCheckpoints, interruptible
from itm.groundtruth.datamodule import TransferData
from itm.groundtruth.hardware import Machine
from itm.groundtruth.module import FineTuneModule, train_transform
from itm.groundtruth.trials import Cell, Cells, Record
from itm.models.backbone import Backbone

_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",  # with loss scaling
}
_log = logging.getLogger(__name__)


class DivergedError(ItmError):
    """The training loss is no finite number any more."""


@dataclass(frozen=True)
class Batching:
    """The images of one optimiser step, in equal parts.

    Args:
        size: Images of one step; where there are fewer training images, all of them.
        parts: Forward passes whose gradients are added up, a power of two.
        steps: Optimiser steps of an epoch; images left over at the end of a shuffle are not seen in it.
    """

    size: int
    parts: int
    steps: int

    @classmethod
    def of(cls, images: int, batch_size: int, at_once: int) -> Batching:
        """As few parts as ``at_once`` images per forward pass allow."""
        size = min(images, batch_size)
        parts = 1
        while size // parts > at_once:
            parts *= 2
        return cls(size, parts, images // size)

    @property
    def micro(self) -> int:
        """Images of one forward pass."""
        return self.size // self.parts

    def halved(self) -> Batching:
        """Half the images at once."""
        return replace(self, parts=self.parts * 2)


def train_cell(
    cell: Cell, backbone: Backbone, train: ImageSet, test: ImageSet, cells: Cells, machine: Machine | None = None
) -> Record:
    """Train a claimed cell, from its last checkpoint where there is one.

    After every epoch ``last.ckpt`` holds the state; a resumed cell ends with the numbers of an uninterrupted one. When
    memory runs out, the epoch is tried again with half the images at once and the gradients of twice as many parts
    added up, so that an optimiser step sees the same images.

    Args:
        cell: What to train.
        backbone: Its network, which stays as it is; a copy is trained.
        train: Training images.
        test: Test images; the accuracy on them is computed after every epoch.
        cells: Where the checkpoint is kept. The record is not written here.
        machine: How to train.

    Returns:
        The record; where training failed, with the reason.

    Raises:
        DataError: If an image cannot be read, which no other cell could either.
        StoreError: If a checkpoint cannot be written.
        KeyboardInterrupt: After Ctrl-C; the last epoch's checkpoint is kept.
    """
    machine = machine or Machine()
    batching = Batching.of(len(train), cell.protocol.batch_size, machine.batch_size)
    while True:
        attempt = _Attempt(cell, batching, machine)
        record = attempt.run(copy.deepcopy(backbone), train, test, cells.folder(cell))
        _free(machine)
        if record is not None:
            return record
        if batching.micro == 1:
            return attempt.record(error="out of memory, even with one image at once; set gradient_checkpointing=true")
        batching = batching.halved()
        _log.warning(
            "%s: out of memory. Going on with %d images at once and the gradients of %d such parts added up; a step "
            "still sees %d images, batch normalisation %d.",
            *(cell, batching.micro, batching.parts, batching.micro * batching.parts, batching.micro),
        )


def _free(machine: Machine) -> None:
    """Let go of a trained network, so that the next one finds the memory that this one found."""
    if machine.compile:
        torch.compiler.reset()  # else the compiler gives up after some networks of the same code
    gc.collect()  # its tensors hang in cycles
    if machine.accelerator == "cuda":
        torch.cuda.empty_cache()


@dataclass
class _Attempt:
    cell: Cell
    batching: Batching
    machine: Machine

    def run(self, backbone: Backbone, train: ImageSet, test: ImageSet, folder: Path) -> Record | None:
        """Train; None if memory ran out. Nothing of the network is referred to afterwards."""
        module = None
        try:
            data = self._data(backbone, train, test)
            module = self._module(backbone, len(train.classes))
            self._fit(module, data, LastCheckpoint(folder))
        except (DataError, StoreError):
            raise
        except Exception as error:
            if _out_of_memory(error):
                return None
            if not isinstance(error, ItmError):
                _log.debug("%s", self.cell, exc_info=True)
            return self.record(module, _reason(error))
        return self.record(module, images=len(train) + len(test))

    def record(self, module: FineTuneModule | None = None, error: str | None = None, images: int = 0) -> Record:
        """What there is to say, with the epochs that ended well."""
        history = [] if module is None else [epoch for epoch in module.history if math.isfinite(epoch["train_loss"])]
        seconds = sum(epoch["seconds"] for epoch in history)
        facts = {
            "seconds": seconds,
            "images_per_second": len(history) * images / seconds if seconds and images else None,
            "trainable": None if module is None else module.trainable,
            "images_at_once": self.batching.micro,
            **provenance.facts(self.machine.accelerator),
        }
        return Record(self.cell, error, history, facts)

    def _module(self, backbone: Backbone, num_classes: int) -> FineTuneModule:
        cell, protocol = self.cell, self.cell.protocol
        return FineTuneModule(
            backbone,
            num_classes,
            lr=cell.lr,
            weight_decay=cell.weight_decay,
            adaptation=cell.adaptation,
            schedule=protocol.schedule,
            warmup_epochs=protocol.warmup_epochs,
            label_smoothing=protocol.label_smoothing,
            rank=protocol.rank,
            prompts=protocol.prompts,
            seed=cell.seed,
            compile=self.machine.compile,
            gradient_checkpointing=self.machine.gradient_checkpointing,
        )

    def _data(self, backbone: Backbone, train: ImageSet, test: ImageSet) -> TransferData:
        protocol = self.cell.protocol
        return TransferData.from_images(
            train,
            test,
            train_transform=train_transform(backbone, scale=protocol.crop_scale, flip=protocol.flip),
            eval_transform=backbone.transform,
            batch_size=self.batching.micro,
            workers=self.machine.processes,
            pin=self.machine.accelerator == "cuda",
            seed=self.cell.seed,
        )

    def _fit(self, module: FineTuneModule, data: TransferData, last: LastCheckpoint) -> None:
        epochs = self.cell.protocol.epochs
        provenance.reset_peak_memory(self.machine.accelerator)
        with quiet_lightning(), no_driver_probe(), show_progress(str(self.cell), epochs, unit="epochs") as advance:
            trainer = L.Trainer(
                accelerator=self.machine.accelerator,
                devices=1,
                precision=_PRECISIONS[self.cell.protocol.precision],
                max_epochs=epochs,
                limit_train_batches=self.batching.steps * self.batching.parts,
                accumulate_grad_batches=self.batching.parts,
                num_sanity_val_steps=0,
                # one process trains one cell, also where a cluster's variables promise more
                plugins=[LightningEnvironment(), SafeCheckpoints()],
                callbacks=[_AfterEpoch(last, advance)],
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            with interruptible(trainer):
                trainer.fit(module, datamodule=data, ckpt_path=last.find())


class _AfterEpoch(Checkpoint):
    """Saves each epoch but the last; Lightning runs checkpoint callbacks when everything else of an epoch is done."""

    def __init__(self, last: LastCheckpoint, advance: Callable[[int], None]) -> None:
        self.last, self.advance = last, advance

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch:
            _log.info("Going on after epoch %d.", trainer.current_epoch)
            self.advance(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = cast(FineTuneModule, pl_module).history[-1]
        if not math.isfinite(epoch["train_loss"]):
            raise DivergedError(f"the training loss is {epoch['train_loss']} in epoch {trainer.current_epoch + 1}")
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self.last.save(trainer.save_checkpoint)
        self.advance(1)


def _out_of_memory(error: Exception) -> bool:
    """Whether fewer images at once may help; the CPU's allocator, cuBLAS and cuDNN have no exception class for it."""
    words = ("out of memory", "DefaultCPUAllocator: can't allocate memory", "_STATUS_ALLOC_FAILED")
    told = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return told or isinstance(error, torch.OutOfMemoryError)


def _reason(error: Exception) -> str:
    """The error in one line."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # what a decoding process raised arrives with that process's traceback before it
    line = lines[-1] if lines[0].startswith("Caught ") else lines[0]
    return line if isinstance(error, ItmError) else f"{type(error).__name__}: {line}"
