"""Supervised pre-training of convolutional networks on the labels of the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.miniature.module import Pretraining
from experiments.miniature.views import RandomViews

_VIEWS = {"scale": (0.6, 1.0), "brightness": 0.3, "contrast": 0.3, "invert": 0.1}


class Supervised(Pretraining):
    """Cross-entropy with the labels of the corpus.

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes.
        views: Settings of :class:`experiments.miniature.views.RandomViews` that differ from this file's defaults.
        lr: Peak learning rate.
        settings: Settings of :class:`experiments.miniature.module.Pretraining`.
    """

    keeps_head = True

    def __init__(
        self, *, label_smoothing: float = 0.1, views: Mapping[str, Any] | None = None, lr: float = 2e-3, **settings: Any
    ) -> None:
        super().__init__(lr=lr, **settings)
        self.label_smoothing = label_smoothing
        self.views = RandomViews(**{**_VIEWS, **(views or {})})
        self.net = self.net.to(memory_format=torch.channels_last)  # 1.7 to 2.6 times as fast on a CPU

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of one view."""
        views = self.views(images).contiguous(memory_format=torch.channels_last)
        return F.cross_entropy(self.net(views), labels, label_smoothing=self.label_smoothing)
