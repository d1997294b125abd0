"""Datasets of Python: any sequence of pairs of image and label, as those of torchvision are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from itm.core.errors import DataError, SettingError
from itm.core.settings import OnError
from itm.data.items import DatasetImage, Item, Picture, as_picture, digests
from itm.data.labelled import Labelled, as_label


class _Pairs:
    """The images of a sequence of pairs."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def picture(self, row: int) -> Picture:
        """Return the image of a row."""
        return as_picture(self.dataset[row][0])


def is_sequence(data: object) -> bool:
    """Return whether an object has a length and gives its rows by number."""
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | bytes | dict)


def read_sequence(dataset: Any, on_error: OnError) -> Labelled:
    """Read the labels of a sequence of pairs ``(image, label)``.

    Images are PIL images, arrays, tensors or paths, and labels are numbers or texts. ``classes``, where the sequence
    has them, name the labels 0, 1, ... The labels come from ``targets`` where these are what the pairs hold;
    otherwise every pair is read once.

    Args:
        dataset: The sequence; it must give the same image each time.
        on_error: ``"skip"`` leaves out pairs that cannot be read; ``"stop"`` refuses them.

    Raises:
        DataError: If a pair cannot be read, or an image changes from one reading to the next.
        SettingError: If the items are not pairs.
    """
    name = type(dataset).__name__
    source = f"data={name}"
    if not len(dataset):
        raise DataError(f"{source}: it is empty.")
    pairs = _Pairs(dataset)
    items: list[Item] = [DatasetImage(f"{name}[{row}]", pairs, row) for row in range(len(dataset))]
    if [*digests((items[0],))] != [*digests((items[0],))]:
        raise DataError(
            f"{source}: {name}[0] gives another image each time; leave out random transforms, which would give each "
            "model other images."
        )
    targets = _targets(dataset, source)
    labels = [_label(dataset, row, source, on_error) for row in range(len(dataset))] if targets is None else targets
    classes = getattr(dataset, "classes", None)
    order = None
    if isinstance(classes, Sequence) and len(set(map(str, classes))) == len(classes):
        labels, order = _named(labels, [str(name) for name in classes], source)
    return Labelled(source, items, labels, None, range(len(items)), order)


def _targets(dataset: Any, source: str) -> list[str | None] | None:
    """Return the labels that a sequence keeps beside its images; None where it has none that hold for its pairs."""
    targets = getattr(dataset, "targets", None)
    if targets is None or getattr(dataset, "target_transform", None) is not None or len(targets) != len(dataset):
        return None
    try:
        labels = [as_label(target) for target in targets]
    except DataError:
        return None
    return labels if labels[0] == _label(dataset, 0, source, "stop") else None


def _label(dataset: Any, row: int, source: str, on_error: OnError) -> str | None:
    try:
        pair = dataset[row]
    except Exception as error:  # a dataset may raise any
        if on_error == "skip":
            return None
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"{source}[{row}]: cannot be read ({reason}). Leave such images out: data.on_error=skip."
        ) from error
    if not isinstance(pair, tuple | list) or len(pair) < 2:
        raise SettingError(f"{source}[{row}]: expected a pair (image, label), found {type(pair).__name__}.")
    try:
        return as_label(pair[1])
    except DataError as error:
        raise DataError(f"{source}[{row}]: {error}.") from error


def _named(labels: Sequence[str | None], classes: list[str], source: str) -> tuple[list[str | None], list[str]]:
    """Return the labels by the names of the classes, where they number them."""
    if any(label in classes for label in labels) and not all(
        label is None or (label.isdigit() and int(label) < len(classes)) for label in labels
    ):
        return list(labels), classes
    found: list[str | None] = []
    for label in labels:
        if label is not None and not (label.isdigit() and int(label) < len(classes)):
            raise DataError(f"{source}: the label {label!r} is not among the {len(classes)} classes of the dataset.")
        found.append(None if label is None else classes[int(label)])
    return found, classes
