"""Fine-tuning of one backbone on one dataset; it measures the accuracies of the ground truth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Annotated, Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision.transforms import InterpolationMode, v2

from itm.core.errors import SettingError
from itm.core.seeding import derive_seed
from itm.core.settings import Count, NonNegative, Positive, settings
from itm.groundtruth.adaptation import adapt, trainable_parameters
from itm.groundtruth.protocol import Adaptation, Schedule
from itm.models.backbone import Backbone


@settings("")
class FineTuneSettings:
    """Settings of fine-tuning.

    Args:
        lr: Highest learning rate.
        weight_decay: Weight decay of AdamW, on every weight that trains.
        adaptation: Which weights train besides the head.
        schedule: ``"cosine"`` lowers the learning rate to zero over the steps after the warm-up; ``"constant"`` keeps
            it.
        warmup_epochs: Epochs, or parts of one, in which the learning rate rises (ours).
        label_smoothing: Share of the target that is spread over all classes.
        rank: Rank of LoRA's updates.
        prompts: Number of VPT's prompts.
        seed: Seed of the head, of the adaptation's weights and of the random numbers in training.
        compile: Compile the forward pass with ``torch.compile``.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.

    Raises:
        SettingError: If a setting has a value that it cannot take.
    """

    lr: Positive
    weight_decay: NonNegative
    adaptation: Adaptation = "full"
    schedule: Schedule = "cosine"
    warmup_epochs: NonNegative = 5.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    rank: Count = 8
    prompts: Count = 10
    seed: int = 0
    compile: bool = False
    gradient_checkpointing: bool = False


class FineTuneModule(L.LightningModule):
    """A backbone and a new linear head, trained together by AdamW on cross-entropy.

    The random numbers of an epoch (dropout, stochastic depth) depend on the seed and the epoch alone, so training that
    resumes from the checkpoint of an epoch gives the same numbers as uninterrupted training.

    Args:
        backbone: Pre-trained network; it is changed in place.
        num_classes: Number of classes, ``C``.
        settings: Settings of the optimiser, the adaptation and the schedule.

    Attributes:
        history: One entry per finished epoch: ``epoch`` (from 1), ``train_loss`` (mean over the images seen),
            ``validation_accuracy`` (where there is a validation part), ``accuracy`` (percent of the test images),
            ``class_accuracy`` (mean accuracy over their classes, percent), ``lr`` (of the last step) and ``seconds``.
            Checkpoints hold it.
        trainable: Number of weights that train, including those of the head.

    Raises:
        SettingError: If there are fewer than two classes, or the network does not suit the adaptation.
    """

    ignore_index: int | None = None
    """Label that does not count."""

    def __init__(self, backbone: Backbone, num_classes: int, settings: FineTuneSettings) -> None:
        super().__init__()
        if num_classes < 2:
            raise SettingError(f"num_classes={num_classes}: expected 2 or more.")
        self.settings = settings
        self.backbone = adapt(
            backbone, settings.adaptation, rank=settings.rank, prompts=settings.prompts, seed=settings.seed
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.head = self.new_head(backbone, num_classes)
        if settings.gradient_checkpointing:
            _checkpoint_gradients(backbone)
        self.convolutional = sum(isinstance(module, nn.Conv2d) for module in backbone.modules()) > 1
        if self.convolutional:
            backbone.to(memory_format=torch.channels_last)
        self.trainable = trainable_parameters(self)
        self.history: list[dict[str, float]] = []
        # of the validation part, where there is one, and of the test part
        ignored = self.ignore_index
        self.validation_confusion = MulticlassConfusionMatrix(num_classes, ignore_index=ignored, validate_args=False)
        self.confusion = MulticlassConfusionMatrix(num_classes, ignore_index=ignored, validate_args=False)
        self._features = self.features_of(backbone)
        if settings.compile:
            self._features = torch.compile(self._features)
        self._loss_sum = torch.zeros(())
        self._shown = 0
        self._started = time.perf_counter()
        self.train()

    def new_head(self, backbone: Backbone, num_classes: int) -> nn.Module:
        """Build the layer that makes logits of features."""
        return nn.Linear(backbone.dim, num_classes)

    def features_of(self, backbone: Backbone) -> Callable[[Tensor], Tensor]:
        """Return the function from images to what the head sees."""
        return backbone.features

    def train(self, mode: bool = True) -> FineTuneModule:
        """Set the training mode; a frozen backbone stays in evaluation mode, including batch norm and dropout."""
        super().train(mode)
        self.backbone.train(mode and self.settings.adaptation == "full")
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Compute class logits ``[B, C]`` of uint8 images ``[B, 3, H, W]``."""
        if self.convolutional:
            images = images.contiguous(memory_format=torch.channels_last)
        return cast(Tensor, self.head(self._features(images)))

    def on_train_epoch_start(self) -> None:
        """Seed the epoch's random numbers and reset its counts."""
        torch.manual_seed(derive_seed(self.settings.seed, self.current_epoch))
        self._loss_sum, self._shown = torch.zeros((), device=self.device), 0
        self._started = time.perf_counter()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the cross-entropy of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels, label_smoothing=self.settings.label_smoothing)
        self.count_loss(loss, len(labels))
        return loss

    def count_loss(self, loss: Tensor, images: int) -> None:
        """Add the mean loss of some images to that of the epoch."""
        self._loss_sum += loss.detach() * images  # stays on the device; reading it would wait for the step
        self._shown += images

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the confusion matrix of the validation part or of the test part, which comes last."""
        images, labels = batch
        self.confusion_of(dataloader_idx).update(self(images).argmax(dim=1), labels)

    def confusion_of(self, dataloader_idx: int) -> MulticlassConfusionMatrix:
        """Return the confusion matrix of a held-out part; the test part comes last."""
        return self.confusion if dataloader_idx == self._num_held_out() - 1 else self.validation_confusion

    def measures(self, confusion: Tensor) -> dict[str, float]:
        """Return ``accuracy`` and ``class_accuracy``, percent."""
        accuracy, class_accuracy = accuracies(confusion)
        return {"accuracy": accuracy, "class_accuracy": class_accuracy}

    def on_validation_epoch_end(self) -> None:
        """Add the epoch to the history and log it.

        This hook runs before checkpoints are saved, so a checkpoint holds its own epoch.
        """
        numbers: dict[str, float] = {}
        if self._num_held_out() > 1:
            numbers["validation_accuracy"] = self.measures(self.validation_confusion.compute())["accuracy"]
            self.validation_confusion.reset()
        numbers |= self.measures(self.confusion.compute())
        self.confusion.reset()
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            epoch = self.current_epoch + 1
            loss = float(self._loss_sum) / max(self._shown, 1)
            numbers = {"epoch": epoch, "train_loss": loss, **numbers, "lr": self._last_lr()}
            self.history = [entry for entry in self.history if entry["epoch"] < epoch]
            self.history.append({**numbers, "seconds": time.perf_counter() - self._started})
        self.log_dict({name: float(value) for name, value in numbers.items()})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return a fused AdamW on the weights that train, with a learning rate that changes at every step."""
        settings = self.settings
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        fused = self.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)
        total = int(self.trainer.estimated_stepping_batches)
        epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        warmup = round(settings.warmup_epochs * epoch)
        if warmup >= total:
            raise SettingError(
                f"warmup_epochs={settings.warmup_epochs:g}: expected less than the training's {total / epoch:g} "
                "epochs, since the learning rate would never be reached."
            )
        factor = lambda step: lr_factor(step, total, warmup, settings.schedule)  # noqa: E731 (LambdaLR pickles no lambda)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the history in a checkpoint."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the history from a checkpoint."""
        self.history = list(checkpoint["history"])

    def _num_held_out(self) -> int:
        return len(self.trainer.num_val_batches)

    def _last_lr(self) -> float:
        scheduler = cast(torch.optim.lr_scheduler.LambdaLR, self.lr_schedulers())
        return self.settings.lr * float(scheduler.lr_lambdas[0](scheduler.last_epoch - 1))


def lr_factor(step: int, total: int, warmup: int, schedule: Schedule = "cosine") -> float:
    """Return the learning rate of a step as a share of the highest one.

    The share rises linearly over ``warmup`` steps from ``1 / (warmup + 1)``; then a cosine lowers it to zero at step
    ``total``.

    Args:
        step: Index of the step, from 0.
        total: Number of steps of the whole training.
        warmup: Number of warm-up steps.
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
    """Return the accuracy over all images and its mean over the classes that have images, both in percent.

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
    """Return random crops for training, with the size and interpolation of a backbone's own transform.

    Args:
        backbone: Network that is trained on the crops.
        scale: Smallest and largest share of the image's area that a crop has.
        flip: Mirror each image left to right with probability 1/2.

    Returns:
        A transform from a PIL image in RGB to a uint8 tensor ``[3, H, W]``, not normalised; its random numbers come
        from torch's generator.

    Raises:
        SettingError: If ``scale`` is not a range within 0..1.
    """
    check_scale(scale)
    side, interpolation = backbone.input_size, InterpolationMode(backbone.interpolation)
    steps = [v2.RandomResizedCrop(side, scale=scale, interpolation=interpolation)]
    steps += [v2.RandomHorizontalFlip()] if flip else []
    return cast(Callable[[Image.Image], Tensor], v2.Compose([*steps, v2.PILToTensor()]))


def check_scale(scale: tuple[float, float]) -> None:
    """Check the shares of an image that a random crop takes.

    Raises:
        SettingError: If they are not a range within 0..1.
    """
    low, high = scale
    if not 0 < low <= high <= 1:
        raise SettingError(f"scale={low}, {high}: expected two shares of the image, 0 < smallest <= largest <= 1.")


def _checkpoint_gradients(backbone: Backbone) -> None:
    try:
        cast(Any, backbone.net).set_grad_checkpointing()
    except (AttributeError, AssertionError) as error:
        raise SettingError(
            f"gradient_checkpointing=true: {backbone.model} does not support it; set it to false."
        ) from error
