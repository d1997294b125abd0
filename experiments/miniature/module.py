"""What all ways of pre-training share: the network, the optimiser, and random numbers that depend on the step alone."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from experiments.miniature.views import normalize
from itm.core.errors import SettingError
from itm.core.seeding import derive_seed
from itm.groundtruth.module import lr_factor
from itm.models.builder import build_network, find_model

_ROUND = 25  # steps, a few seconds


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Draw from a generator of its own, decided by whole numbers; torch's goes on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive_seed(*numbers))
        yield


class Pretraining(L.LightningModule):
    """A network and a way of training it; subclasses add a loss and what only that needs.

    A step draws from random numbers that depend on the seed and the step, so interrupted training goes on as if it had
    not been.

    Args:
        model: timm's name of the network.
        model_args: Arguments of the network.
        num_classes: Number of the corpus' classes.
        images: How many images the network sees, repetitions counted.
        batch_size: Images of a step.
        lr: Highest learning rate, reached after the warm-up; a cosine then lowers it to zero.
        weight_decay: Weight decay of AdamW, of matrices alone: neither biases nor norms decay.
        warmup: Share of the steps that the learning rate rises.
        clip: Largest norm of a step's gradient, or None for no limit.
        seed: Of the initial weights, the order of the images and the views.

    Attributes:
        net: The network that is kept, without what only the pre-training needs.
        round: Steps of a round, between which training can be stopped and taken up.
        steps: Steps in all, whole rounds.
        history: For each round of steps its mean loss and its seconds.
    """

    keeps_head = False
    """Whether the network's own head, which makes its logits, is worth keeping."""

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
            self.net = build(model, model_args, num_classes if self.keeps_head else 0)
        self.history: list[dict[str, float]] = []
        self._losses: list[Tensor] = []
        self._started = time.perf_counter()

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch of uint8 images ``[B, 3, H, W]`` with labels ``[B]``."""

    def features(self, images: Tensor) -> Tensor:
        """Features ``[B, D]`` of uint8 images ``[B, 3, H, W]``, pooled as where the network is used."""
        net = cast(Any, self.net)
        tokens = net.forward_features(normalize(images.to(self.device)))
        return cast(Tensor, net.forward_head(tokens, pre_logits=True))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """The loss of a batch, with the random numbers of its step."""
        with seeded(self.seed, self.global_step):
            loss = self.loss(*batch)
        self._losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW in one fused kernel, with a learning rate that changes at every step."""
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        groups = [
            {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=self.device.type in ("cpu", "cuda"))
        factor = lambda step: lr_factor(step, self.steps, self.warmup_steps)  # noqa: E731 (LambdaLR saves no function)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Begin a round."""
        self._losses, self._started = [], time.perf_counter()

    def on_train_epoch_end(self) -> None:
        """End a round."""
        loss = float(torch.stack(self._losses).mean())
        self.history.append({"loss": loss, "seconds": time.perf_counter() - self._started})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the history into a checkpoint."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history from a checkpoint."""
        self.history = list(checkpoint["history"])


def build(model: str, model_args: Mapping[str, Any] | None, num_classes: int) -> nn.Module:
    """Build a network as :func:`itm.models.backbone.load_backbone` does from the same settings."""
    return build_network(find_model(model, "model"), model_args or {}, num_classes, "model_args")


def width(net: nn.Module) -> int:
    """Width of a network's features."""
    return int(getattr(net, "head_hidden_size", None) or getattr(net, "num_features"))  # noqa: B009 (no tensor)
