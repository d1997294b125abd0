"""Features of one backbone on one dataset, and the store that keeps them on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from itm.core.errors import FeatureError


@dataclass(frozen=True, eq=False)
class Features:
    """What one backbone sees in one dataset's training split.

    Arrays of numpy are accepted and become tensors without a copy. Values are not judged here: a scorer refuses
    features that are not finite (see :mod:`itm.scorers.base`), so that a damaged model can be named and left out.

    Args:
        x: Features before the head, float, ``[N, D]``.
        y: Class of each row, integer, ``[N]``.
        logits: Output of the backbone's source head, float, ``[N, K]``, where it has one (LEEP and NCE need it).
        groups: Rows of one group are never split between training and held-out parts, integer, ``[N]``
            (segmentation: the image that a pixel belongs to).

    Raises:
        FeatureError: If a shape or a type is not as stated.
    """

    x: Tensor
    y: Tensor
    logits: Tensor | None = None
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        for name, ndim, floating in (("x", 2, True), ("y", 1, False), ("logits", 2, True), ("groups", 1, False)):
            value = getattr(self, name)
            if value is not None or name in "xy":
                object.__setattr__(self, name, _as_tensor(name, value, ndim, floating))
        for name in ("y", "logits", "groups"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.x):
                raise FeatureError(f"Features: x has {len(self.x)} rows, {name} has {len(value)}; each row needs both.")

    @property
    def num_samples(self) -> int:
        """Number of rows, ``N``."""
        return self.x.shape[0]

    @property
    def dim(self) -> int:
        """Width of a feature, ``D``."""
        return self.x.shape[1]


def _as_tensor(name: str, value: Any, ndim: int, floating: bool) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FeatureError(f"Features: {name} must be an array or a tensor, found {type(value).__name__}.") from error
    if tensor.ndim != ndim:
        raise FeatureError(f"Features: {name} must have {ndim} dimension(s), found shape {tuple(tensor.shape)}.")
    if tensor.is_floating_point() != floating or tensor.is_complex():
        kind = "floating-point" if floating else "integer"
        raise FeatureError(f"Features: {name} must be {kind}, found {tensor.dtype}.")
    return tensor.detach() if floating else tensor.long()
