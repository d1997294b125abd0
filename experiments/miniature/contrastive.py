"""Contrastive and self-distilling pre-training of vision transformers: SimCLR, MoCo v3 and DINO."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, NTXentLoss
from lightly.models.modules.heads import DINOProjectionHead, MoCoProjectionHead, SimCLRProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from experiments.miniature.module import Pretraining, build, seeded, width
from experiments.miniature.views import RandomViews

_VIEWS = {"scale": (0.3, 1.0), "saturation": 0.2, "hue": 0.1, "grayscale": 0.2, "blur": 0.2, "invert": 0.2}


class _TwoViews(Pretraining, ABC):
    """Base class: two views of each image pass through one network.

    Args:
        views: Settings of :class:`experiments.miniature.views.RandomViews` that differ from this file's defaults.
        settings: Settings of :class:`experiments.miniature.module.Pretraining`.
    """

    def __init__(self, *, views: Mapping[str, Any] | None = None, clip: float | None = 1.0, **settings: Any) -> None:
        super().__init__(clip=clip, **settings)
        self.views = RandomViews(**{**_VIEWS, **(views or {})})

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of two views; the labels are not used."""
        return self.loss_of_views(self.views(images), self.views(images))

    @abstractmethod
    def loss_of_views(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss of two views of the same images, each float ``[B, 3, H, W]``."""


class SimCLR(_TwoViews):
    """Contrast each view with all other images of the batch (Chen et al. 2020).

    Args:
        hidden_dim: Width of the projector's hidden layer.
        output_dim: Width of the projector's output.
        temperature: Temperature of the loss.
        settings: Settings of the base classes.
    """

    def __init__(
        self, *, hidden_dim: int = 512, output_dim: int = 128, temperature: float = 0.2, **settings: Any
    ) -> None:
        super().__init__(**settings)
        with seeded(self.seed, 1):
            self.projector = SimCLRProjectionHead(width(self.net), hidden_dim, output_dim)
        self.criterion = NTXentLoss(temperature)

    def loss_of_views(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the NT-Xent loss of the projections."""
        z = self.net(torch.cat([first, second])).chunk(2)
        loss: Tensor = self.criterion(*map(self.projector, z))
        return loss


class _Momentum(_TwoViews):
    """Base class: a moving average of the network gives the targets of the network.

    Args:
        model: timm's name of the network.
        model_args: Arguments of the network.
        momentum: Share of its weights that the average keeps in the first step; a cosine schedule raises it to 1.
        settings: Settings of the base classes.
    """

    def __init__(
        self, *, model: str, model_args: Mapping[str, Any] | None = None, momentum: float = 0.99, **settings: Any
    ) -> None:
        super().__init__(model=model, model_args=model_args, **settings)
        self.momentum = momentum
        self.momentum_net = build(model, model_args, 0)

    def add_projectors(self, projector: type[nn.Module], *sizes: int, **settings: Any) -> None:
        """Add a projector to each network, and copy the weights of the trained one to the average."""
        with seeded(self.seed, 1):
            self.projector = projector(width(self.net), *sizes, **settings)
        self.momentum_projector = projector(width(self.net), *sizes, **settings)
        for own, other in self._pairs():
            other.load_state_dict(own.state_dict())
            deactivate_requires_grad(other)

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.net, self.momentum_net), (self.projector, self.momentum_projector)]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        """Update the average after a step of the optimiser."""
        momentum = cosine_schedule(min(self.global_step, self.steps), self.steps, self.momentum, 1.0)
        for own, other in self._pairs():
            update_momentum(own, other, momentum)

    def momentum_outputs(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return the average network's projections of two views that are concatenated in a batch; without gradient."""
        with torch.no_grad():
            first, second = self.momentum_net(views).chunk(2)
            return self.momentum_projector(first), self.momentum_projector(second)


class MoCoV3(_Momentum):
    """Contrast predictions of one view with the momentum encoder's projections of the other (Chen et al. 2021).

    Args:
        hidden_dim: Width of the hidden layers of projector and predictor.
        output_dim: Width of the outputs of projector and predictor.
        temperature: Temperature of the loss (algorithm 1).
        settings: Settings of the base classes.
    """

    def __init__(
        self, *, hidden_dim: int = 512, output_dim: int = 128, temperature: float = 0.2, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.temperature = temperature
        self.add_projectors(MoCoProjectionHead, hidden_dim, output_dim, num_layers=3, batch_norm=True)
        with seeded(self.seed, 2):
            self.predictor = MoCoProjectionHead(output_dim, hidden_dim, output_dim, num_layers=2, batch_norm=True)

    def loss_of_views(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the symmetric InfoNCE loss."""
        views = torch.cat([first, second])
        q1, q2 = (self.predictor(self.projector(x)) for x in self.net(views).chunk(2))
        k1, k2 = self.momentum_outputs(views)
        return info_nce(q1, k2, self.temperature) + info_nce(q2, k1, self.temperature)


def info_nce(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of finding each query's key among all keys.

    Args:
        q: Queries, ``[B, D]``; normalised to unit length here.
        k: Keys of the same images in the same order, ``[B, D]``; normalised to unit length here.
        temperature: Temperature of the softmax; the loss is scaled by twice the temperature, as the authors do.
    """
    logits = F.normalize(q) @ F.normalize(k).T / temperature
    return F.cross_entropy(logits, torch.arange(len(q), device=q.device)) * (2 * temperature)


class DINO(_Momentum):
    """Train a student on the teacher's centred and sharpened prototype scores of the other view (Caron et al. 2021).

    Args:
        hidden_dim: Width of the projector's hidden layers.
        bottleneck_dim: Width of the projector's bottleneck.
        output_dim: Number of prototypes.
        teacher_temperature: Temperature of the teacher's softmax; a low one sharpens.
        student_temperature: Temperature of the student's softmax.
        center_momentum: Share of its value that the centre of the teacher's outputs keeps in a step.
        settings: Settings of the base classes.
    """

    def __init__(
        self,
        *,
        hidden_dim: int = 512,
        bottleneck_dim: int = 128,
        output_dim: int = 1024,
        teacher_temperature: float = 0.04,
        student_temperature: float = 0.1,
        center_momentum: float = 0.9,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.add_projectors(
            DINOProjectionHead, hidden_dim, bottleneck_dim, output_dim, freeze_last_layer=self.warmup_steps
        )
        self.criterion = DINOLoss(
            output_dim,
            teacher_temp=teacher_temperature,
            student_temp=student_temperature,
            center_momentum=center_momentum,
            warmup_teacher_temp_epochs=0,
        )

    def loss_of_views(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the cross-entropy of the student with the teacher's other view, and update the centre."""
        views = torch.cat([first, second])
        student = [self.projector(x) for x in self.net(views).chunk(2)]
        loss: Tensor = self.criterion(list(self.momentum_outputs(views)), student)
        return loss

    def on_after_backward(self) -> None:
        """Freeze the prototypes during the warm-up."""
        self.projector.cancel_last_layer_gradients(self.global_step)  # type: ignore[operator]
