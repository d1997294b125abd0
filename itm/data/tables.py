"""Tables of labelled images: CSV and Parquet files, and pandas DataFrames."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from itm.core.errors import DataError, SettingError, unknown
from itm.core.settings import OnError, settings
from itm.data.files import check_regular, display, quoted
from itm.data.items import HeldImage, Item, as_picture
from itm.data.labelled import Labelled, as_label

CSV_ENDINGS = (".csv", ".tsv")
PARQUET_ENDINGS = (".parquet", ".pq")
ENDINGS = (*CSV_ENDINGS, *PARQUET_ENDINGS)
"""Endings of files that are read as tables."""

_IMAGE_NAMES = ("image", "image_path", "path", "filepath", "file_path", "file", "filename", "file_name", "img")
_NAMES = {
    "image": (*_IMAGE_NAMES, "img_path", "image_file", "image_name", "images"),
    "label": ("label", "class", "target", "category", "labels", "class_name", "label_name"),
    "split": ("split", "set", "fold", "subset"),
}
_SEPARATORS = ",;\t|"


@settings("data.columns")
class ColumnSettings:
    """Names of the columns of a table; those that are not given are found by common names.

    Args:
        image: Column of paths or images.
        label: Column of labels.
        split: Column of splits; a table may have none.
    """

    image: str | None = None
    label: str | None = None
    split: str | None = None


def find_columns(source: str, columns: Sequence[str], given: ColumnSettings) -> ColumnSettings:
    """Find the columns of images, labels and, where there is one, of splits.

    Args:
        source: The dataset in messages, as in ``data=labels.csv``.
        columns: Names of all columns.
        given: The names that the user gave.

    Raises:
        SettingError: If a given name is not a column.
        DataError: If no column has a common name of images or of labels.
    """
    plain = {name.strip().casefold().replace(" ", "_").replace("-", "_"): name for name in reversed(columns)}
    found: dict[str, str | None] = {}
    for role, names in _NAMES.items():
        chosen = getattr(given, role)
        if chosen is not None and chosen not in columns:
            raise unknown(f"data.columns.{role}", chosen, columns)
        common = next((plain[name] for name in names if name in plain), None)
        found[role] = common if chosen is None else chosen
        if found[role] is None and role != "split":
            raise DataError(
                f"{source}: no column of {role}s among {quoted(columns)}; name it by data.columns.{role}=<column>. A "
                f"column named {', '.join(names[:4])} is found."
            )
    return ColumnSettings(**found)


def read_table(path: Path, given: ColumnSettings, on_error: OnError) -> Labelled:
    """Read a CSV or Parquet file of labelled images.

    A CSV file is UTF-8, also with a byte-order mark, or UTF-16, and its columns are separated by commas, semicolons,
    tabs or bars. Relative paths start at the folder of the file. Images may also lie in a Parquet file, as bytes or as
    Hugging Face stores them.

    Args:
        path: The file.
        given: The names of columns that the user gave.
        on_error: ``"skip"`` leaves missing files for decoding to record; ``"stop"`` refuses them.

    Raises:
        DataError: If the file cannot be read, lacks a column, or an image is missing.
        SettingError: If a given column does not exist.
    """
    source = f"data={display(path)}"
    try:
        check_regular(path)
    except (OSError, DataError) as error:
        raise DataError(f"{source}: cannot be read ({error}).") from error
    if path.suffix.lower() in CSV_ENDINGS:
        frame = _read_csv(path, source)
        columns = find_columns(source, list(frame.columns), given)
    else:
        frame, columns = _read_parquet(path, source, given)
    first = 2 if path.suffix.lower() in CSV_ENDINGS else 1
    return _labelled(frame, columns, source, path.parent, on_error, first)


def read_frame(frame: pd.DataFrame, given: ColumnSettings, on_error: OnError) -> Labelled:
    """Read a DataFrame of labelled images: paths, bytes, PIL images or arrays; as :func:`read_table`."""
    named = frame.rename(columns=str)
    columns = find_columns("data=DataFrame", list(named.columns), given)
    return _labelled(named, columns, "data=DataFrame", Path(), on_error, 0)


def _read_csv(path: Path, source: str) -> pd.DataFrame:
    """Read all cells as text, so that the labels 01 and NA stay as they are written."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
        encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        with path.open(encoding=encoding) as file:
            header = file.readline()
        separator = max(_SEPARATORS, key=header.count)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # cells beyond the header would be lost
            frame = pd.read_csv(
                path,
                sep=separator,
                encoding=encoding,
                dtype=str,
                keep_default_na=False,
                index_col=False,
                skipinitialspace=True,
            )
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not in UTF-8; save it as CSV in UTF-8.") from error
    except pd.errors.ParserWarning as error:
        raise DataError(f"{source}: a row has more cells than the header; quote cells with {separator!r}.") from error
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{source}: not readable as CSV ({reason}).") from error
    return frame.rename(columns=lambda name: str(name).strip())


def _read_parquet(path: Path, source: str, given: ColumnSettings) -> tuple[pd.DataFrame, ColumnSettings]:
    """Read the columns that are needed."""
    try:
        import pyarrow.parquet  # an optional extra
    except ModuleNotFoundError as error:
        raise DataError(f"{source}: Parquet needs the package pyarrow: pip install 'itm[parquet]'.") from error
    try:
        schema = pyarrow.parquet.read_schema(path)
        columns = find_columns(source, [str(name) for name in schema.names], given)
        needed = list(dict.fromkeys(name for name in (columns.image, columns.label, columns.split) if name is not None))
        frame = pd.read_parquet(path, engine="pyarrow", columns=needed)
        if classes := _class_names(schema.metadata, columns.label):
            frame[columns.label] = [classes.get(number) for number in frame[columns.label]]
        return frame, columns
    except (DataError, SettingError):
        raise
    except Exception as error:  # damaged files make the reader raise errors of many types
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise DataError(f"{source}: not readable as Parquet ({reason}).") from error


def _class_names(metadata: Mapping[bytes, bytes] | None, column: str | None) -> dict[int, str]:
    """Return the names of the classes that Hugging Face stores beside their numbers; empty where there are none."""
    with suppress(KeyError, TypeError, ValueError):
        described = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]
        return {number: str(name) for number, name in enumerate(described["names"])}
    return {}


def _labelled(
    frame: pd.DataFrame, columns: ColumnSettings, source: str, folder: Path, on_error: OnError, first: int
) -> Labelled:
    """Turn the cells into images, labels and splits; ``first`` is the number of the first row in messages."""
    if not len(frame):
        raise DataError(f"{source}: no row below the header.")
    rows = list(range(first, first + len(frame)))
    for column in (columns.image, columns.label, columns.split):
        if column is not None and isinstance(frame[column], pd.DataFrame):
            raise DataError(f"{source}: several columns have the name {column!r}; rename one.")
    items, absent = _items(frame[columns.image], source, folder, rows)
    labels = _cells(frame[columns.label], source, rows)
    if absent and on_error == "stop":
        shown = absent[0]
        raise DataError(
            f"{source}: {len(absent)} of {len(rows)} images are missing or not regular files, the first is {shown}; "
            f"paths start at {display(folder.absolute())}. Correct the column {columns.image!r}, or leave such images "
            "out: data.on_error=skip."
        )
    if len(absent) == len(rows):
        raise DataError(f"{source}: none of {len(rows)} images exists, the first is {absent[0]}; correct the paths.")
    splits = None
    if columns.split is not None:
        words = _cells(frame[columns.split], source, rows)
        if None in words:
            raise DataError(f"{source}: row {rows[words.index(None)]} has no split in the column {columns.split!r}.")
        splits = [str(word) for word in words]
    return Labelled(source, items, labels, splits, rows, column=str(columns.label))


def _items(cells: Iterable[Any], source: str, folder: Path, rows: Sequence[int]) -> tuple[list[Item], list[str]]:
    """Return the image of each cell, and the names of those that are not there."""
    items: list[Item] = []
    absent = []
    for row, cell in zip(rows, cells, strict=True):
        name = f"{source.removeprefix('data=')}: row {row}"
        try:
            picture = as_picture(cell)
        except DataError as error:
            if not _is_empty(cell):
                raise DataError(f"{name}: {error}.") from error
            picture = Path()
        if isinstance(picture, Path):
            file = _file(folder, picture) if picture.name else Path(name)
            if not _is_file(file):
                absent.append(display(file))
            items.append(file)
        else:
            items.append(HeldImage(name, picture))
    return items, absent


def _is_empty(cell: Any) -> bool:
    """Return whether a cell is blank or NaN, or has neither bytes nor path."""
    if isinstance(cell, dict):
        return all(_is_empty(value) for value in cell.values())
    return cell is None or (isinstance(cell, str | bytes) and not cell.strip()) or (isinstance(cell, float))


def _file(folder: Path, path: Path) -> Path:
    """Return a path from the table's folder; backslashes of a table from Windows separate folders."""
    text = str(path).strip()
    file = folder / text
    return folder / text.replace("\\", "/") if "\\" in text and not _is_file(file) else file


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a name, no permission, a zero byte
        return False


def _cells(cells: Iterable[Any], source: str, rows: Sequence[int]) -> list[str | None]:
    found = []
    for row, cell in zip(rows, cells, strict=True):
        try:
            found.append(as_label(cell))
        except DataError as error:
            raise DataError(f"{source}: row {row}: {error}.") from error
    return found
