"""Base class of all pre-training methods: network, optimiser, and random numbers that depend only on the step."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from experiments.miniature.pictures import Pictures
from experiments.miniature.views import normalize
from itm.core.errors import SettingError
from itm.core.seeding import derive_seed
from itm.groundtruth.module import lr_factor
from itm.models.builder import build_network
from itm.models.families import find_model

_ROUND = 25  # steps; a round takes a few seconds


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed torch inside the block from whole numbers; the state outside the block does not change."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive_seed(*numbers))
        yield


class Pretraining(L.LightningModule):
    """A network with its optimiser; subclasses add the loss and the modules that only the loss needs.

    The random numbers of a step depend only on the seed and the step: resumed training equals uninterrupted training.

    Args:
        model: timm's name of the network.
        model_args: Arguments of the network.
        num_classes: Number of classes in the corpus.
        images: Number of images that the network sees, with repetitions.
        batch_size: Images per step.
        lr: Peak learning rate, reached after the warm-up; a cosine schedule then lowers it to zero.
        weight_decay: Weight decay of AdamW; applies to matrices, not to biases and norms.
        warmup: Share of the steps with a rising learning rate.
        clip: Largest gradient norm, or None for no limit.
        seed: Seed of the initial weights, the order of the images and the views.

    Attributes:
        net: The network whose weights are exported.
        round: Steps per round; training can be resumed between rounds.
        steps: Number of steps, a multiple of ``round``.
        history: Mean loss and seconds of each round.
    """

    keeps_head = False
    """Whether the trained classification head is exported with the network."""

    def __init__(
        self,
        *,
        model: str,
        num_classes: int,
        images: int,
        batch_size: int = 128,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: float = 0.1,
        clip: float | None = None,
        seed: int = 0,
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if images < batch_size:
            raise SettingError(f"images={images}: expected at least one batch of batch_size={batch_size}.")
        self.batch_size, self.lr, self.weight_decay, self.clip, self.seed = batch_size, lr, weight_decay, clip, seed
        self.round = min(_ROUND, images // batch_size)
        self.steps = images // batch_size // self.round * self.round
        self.warmup_steps = round(warmup * self.steps)
        with seeded(seed):
            self.net = self.build_net(model, model_args, num_classes if self.keeps_head else 0)
        self.history: list[dict[str, float]] = []
        self._losses: list[Tensor] = []
        self._started = time.perf_counter()

    def build_net(self, model: str, model_args: Mapping[str, Any] | None, num_classes: int) -> nn.Module:
        """Build the untrained network whose weights are exported."""
        return build(model, model_args, num_classes)

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch of uint8 images ``[B, 3, H, W]`` with labels ``[B]``."""

    def features(self, images: Tensor) -> Tensor:
        """Return features ``[B, D]`` of uint8 images ``[B, 3, H, W]``, pooled as :func:`load_backbone` pools them."""
        net = cast(Any, self.net)
        tokens = net.forward_features(normalize(images.to(self.device)))
        return cast(Tensor, net.forward_head(tokens, pre_logits=True))

    @torch.inference_mode()
    def held_out_accuracy(self, known: Pictures, new: Pictures, limit: int = 5000) -> dict[str, float]:
        """Return the accuracy of the network on held-out corpus images, in percent; it is left in evaluation mode.

        Args:
            known: Labelled images for the nearest-neighbour classifier; the first ``limit`` are used.
            new: Held-out images.
            limit: Number of images from ``known``.

        Returns:
            ``knn``: accuracy of the nearest neighbour by cosine similarity; ``accuracy``: accuracy of the network's own
            head, for methods that keep it.
        """
        self.net.eval()
        features = F.normalize(torch.cat([self.features(part) for part in torch.split(known.images[:limit], 250)]))
        own = [self.features(part) for part in torch.split(new.images, 250)]
        nearest = (F.normalize(torch.cat(own)) @ features.T).argmax(1)
        found = {"knn": known.labels[:limit][nearest.cpu()]}
        if self.keeps_head:
            logits = [self.net.get_classifier()(part) for part in own]  # type: ignore[operator]
            found["accuracy"] = torch.cat(logits).argmax(1).cpu()
        return {key: round(100 * float((labels == new.labels).float().mean()), 2) for key, labels in found.items()}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Return the loss of a batch, with the random numbers of this step."""
        with seeded(self.seed, self.global_step):
            loss = self.loss(*batch)
        self._losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return a fused AdamW with a learning rate that changes at every step."""
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        groups = [
            {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=self.device.type in ("cpu", "cuda"))
        factor = lambda step: lr_factor(step, self.steps, self.warmup_steps)  # noqa: E731 (LambdaLR would save a callable object)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Start the clock and the losses of a round."""
        self._losses, self._started = [], time.perf_counter()

    def on_train_epoch_end(self) -> None:
        """Append the mean loss and the seconds of the round to the history."""
        loss = float(torch.stack(self._losses).mean())
        self.history.append({"loss": loss, "seconds": time.perf_counter() - self._started})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the history in a checkpoint."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the history from a checkpoint."""
        self.history = list(checkpoint["history"])


def build(model: str, model_args: Mapping[str, Any] | None, num_classes: int) -> nn.Module:
    """Build a network as :func:`itm.models.backbone.load_backbone` does from the same settings."""
    return build_network(find_model(model, "model"), model_args or {}, num_classes, "model_args")


def width(net: nn.Module) -> int:
    """Return the width of a network's features."""
    return int(getattr(net, "head_hidden_size", None) or getattr(net, "num_features"))  # noqa: B009 (no tensor)
