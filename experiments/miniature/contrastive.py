"""Vision transformers that learn to recognise an image in two views: SimCLR, MoCo v3 and DINO."""

from __future__ import annotations

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


class _TwoViews(Pretraining):
    """Two views of each image through one network.

    Args:
        views: Settings of :class:`experiments.miniature.views.RandomViews` that differ from the family's.
        settings: Of :class:`experiments.miniature.module.Pretraining`.
    """

    def __init__(self, *, views: Mapping[str, Any] | None = None, clip: float | None = 1.0, **settings: Any) -> None:
        super().__init__(clip=clip, **settings)
        self.views = RandomViews(**{**_VIEWS, **(views or {})})

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of two views; the labels stay unseen."""
        return self.loss_of_views(self.views(images), self.views(images))

    def loss_of_views(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss of two views of the same images, each float ``[B, 3, H, W]``."""
        raise NotImplementedError


class SimCLR(_TwoViews):
    """Each view is told from all other images of the batch (Chen et al. 2020).

    Args:
        hidden_dim: Width of the projector's hidden layer.
        output_dim: Width of its output.
        temperature: Of the loss.
        settings: As of the other methods of this file.
    """

    def __init__(
        self, *, hidden_dim: int = 512, output_dim: int = 128, temperature: float = 0.2, **settings: Any
    ) -> None:
        super().__init__(**settings)
        with seeded(self.seed, 1):
            self.projector = SimCLRProjectionHead(width(self.net), hidden_dim, output_dim)
        self.criterion = NTXentLoss(temperature)

    def loss_of_views(self, first: Tensor, second: Tensor) -> Tensor:
        """NT-Xent of the projections."""
        z = self.net(torch.cat([first, second])).chunk(2)
        loss: Tensor = self.criterion(*map(self.projector, z))
        return loss


class _Momentum(_TwoViews):
    """A second network follows the first as a moving average, and is what the first learns to agree with.

    Args:
        model: timm's name of the network.
        momentum: Share that the follower keeps in a step, at the start; a cosine raises it to 1.
        settings: As of the other methods of this file.
    """

    def __init__(
        self, *, model: str, model_args: Mapping[str, Any] | None = None, momentum: float = 0.99, **settings: Any
    ) -> None:
        super().__init__(model=model, model_args=model_args, **settings)
        self.momentum = momentum
        self.follower = build(model, model_args, 0)

    def add_projectors(self, projector: type[nn.Module], *sizes: int, **settings: Any) -> None:
        """Give both networks a projector; then both are the same."""
        with seeded(self.seed, 1):
            self.projector = projector(width(self.net), *sizes, **settings)
        self.follower_projector = projector(width(self.net), *sizes, **settings)
        for own, other in self._pairs():
            other.load_state_dict(own.state_dict())
            deactivate_requires_grad(other)

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.net, self.follower), (self.projector, self.follower_projector)]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        """Let the follower follow, after a step of the optimiser."""
        momentum = cosine_schedule(min(self.global_step, self.steps), self.steps, self.momentum, 1.0)
        for own, other in self._pairs():
            update_momentum(own, other, momentum)

    def followed(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """What the follower says of two views, one after the other in a batch; no gradient."""
        with torch.no_grad():
            first, second = self.follower(views).chunk(2)
            return self.follower_projector(first), self.follower_projector(second)


class MoCoV3(_Momentum):
    """The prediction of one view is told from all images of the batch as a momentum encoder sees the other view.

    Args:
        hidden_dim: Width of the hidden layers of projector and predictor.
        output_dim: Width of their outputs.
        temperature: Of the loss (Chen et al. 2021, algorithm 1).
        settings: As of the other methods of this file.
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
        """Symmetric InfoNCE."""
        views = torch.cat([first, second])
        q1, q2 = (self.predictor(self.projector(x)) for x in self.net(views).chunk(2))
        k1, k2 = self.followed(views)
        return info_nce(q1, k2, self.temperature) + info_nce(q2, k1, self.temperature)


def info_nce(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each query's key among all keys.

    Args:
        q: Queries, ``[B, D]``; brought to unit length.
        k: Keys, row by row of the same images; brought to unit length.
        temperature: Of the softmax; the loss is scaled by twice of it, as by the authors.
    """
    logits = F.normalize(q) @ F.normalize(k).T / temperature
    return F.cross_entropy(logits, torch.arange(len(q), device=q.device)) * (2 * temperature)


class DINO(_Momentum):
    """A student predicts the centred and sharpened words of its teacher about the other view (Caron et al. 2021).

    Args:
        hidden_dim: Width of the projector's hidden layers.
        bottleneck_dim: Width of its bottleneck.
        output_dim: Number of words.
        teacher_temperature: Sharpens the teacher.
        student_temperature: Of the student.
        center_momentum: Share that the centre of the teacher's outputs keeps in a step.
        settings: As of the other methods of this file.
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
        """Cross-entropy of the student with the teacher of the other view; the centre moves along."""
        views = torch.cat([first, second])
        student = [self.projector(x) for x in self.net(views).chunk(2)]
        loss: Tensor = self.criterion(list(self.followed(views)), student)
        return loss

    def on_after_backward(self) -> None:
        """Keep the words as they are while the learning rate rises."""
        self.projector.cancel_last_layer_gradients(self.global_step)  # type: ignore[operator]
