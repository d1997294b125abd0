"""Training of one trial: it resumes after a kill, adapts to the memory available, and always ends in a record."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger

from itm.core import provenance
from itm.core.datamodule import TransferData
from itm.core.devices import Precision
from itm.core.errors import DataError, ItmError, StoreError
from itm.core.lightning import no_driver_probe, quiet_lightning
from itm.core.progress import show_progress
from itm.data.image_set import ImageSet
from itm.groundtruth.checkpoint import LastCheckpoint, SafeCheckpoints, interruptible
from itm.groundtruth.examples import ExamplePredictions
from itm.groundtruth.export import BestWeights
from itm.groundtruth.hardware import Hardware
from itm.groundtruth.images import ImageSplits
from itm.groundtruth.memory import Batching, free_memory, is_out_of_memory
from itm.groundtruth.module import FineTuneModule, FineTuneSettings, train_transform
from itm.groundtruth.segmentation import MaskedImages, SegmentationModule, collate_masks, paired_crops, paired_whole
from itm.groundtruth.trials import Record, Trial, TrialStore
from itm.models.backbone import Backbone

_LIGHTNING: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",  # with loss scaling
}
_log = logging.getLogger(__name__)


class TrialDivergedError(ItmError):
    """The training loss is not finite."""


def train_trial(
    trial: Trial,
    backbone: Backbone,
    images: ImageSplits,
    store: TrialStore,
    hardware: Hardware | None = None,
    *,
    keep_weights: bool = False,
    logger: Logger | None = None,
) -> Record:
    """Train a claimed trial, from its last checkpoint if there is one.

    ``last.ckpt`` holds the state after every epoch; a resumed trial ends with the numbers of an uninterrupted one. When
    memory runs out, the epoch is repeated with half the images at once and twice the gradient accumulation, so that an
    optimiser step sees the same images.

    Args:
        trial: Trial to train.
        backbone: Its network; a copy is trained.
        images: Images to train and evaluate on; they are evaluated after every epoch.
        store: Where the checkpoint is kept. The record is not written here.
        hardware: Device settings.
        keep_weights: Save the weights of the best epoch in the trial's folder.
        logger: Receives the numbers of each epoch while the trial trains.

    Returns:
        The record; where training failed, with the reason.

    Raises:
        DataError: If an image cannot be read; it would stop every other trial, too.
        StoreError: If a checkpoint cannot be written.
        KeyboardInterrupt: After Ctrl-C; the last epoch's checkpoint is kept.
    """
    hardware = hardware or Hardware()
    batching = Batching.fitting(len(images.train), trial.protocol.batch_size, hardware.batch_size)
    while True:
        attempt = _Attempt(trial, batching, hardware, keep_weights, logger)
        record = attempt.run(copy.deepcopy(backbone), images, store.folder(trial))
        free_memory(hardware)
        if record is not None:
            return record
        if batching.micro == 1:
            return attempt.record(error="out of memory, even with one image at once; set gradient_checkpointing=true")
        batching = batching.halved()
        _log.warning(
            "%s: out of memory. Continuing with %d images at once and the gradients of %d such parts accumulated; a "
            "step still sees %d images, batch normalisation %d.",
            *(trial, batching.micro, batching.parts, batching.micro * batching.parts, batching.micro),
        )


@dataclass
class _Attempt:
    trial: Trial
    batching: Batching
    hardware: Hardware
    keep_weights: bool = False
    logger: Logger | None = None

    def run(self, backbone: Backbone, images: ImageSplits, folder: Path) -> Record | None:
        """Train and return the record, or None if memory ran out. No reference to the network remains."""
        module = None
        try:
            data = self._data(backbone, images)
            module = self._module(backbone, images.train)
            self._fit(module, data, images, folder)
        except StoreError:
            raise
        except DataError as error:
            advice = "Fix or remove the file, or leave such images out: data.on_error=skip."
            raise DataError(f"{_reason(error)} {advice}") from error
        except Exception as error:
            if is_out_of_memory(error):
                return None
            if not isinstance(error, ItmError):
                _log.debug("%s", self.trial, exc_info=True)
            return self.record(module, _reason(error))
        parts = (images.train, images.test, *([] if images.validation is None else [images.validation]))
        return self.record(module, seen=sum(map(len, parts)), skipped=images.skipped)

    def record(
        self,
        module: FineTuneModule | None = None,
        error: str | None = None,
        seen: int = 0,
        skipped: tuple[str, ...] = (),
    ) -> Record:
        """Build the record, with the epochs whose loss is finite."""
        history = [] if module is None else [epoch for epoch in module.history if math.isfinite(epoch["train_loss"])]
        seconds = sum(epoch["seconds"] for epoch in history)
        facts = {
            "seconds": seconds,
            "images_per_second": len(history) * seen / seconds if seconds and seen else None,
            "trainable": None if module is None else module.trainable,
            "images_at_once": self.batching.micro,
            **provenance.facts(self.hardware.accelerator),
        }
        if skipped:
            facts["skipped"] = list(skipped)
        return Record(self.trial, error, history, facts)

    def _module(self, backbone: Backbone, images: ImageSet) -> FineTuneModule:
        trial, protocol = self.trial, self.trial.protocol
        settings = FineTuneSettings(
            lr=trial.lr,
            weight_decay=trial.weight_decay,
            adaptation=trial.adaptation,
            schedule=protocol.schedule,
            warmup_epochs=protocol.warmup_epochs,
            label_smoothing=protocol.label_smoothing,
            rank=protocol.rank,
            prompts=protocol.prompts,
            seed=trial.seed,
            compile=self.hardware.compile,
            gradient_checkpointing=self.hardware.gradient_checkpointing,
        )
        kind = FineTuneModule if images.masks is None else SegmentationModule
        return kind(backbone, len(images.classes), settings)

    def _data(self, backbone: Backbone, images: ImageSplits) -> TransferData:
        protocol = self.trial.protocol
        low, high = protocol.crop_scale
        crop: dict[str, Any] = {"scale": (low, high), "flip": protocol.flip}
        settings: dict[str, Any] = {
            "batch_size": self.batching.micro,
            "workers": self.hardware.processes,
            "pin": self.hardware.accelerator == "cuda",
            "seed": self.trial.seed,
        }
        if images.train.masks is None:
            return TransferData.from_images(
                images.train,
                images.test,
                train_transform=train_transform(backbone, **crop),
                eval_transform=backbone.transform,
                validation=images.validation,
                **settings,
            )
        return TransferData.from_images(
            MaskedImages(images.train),
            MaskedImages(images.test),
            train_transform=paired_crops(backbone, **crop),
            eval_transform=paired_whole(backbone),
            validation=None if images.validation is None else MaskedImages(images.validation),
            collate=collate_masks,
            **settings,
        )

    def _fit(self, module: FineTuneModule, data: TransferData, images: ImageSplits, folder: Path) -> None:
        epochs, last = self.trial.protocol.epochs, LastCheckpoint(folder)
        best = BestWeights(self.trial, folder) if self.keep_weights else None
        shown = [] if self.logger is None or images.test.masks is None else [ExamplePredictions(images.test)]
        provenance.reset_peak_memory(self.hardware.accelerator)
        with quiet_lightning(), no_driver_probe(), show_progress(str(self.trial), epochs, unit="epochs") as advance:
            trainer = L.Trainer(
                accelerator=self.hardware.accelerator,
                devices=1,
                precision=_LIGHTNING[self.trial.protocol.precision],
                max_epochs=epochs,
                limit_train_batches=self.batching.steps * self.batching.parts,
                accumulate_grad_batches=self.batching.parts,
                num_sanity_val_steps=0,
                # one process trains one trial, also where a cluster's variables promise more
                plugins=[LightningEnvironment(), SafeCheckpoints()],
                callbacks=[*shown, _AfterEpoch(last, best, advance)],
                logger=self.logger or False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            with interruptible(trainer):
                trainer.fit(module, datamodule=data, ckpt_path=last.find())


class _AfterEpoch(Checkpoint):
    """Saves every epoch but the last; Lightning runs checkpoint callbacks at the very end of an epoch."""

    def __init__(self, last: LastCheckpoint, best: BestWeights | None, advance: Callable[[int], None]) -> None:
        self.last, self.best, self.advance = last, best, advance

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.current_epoch:
            return
        _log.info("Resuming after epoch %d.", trainer.current_epoch)
        self.advance(trainer.current_epoch)
        for epoch in cast(FineTuneModule, pl_module).history:  # a new logger starts without the finished epochs
            numbers = {name: value for name, value in epoch.items() if name != "seconds"}
            for logger in trainer.loggers:
                logger.log_metrics(numbers)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(FineTuneModule, pl_module)
        epoch = module.history[-1]
        if not math.isfinite(epoch["train_loss"]):
            raise TrialDivergedError(f"the training loss is {epoch['train_loss']} in epoch {trainer.current_epoch + 1}")
        if self.best is not None:
            self.best.update(module)
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self.last.save(trainer.save_checkpoint)
        self.advance(1)


def _reason(error: Exception) -> str:
    """Return the error in one line."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # the error of a decoding process arrives with that process's traceback before it
    line = lines[-1] if lines[0].startswith("Caught ") else lines[0]
    return line if isinstance(error, ItmError) else f"{type(error).__name__}: {line}"
