"""Errors in the middle of fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from itm.groundtruth.module import FineTuneModule


def break_in(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, when: Callable[[FineTuneModule, Tensor], Any]
) -> None:
    """Raise an error in the training step where ``when(module, images)`` holds."""
    step = FineTuneModule.training_step

    def breaking(module: FineTuneModule, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if when(module, batch[0]):
            raise error
        return step(module, batch, batch_idx)

    monkeypatch.setattr(FineTuneModule, "training_step", breaking)
