"""Labelled images of Hugging Face: datasets of the hub, and folders that ``save_to_disk`` wrote."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from itm.core.errors import DataError, unknown
from itm.data.files import display, path_text, quoted
from itm.data.items import DatasetImage, Item, Picture, as_picture
from itm.data.labelled import Labelled, as_label
from itm.data.layout import HELD_OUT, TRAIN
from itm.data.tables import ColumnSettings, find_columns

PREFIX = "hf:"
"""Written before a name of the hub or a folder, as in ``data=hf:cifar10``."""

_SAVED = ("dataset_dict.json", "state.json")  # written by save_to_disk
_log = logging.getLogger(__name__)


class _ImageColumn:
    """A column of images; each is read from the memory-mapped file when asked for, still encoded."""

    def __init__(self, dataset: Any, column: str) -> None:
        self.dataset, self.column = dataset, column

    def __len__(self) -> int:
        return len(self.dataset)

    def picture(self, row: int) -> Picture:
        """Return the image of a row."""
        return as_picture(self.dataset[row][self.column])


def read_hub(data: str, config: str | None, given: ColumnSettings) -> Labelled:
    """Read a dataset of the hub, or a folder that ``save_to_disk`` wrote.

    Args:
        data: ``hf:`` and the name, ``hf:owner/name`` or ``hf:owner/name/config``; or ``hf:`` and the folder.
        config: Name of the dataset's configuration, where it has several.
        given: The names of columns that the user gave.

    Raises:
        DataError: If the package ``datasets`` is missing, or the dataset is not there or cannot be read.
        SettingError: If a column does not exist.
    """
    source, name = f"data={path_text(data)}", data.removeprefix(PREFIX)
    try:
        import datasets  # an optional extra, which takes seconds
    except ModuleNotFoundError as error:
        raise DataError(f"{source}: needs the package datasets: pip install 'itm[hf]'.") from error
    folder = Path(name).expanduser()
    if is_saved(folder):
        return read_dataset(_load_saved(datasets, folder, source), source, given)
    if not name or name.startswith((".", "/", "~")) or folder.is_dir():
        found = "is not one that save_to_disk of the package datasets wrote" if folder.is_dir() else "does not exist"
        raise DataError(f"{source}: the folder {found}; expected a folder with {' or '.join(_SAVED)}.")
    if name.count("/") == 2:
        name, _, config = name.rpartition("/")
    try:
        found = datasets.load_dataset(name, config)
    except Exception as error:  # of the network, of the hub or of the files, of many types
        raise DataError(f"{source}: {_reason(error)}. {_advice(error, name, config)}") from error
    return read_dataset(found, source, given)


def is_saved(folder: Path) -> bool:
    """Return whether ``save_to_disk`` wrote a folder."""
    return any((folder / file).is_file() for file in _SAVED)


def is_dataset(data: object) -> bool:
    """Return whether an object is of the package ``datasets``, without an import."""
    return type(data).__module__.partition(".")[0] == "datasets"


def read_dataset(found: Any, source: str, given: ColumnSettings) -> Labelled:
    """Read the images and labels of all usable splits.

    Args:
        found: A ``Dataset`` or a ``DatasetDict``.
        source: The dataset in messages.
        given: The names of columns that the user gave.

    Raises:
        DataError: If it has no training split, or no column of images or labels is found.
    """
    if not isinstance(found, Mapping):
        return _read_splits({None: found}, source, given)
    known = {str(name): part for name, part in found.items() if str(name).casefold() in (*TRAIN, *HELD_OUT)}
    others = [str(name) for name in found if str(name) not in known]
    if len(found) == 1 and others:
        return _read_splits({None: next(iter(found.values()))}, source, given)
    if not any(name.casefold() in TRAIN for name in known):
        raise DataError(f"{source}: no split named train, found {quoted(map(str, found))}.")
    if others:
        _log.info("%s: the splits %s are not used.", source, quoted(others))
    return _read_splits(known, source, given)


def _read_splits(parts: Mapping[Any, Any], source: str, given: ColumnSettings) -> Labelled:
    items: list[Item] = []
    labels: list[str | None] = []
    words: list[str] = []
    rows: list[int] = []
    columns, order = given, None
    for split, part in parts.items():
        if not hasattr(part, "column_names") or not hasattr(part, "__len__"):
            raise DataError(f"{source}: {type(part).__name__} cannot be read by row; load it without streaming.")
        columns = _columns(part, source, given)
        feature = part.features[columns.label]
        order = list(feature.names) if hasattr(feature, "names") else None
        values = part.with_format(None).select_columns([columns.label])[:][columns.label]
        labels += [_label(value, order, source) for value in values]
        images = _ImageColumn(_encoded(part, str(columns.image)), str(columns.image))
        place = f"{source.removeprefix('data=')}/{split}" if split else source.removeprefix("data=")
        items += [DatasetImage(f"{place}[{row}]", images, row) for row in range(len(part))]
        rows += range(len(part))
        if split:
            words += [split] * len(part)
        elif columns.split is not None:
            words += [str(as_label(word)) for word in part.with_format(None)[columns.split]]
    return Labelled(source, items, labels, words or None, rows, order, str(columns.label))


def _columns(part: Any, source: str, given: ColumnSettings) -> ColumnSettings:
    """Find the columns by their types, or by common names where the types leave a choice."""
    features: Mapping[str, Any] = part.features
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    chosen = {"image": given.image, "label": given.label}
    for role, kind in (("image", "Image"), ("label", "ClassLabel")):
        typed = [name for name, found in kinds.items() if found == kind]
        if chosen[role] is None and len(typed) == 1:
            chosen[role] = typed[0]
    for role, name in chosen.items():
        if name is not None and name not in features:
            raise unknown(f"data.columns.{role}", name, features)
    return find_columns(source, list(features), ColumnSettings(chosen["image"], chosen["label"], given.split))


def _encoded(part: Any, column: str) -> Any:
    """Return the column alone, with the images as bytes and path: itm decodes them itself, raster formats only."""
    from datasets import Image

    plain = part.with_format(None).select_columns([column])
    return plain.cast_column(column, Image(decode=False)) if isinstance(part.features[column], Image) else plain


def _label(value: Any, order: Sequence[str] | None, source: str) -> str | None:
    if order is None:
        try:
            return as_label(value)
        except DataError as error:
            raise DataError(f"{source}: {error}.") from error
    return None if value is None or value < 0 else str(order[value])


def _load_saved(datasets: Any, folder: Path, source: str) -> Any:
    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # a damaged file raises errors of many types
        raise DataError(f"{source}: {display(folder)} cannot be read ({_reason(error)}).") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def _advice(error: Exception, name: str, config: str | None) -> str:
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        words = f"{name!r}" if config is None else f"{name!r}, {config!r}"
        return (
            'Without a network, save it on a machine that has one: python -c "import datasets; '
            f"datasets.load_dataset({words}).save_to_disk('folder')\", and give data=hf:folder."
        )
    if "config" in str(error).casefold():
        return "Set data.config=<name>."
    return "Expected the name of a dataset of the hub, as in data=hf:owner/name, or a folder."
