"""Ways in: a dataset's name, a folder, a table, a dataset of Hugging Face or of Python."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from itm.core.errors import DataError, SettingError, unknown
from itm.core.settings import OnError
from itm.data.catalog import CATALOG, CATALOG_PREFIX
from itm.data.files import display, path_text
from itm.data.folders import Listing, read_folder
from itm.data.hub import PREFIX, is_dataset, is_saved, read_dataset, read_hub
from itm.data.mask_folders import has_masks, read_mask_folder
from itm.data.sequences import is_sequence, read_sequence
from itm.data.tables import ENDINGS, ColumnSettings, read_frame, read_table


class Source(NamedTuple):
    """A dataset that was found.

    Args:
        name: Its name, or that of its folder or file.
        read: Returns the listing of a split.
        license: Licence or terms of the images.
        known: Whether it is of the catalogue, whose images are plain 8-bit ones.
    """

    name: str
    read: Callable[[str], Listing]
    license: str = "not stated"
    known: bool = False


class Reading(NamedTuple):
    """Settings that decide how a dataset is read.

    Args:
        root: Folder of the downloaded datasets.
        seed: Which of the possible splits, where the dataset has none of its own.
        columns: Names of columns, for tables.
        config: Configuration of a Hugging Face dataset.
        on_error: Handling of a row without an image file or a label.
    """

    root: Path
    seed: int
    columns: ColumnSettings
    config: str | None
    on_error: OnError


def find_source(data: Any, reading: Reading) -> Source:
    """Find the dataset that ``data`` means.

    Raises:
        SettingError: If the name is not known, means both a dataset and a folder, or a setting is for other data.
        DataError: If nothing is there, or it cannot be read.
    """
    text = isinstance(data, str | os.PathLike)
    name = os.fspath(data) if text else type(data).__name__
    table = is_table(data)
    hub = text and name.startswith(PREFIX)
    _check_use(name, reading, columns=table or hub or not text, config=hub)
    if not text:
        return _from_object(data, name, reading)
    folder = find_folder(data)
    if name.removeprefix(CATALOG_PREFIX) in CATALOG:
        return _from_catalogue(name, folder, reading)
    if hub:
        rows = read_hub(name, reading.config, reading.columns)
        return Source(dataset_name(name), partial(rows.listing, seed=reading.seed, on_error=reading.on_error))
    if folder is not None and is_saved(folder):
        raise DataError(f"data={display(folder)}: a dataset of Hugging Face; give data={PREFIX}{display(folder)}.")
    if folder is not None:
        read = read_mask_folder if has_masks(folder) else read_folder
        return Source(dataset_name(folder), lambda split: read(folder, split, reading.seed))
    if table:
        rows = read_table(Path(name).expanduser(), reading.columns, reading.on_error)
        return Source(dataset_name(name), partial(rows.listing, seed=reading.seed, on_error=reading.on_error))
    raise _not_found(name)


def dataset_name(data: str | os.PathLike[str]) -> str:
    """Return the name of a folder, of a table or of a dataset of the hub, as reports and tables show it."""
    path = Path(os.fspath(data).removeprefix(PREFIX)).expanduser()
    return display(Path(path.resolve().name)) or "root"


def is_table(data: object) -> bool:
    """Return whether ``data`` names a file with the ending of a table."""
    if not isinstance(data, str | os.PathLike) or find_folder(data) is not None:
        return False
    try:
        path = Path(data).expanduser()
        return path.suffix.lower() in ENDINGS and path.exists()
    except (OSError, RuntimeError, ValueError):  # too long a name, an unknown user, a zero byte
        return False


def find_folder(data: str | os.PathLike[str]) -> Path | None:
    """Return the folder, in the Unicode normalisation that the disk has; None if there is none."""
    text = os.fspath(data)
    for name in dict.fromkeys((text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))):
        try:
            folder = Path(name).expanduser()
            if name and folder.is_dir():
                return folder
        except (OSError, RuntimeError, ValueError):  # too long a name, an unknown user, a zero byte
            continue
    return None


def _check_use(name: str, reading: Reading, *, columns: bool, config: bool) -> None:
    """Refuse settings that the data do not use."""
    if not columns and reading.columns != ColumnSettings():
        raise SettingError(
            f"data.columns: data={path_text(name)} has no columns; they are for CSV, Parquet and data=hf:name."
        )
    if not config and reading.config is not None:
        raise SettingError(
            f"data.config={reading.config}: data={path_text(name)} has no configurations; they are for data=hf:name."
        )


def _from_object(data: Any, name: str, reading: Reading) -> Source:
    if isinstance(data, pd.DataFrame):
        rows = read_frame(data, reading.columns, reading.on_error)
    elif is_dataset(data):
        rows = read_dataset(data, f"data={name}", reading.columns)
    elif is_sequence(data):
        rows = read_sequence(data, reading.on_error)
    else:
        shown = " ".join(repr(data).split())[:80]
        raise SettingError(
            f"data={shown}: expected a name, a folder, a table, a DataFrame, or a sequence of pairs (image, label)."
        )
    return Source(name, partial(rows.listing, seed=reading.seed, on_error=reading.on_error))


def _from_catalogue(name: str, folder: Path | None, reading: Reading) -> Source:
    if name in CATALOG and folder is not None:
        raise SettingError(
            f"data={name}: both a dataset of the catalogue and the folder {display(folder.resolve())}; write "
            f"data=./{name} for the folder or data={CATALOG_PREFIX}{name} for the dataset."
        )
    name = name.removeprefix(CATALOG_PREFIX)

    def read(split: str) -> Listing:
        try:
            return CATALOG[name].read(reading.root, split, reading.seed)
        except DataError as error:
            raise DataError(f"data={name}: {error}") from error

    return Source(name, read, CATALOG[name].license, known=True)


def _not_found(name: str) -> SettingError | DataError:
    shown = path_text(name)
    if os.path.lexists(name.replace("\0", "")) and name:
        return DataError(
            f"data={shown}: this is a file; expected a folder with one folder of images per class, or a table of "
            f"images and labels ({', '.join(ENDINGS)})."
        )
    if Path(name).suffix.lower() in ENDINGS:
        return DataError(f"data={shown}: no such file.")
    if "/" not in name and "\\" not in name:
        return SettingError(f"{unknown('data', shown, CATALOG)} A folder of that name does not exist either.")
    foreign = "\\" in name and os.sep == "/"
    advice = " Write / between folders: on this system a backslash is part of a name." if foreign else ""
    known = ", ".join(CATALOG)
    return DataError(f"data={shown}: no such folder.{advice} Expected a folder of images, or one of {known}.")
