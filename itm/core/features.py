"""Features of one backbone on one dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itm.core.errors import FeatureError


@dataclass(frozen=True, eq=False)
class Features:
    """The output of one backbone on one dataset's training split.

    Tensors, numpy arrays, lists and pandas objects are accepted; tensors and arrays are not copied. Values are not
    checked here: a scorer refuses features that are not finite (see :mod:`itm.scorers.base`), so that one damaged model
    is named and the others are scored.

    Args:
        x: Features before the head, float, ``[N, D]``.
        y: Class of each row, integer or text, ``[N]``. Texts become numbers in their sorted order.
        logits: Output of the backbone's source head, float, ``[N, K]``, where it has one (LEEP and NCE need it).
        groups: Group of each row, integer or text, ``[N]``; rows of one group are never split between training and
            held-out parts (segmentation: the image that a pixel belongs to).

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
    def dim(self) -> int:
        """Width of a feature, ``D``."""
        return self.x.shape[1]

    def take(self, rows: Tensor) -> Features:
        """Return some rows.

        Args:
            rows: Indices of the rows, int64, or a mask over all rows, bool.
        """
        parts = (self.x, self.y, self.logits, self.groups)
        return Features(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]


def _as_tensor(name: str, value: Any, ndim: int, floating: bool) -> Tensor:
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(_as_array(name, value, words=not floating))
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, FeatureError):
            raise
        found = getattr(value, "dtype", type(value).__name__)
        raise FeatureError(f"Features: {name} must be an array of numbers, found {found}.") from error
    if tensor.ndim != ndim:
        raise FeatureError(f"Features: {name} must have {ndim} dimension(s), found shape {tuple(tensor.shape)}.")
    if tensor.is_floating_point() != floating or tensor.is_complex():
        kind = "floating-point" if floating else "integer or text"
        raise FeatureError(f"Features: {name} must be {kind}, found {tensor.dtype}.")
    return tensor.detach() if floating else tensor.long()


def _as_array(name: str, value: Any, words: bool) -> npt.NDArray[Any]:
    """Convert arrays, lists and data frames; where words may stand, number them in their sorted order."""
    # numpy turns a list of "a" and 1 into two texts, unless it is asked for objects
    array = np.array(value, dtype=object) if words and isinstance(value, list | tuple) else np.asarray(value)
    if array.ndim == 0:
        raise TypeError
    if array.dtype == object:
        array = _typed(name, array)
    if array.dtype.kind in "US":
        if not words:
            raise FeatureError(f"Features: {name} must be floating-point, found text; keep the numeric columns only.")
        array = np.unique(array, return_inverse=True)[1].reshape(array.shape)
    # torch warns about read-only memory, and refuses memory in reversed order
    return array if array.flags.writeable and min(array.strides) > 0 else array.copy()


def _typed(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give an array of Python objects the type that they share, text or number."""
    for entry in array.ravel():
        if isinstance(entry, str) != isinstance(array.flat[0], str) or entry is None:
            raise FeatureError(f"Features: {name} mixes texts and other values, such as {entry!r}; use one type.")
    return np.array(array.tolist())
