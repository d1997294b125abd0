"""Images with labels in rows: of a table, of a Hugging Face dataset, or of a Python dataset."""

from __future__ import annotations

import logging
import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from itm.core.errors import DataError
from itm.core.settings import OnError
from itm.data.files import quoted
from itm.data.folders import Listing, seeded_part
from itm.data.items import Item, label
from itm.data.layout import HELD_OUT, TRAIN

_FEW_PER_NUMBER, _MANY_NUMBERS = 5, 100  # images per number below which, and numbers above which, they measure
_MANY_SINGLE = 20  # labels above which one of each image, or one with a fraction, is not a class
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Labelled:
    """All rows of a dataset, before it is split.

    Args:
        source: The dataset in messages, as in ``data=labels.csv``.
        items: The images.
        labels: Label of each image; None where it is missing.
        splits: Word of each image's split, such as ``"train"``; None where the dataset has no split.
        rows: Number of each row in messages.
        order: Labels in the order of the classes; None sorts them, numbers by value.
        column: Column of the labels in messages.
    """

    source: str
    items: Sequence[Item]
    labels: Sequence[str | None]
    splits: Sequence[str] | None
    rows: Sequence[int]
    order: Sequence[str] | None = None
    column: str = "label"

    def listing(self, split: str, seed: int, on_error: OnError = "stop") -> Listing:
        """List one split.

        Images of the official training split train and those of the first held-out one test, of ``test`` before
        ``val``; one without labels is passed over. Without one a seeded, stratified fifth is held out.

        Args:
            split: ``"train"`` or ``"test"``.
            seed: Which of the possible splits, where the dataset has none of its own.
            on_error: ``"skip"`` leaves out rows without a label; ``"stop"`` refuses them.

        Raises:
            DataError: If a label is missing, an image has two labels, the labels measure something, the training
                images show fewer than two classes, or the held-out ones a class that those do not.
        """
        train, held_out = self._parts()
        found = self._take(train)
        if self.order is None:
            found._check_labels()
        training = found._sound(on_error)
        classes = training._classes()
        if held_out:
            test = self._take(held_out)._sound(on_error)
            if unseen := sorted({str(name) for name in test.labels} - set(classes)):
                raise DataError(f"{self.source}: the classes {quoted(unseen)} of the held-out split do not train.")
            return (training if split == "train" else test)._listing(classes)
        return seeded_part(training._listing(classes), split, seed)

    def _parts(self) -> tuple[list[int], list[int]]:
        """Return the training images and the held-out ones; none where the dataset has no usable held-out split.

        Raises:
            DataError: If the word of a split is not known, or no image trains.
        """
        if self.splits is None:
            return list(range(len(self.items))), []
        parts: dict[str, list[int]] = {}
        for row, word in enumerate(self.splits):
            parts.setdefault(word.strip().casefold(), []).append(row)
        if unknown := [word for word in parts if word not in (*TRAIN, *HELD_OUT)]:
            if all(word.isdigit() for word in parts) and len(parts) > 1:
                return self._folds(parts)
            raise DataError(
                f"{self.source}: the split {quoted(unknown)} is not known; expected train, and test, val or dev."
            )
        train = [row for word in TRAIN for row in parts.get(word, [])]
        if not train:
            raise DataError(f"{self.source}: no image of the split train, found {quoted(parts)}.")
        for word in HELD_OUT:
            rows = parts.get(word, [])
            if any(self.labels[row] is not None for row in rows):
                return train, rows
            if rows:
                _log.warning("%s: the images of the split %s have no labels and are left out.", self.source, word)
        return train, []

    def _folds(self, parts: dict[str, list[int]]) -> tuple[list[int], list[int]]:
        first = min(parts, key=int)
        _log.info("%s: the images of fold %s are held out.", self.source, first)
        return [row for word, rows in parts.items() if word != first for row in rows], parts[first]

    def _take(self, rows: Sequence[int]) -> Labelled:
        return replace(
            self,
            items=[self.items[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            splits=None,
            rows=[self.rows[row] for row in rows],
        )

    def _sound(self, on_error: OnError) -> Labelled:
        """Return the rows with labels, each file once.

        Raises:
            DataError: If a label is missing and ``on_error`` is ``"stop"``, or a file has two labels.
        """
        missing = [row for row, name in enumerate(self.labels) if name is None]
        if missing and on_error == "stop":
            raise DataError(
                f"{self.source}: {len(missing)} of {len(self.labels)} rows have no label in the column "
                f"{self.column!r}, the first in row {self.rows[missing[0]]}; fill them in or remove them, or leave "
                "them out: data.on_error=skip."
            )
        if missing:
            _log.warning("%s: %d rows without a label are left out.", self.source, len(missing))
        known: dict[Path, str] = {}
        kept = []
        for row, (item, name) in enumerate(zip(self.items, self.labels, strict=True)):
            if name is None:
                continue
            if isinstance(item, Path) and known.setdefault(item, name) != name:
                raise DataError(
                    f"{self.source}: {label(item)} has two labels, {known[item]!r} and {name!r} in row "
                    f"{self.rows[row]}; an image needs one."
                )
            kept.append(row)
        first = {item: row for row in reversed(kept) if isinstance(item := self.items[row], Path)}
        unique = [row for row in kept if not isinstance(item := self.items[row], Path) or first[item] == row]
        if len(unique) < len(kept):
            _log.warning("%s: %d repeated rows are left out.", self.source, len(kept) - len(unique))
        return self._take(unique)

    def _classes(self) -> list[str]:
        """Return the classes of the training images.

        Raises:
            DataError: If there are fewer than two, or the labels are measured numbers or name single images.
        """
        counts = Counter(str(name) for name in self.labels)
        if self.order is not None:
            names = [name for name in self.order if name in counts]
        else:
            numbers = all(_number(name) is not None for name in counts)
            names = sorted(counts, key=lambda name: (_number(name) or 0.0, name) if numbers else (0.0, name))
        if len(names) < 2:
            found = f"only {names[0]!r}" if names else "none"
            raise DataError(f"{self.source}: a ranking needs at least two classes, found {found} in {self.column!r}.")
        return names

    def _check_labels(self) -> None:
        """Refuse labels that are measured numbers, or another one for each image."""
        counts = Counter(name for name in self.labels if name is not None)
        numbers = [number for name in counts if (number := _number(name)) is not None]
        images = counts.total()
        single = len(counts) == images > _MANY_SINGLE
        if len(numbers) == len(counts) and images < _FEW_PER_NUMBER * len(counts):
            fractions = len(counts) > _MANY_SINGLE and any(not number.is_integer() for number in numbers)
            if single or fractions or len(counts) > _MANY_NUMBERS:
                raise DataError(
                    f"{self.source}: the column {self.column!r} holds {len(counts):,} different numbers in {images:,} "
                    "rows: is this regression? A ranking needs classes; name their column by data.columns.label=, or "
                    "group the numbers into classes."
                )
        if single:
            raise DataError(
                f"{self.source}: each of {images:,} rows has a label of its own in the column {self.column!r}; name "
                "the column of classes by data.columns.label=."
            )

    def _listing(self, classes: Sequence[str]) -> Listing:
        index = {name: number for number, name in enumerate(classes)}
        return Listing(list(self.items), [index[str(name)] for name in self.labels], list(classes))


def as_label(value: Any) -> str | None:
    """Return a label as text, or None where it is missing; whole numbers have no decimal point.

    Raises:
        DataError: If the value is a list or another thing that is not one label.
    """
    value = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str | bool | int | float):
        raise DataError(f"a label is {type(value).__name__}, as in {str(value)[:40]!r}; expected one class per image")
    text = unicodedata.normalize("NFC", " ".join(str(value).split()))
    return None if text.casefold() in ("", "nan") else text


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
