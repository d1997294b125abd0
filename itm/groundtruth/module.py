"""Fine-tuning of one backbone on one dataset: what its true accuracy is measured by."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Literal, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision.transforms import InterpolationMode, v2

from itm.core.errors import SettingError, unknown
from itm.core.seeding import derive_seed
from itm.groundtruth.adaptation import adapt, trainable_parameters
from itm.models.backbone import Backbone

SCHEDULES = ("cosine", "constant")


class FineTuneModule(L.LightningModule):
    """A backbone and a new linear head, trained together by AdamW on cross-entropy.

    Random numbers of an epoch (dropout, stochastic depth) depend on the seed and the epoch alone, so that training
    resumed from a checkpoint of an epoch's end gives the numbers that uninterrupted training gives.

    Args:
        backbone: Pre-trained network; it is changed in place.
        num_classes: Number of classes, ``C``.
        lr: Highest learning rate.
        weight_decay: Weight decay of AdamW, on every weight that trains.
        adaptation: What trains besides the head: one of :data:`itm.groundtruth.adaptation.ADAPTATIONS`.
        schedule: ``"cosine"`` lowers the learning rate to zero over the steps after the warm-up; ``"constant"`` keeps
            it.
        warmup_epochs: Epochs, or parts of one, in which the learning rate rises (ours).
        label_smoothing: Share of the target that goes to all classes alike.
        rank: Rank of LoRA's updates.
        prompts: Number of VPT's prompts.
        seed: Of the head, of what the adaptation adds, and of the random numbers in training.
        compile: Compile the forward pass by ``torch.compile``.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.

    Attributes:
        history: One entry per finished epoch: ``epoch`` (from 1), ``train_loss`` (mean over the images shown),
            ``accuracy`` (percent of the validation images), ``class_accuracy`` (mean over their classes of each
            one's accuracy, percent), ``lr`` (of the last step) and ``seconds``. Checkpoints carry it.
        trainable: Number of weights that train, the head's included.

    Raises:
        SettingError: If a setting has a value it cannot take, or the network does not suit the adaptation.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        lr: float,
        weight_decay: float,
        adaptation: str = "full",
        schedule: Literal["cosine", "constant"] = "cosine",
        warmup_epochs: float = 5,
        label_smoothing: float = 0.0,
        rank: int = 8,
        prompts: int = 10,
        seed: int = 0,
        compile: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check(num_classes, lr, weight_decay, schedule, warmup_epochs, label_smoothing)
        self.lr, self.weight_decay, self.label_smoothing = lr, weight_decay, label_smoothing
        self.adaptation, self.schedule, self.warmup_epochs, self.seed = adaptation, schedule, warmup_epochs, seed
        self.backbone = adapt(backbone, adaptation, rank=rank, prompts=prompts, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(backbone.dim, num_classes)
        if gradient_checkpointing:
            _checkpoint_gradients(backbone)
        self.convolutional = sum(isinstance(module, nn.Conv2d) for module in backbone.modules()) > 1
        if self.convolutional:
            backbone.to(memory_format=torch.channels_last)
        self.trainable = trainable_parameters(self)
        self.history: list[dict[str, float]] = []
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self._features: Callable[[Tensor], Tensor] = torch.compile(backbone.features) if compile else backbone.features
        self._loss_sum = torch.zeros(())
        self._shown = 0
        self._started = time.perf_counter()
        self.train()

    def train(self, mode: bool = True) -> FineTuneModule:
        """Set the training mode; what is frozen stays in evaluation mode, batch norm and dropout included."""
        super().train(mode)
        self.backbone.train(mode and self.adaptation == "full")
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Compute class logits ``[B, C]`` of uint8 images ``[B, 3, H, W]``."""
        if self.convolutional:
            images = images.contiguous(memory_format=torch.channels_last)
        return cast(Tensor, self.head(self._features(images)))

    def on_train_epoch_start(self) -> None:
        """Seed the epoch's random numbers and start its counts."""
        torch.manual_seed(derive_seed(self.seed, self.current_epoch))
        self._loss_sum, self._shown = torch.zeros((), device=self.device), 0
        self._started = time.perf_counter()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the cross-entropy of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels, label_smoothing=self.label_smoothing)
        self._loss_sum += loss.detach() * len(labels)  # stays on the device: reading it would wait for the step
        self._shown += len(labels)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count the images of each class by what they are taken for."""
        images, labels = batch
        self.confusion.update(self(images).argmax(dim=1), labels)

    def on_validation_epoch_end(self) -> None:
        """Keep and log the epoch's numbers.

        Here and not after the epoch, so that whatever saves a checkpoint at the epoch's end finds them.
        """
        accuracy, class_accuracy = accuracies(self.confusion.compute())
        self.confusion.reset()
        numbers = {"accuracy": accuracy, "class_accuracy": class_accuracy}
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            epoch = self.current_epoch + 1
            numbers = {"train_loss": float(self._loss_sum) / max(self._shown, 1), **numbers, "lr": self._last_lr()}
            self.history = [entry for entry in self.history if entry["epoch"] < epoch]
            self.history.append({"epoch": epoch, **numbers, "seconds": time.perf_counter() - self._started})
        self.log_dict(numbers)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW in one fused kernel on what trains, with a learning rate that changes at every step."""
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        fused = self.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(weights, lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        total = int(self.trainer.estimated_stepping_batches)
        epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        warmup = round(self.warmup_epochs * epoch)
        if warmup >= total:
            raise SettingError(
                f"warmup_epochs={self.warmup_epochs:g}: expected less than the training's {total / epoch:g} epochs, "
                "since the learning rate would never be reached."
            )
        factor = lambda step: lr_factor(step, total, warmup, self.schedule)  # noqa: E731 (LambdaLR saves no function)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the history into a checkpoint."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history from a checkpoint."""
        self.history = list(checkpoint["history"])

    def _last_lr(self) -> float:
        scheduler = cast(torch.optim.lr_scheduler.LambdaLR, self.lr_schedulers())
        return self.lr * float(scheduler.lr_lambdas[0](scheduler.last_epoch - 1))


def lr_factor(step: int, total: int, warmup: int, schedule: str = "cosine") -> float:
    """Share of the highest learning rate that a step has.

    It rises linearly over ``warmup`` steps, the first of which has ``1 / (warmup + 1)``; then a cosine lowers it to
    zero, which it would reach at step ``total``.

    Args:
        step: Number of the step, from 0.
        total: Number of steps in the whole training.
        warmup: Number of steps before the highest learning rate.
        schedule: ``"cosine"`` or ``"constant"``.

    Returns:
        A number in 0..1.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * min((step - warmup) / (total - warmup), 1))) / 2


def accuracies(confusion: Tensor) -> tuple[float, float]:
    """Accuracy over all images and its mean over the classes that have images, both in percent.

    Args:
        confusion: Number of images by true class (rows) and predicted class, ``[C, C]``.
    """
    confusion = confusion.cpu().double()
    hits, shown = confusion.diagonal(), confusion.sum(dim=1)
    present = shown > 0
    return 100 * float(hits.sum() / shown.sum()), 100 * float((hits[present] / shown[present]).mean())


def train_transform(
    backbone: Backbone, *, scale: tuple[float, float] = (0.08, 1.0), flip: bool = True
) -> Callable[[Image.Image], Tensor]:
    """Random crops for training, of the size and interpolation that a backbone's own transform has.

    Args:
        backbone: Who will see the images.
        scale: Smallest and largest share of the image's area that a crop has.
        flip: Mirror every second image, left to right.

    Returns:
        A transform that makes a PIL image in RGB a uint8 tensor ``[3, H, W]``, not normalised; its random numbers come
        from torch's generator.

    Raises:
        SettingError: If ``scale`` is no range within 0..1.
    """
    low, high = scale
    if not 0 < low <= high <= 1:
        raise SettingError(f"scale={low}, {high}: expected two shares of the image, 0 < smallest <= largest <= 1.")
    side, interpolation = backbone.input_size, InterpolationMode(backbone.interpolation)
    steps = [v2.RandomResizedCrop(side, scale=(low, high), interpolation=interpolation)]
    steps += [v2.RandomHorizontalFlip()] if flip else []
    return cast(Callable[[Image.Image], Tensor], v2.Compose([*steps, v2.PILToTensor()]))


def _check(
    num_classes: int, lr: float, weight_decay: float, schedule: str, warmup_epochs: float, label_smoothing: float
) -> None:
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    for setting, value, fits, expected in (
        ("num_classes", num_classes, num_classes >= 2, "2 or more"),
        ("lr", lr, 0 < lr < math.inf, "more than 0"),
        ("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "0 or more"),
        ("warmup_epochs", warmup_epochs, 0 <= warmup_epochs < math.inf, "0 or more"),
        ("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "0 or more and less than 1"),
    ):
        if not fits:
            raise SettingError(f"{setting}={value}: expected {expected}.")


def _checkpoint_gradients(backbone: Backbone) -> None:
    try:
        cast(Any, backbone.net).set_grad_checkpointing()
    except (AttributeError, AssertionError) as error:
        raise SettingError(
            f"gradient_checkpointing=true: {backbone.model} does not support it; set it to false."
        ) from error
