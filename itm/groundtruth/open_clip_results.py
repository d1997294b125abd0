"""open_clip's own table of zero-shot accuracies (``docs/openclip_classification_results.csv`` of its repository)."""

from __future__ import annotations

import io
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from itm.core.errors import DataError, SettingError
from itm.groundtruth.tables import load

_FACTS = ("params (M)", "FLOPs (B)")
_AVERAGE = "Average perf"  # of the datasets in the table, which are columns themselves
_COLUMN = {
    "Caltech-101": "caltech101",
    "CIFAR-10": "cifar10",
    "CIFAR-100": "cifar100",
    "Describable Textures": "dtd",
    "FGVC Aircraft": "aircraft",
    "Food-101": "food101",
    "Oxford Flowers-102": "flowers",
    "Oxford-IIIT Pet": "pets",
    "Pascal VOC 2007": "voc2007",
    "Stanford Cars": "stanford_cars",
    "SUN397": "sun397",
}
_SECONDS = 30.0


def load_accuracies(source: str, models: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Load accuracies from a file or an address: a table of this package, or open_clip's table of results.

    Args:
        source: A path or ``http(s)://...`` of a CSV file, or ``"paper"``. A table whose columns begin with ``name`` and
            ``pretrained`` is open_clip's: accuracies as fractions, one row per architecture and tag.
        models: Of open_clip's table: name of the network by name of the run's model. Rows then go by the model's name,
            others are left out. None keeps all rows under ``<architecture>/<tag>``.

    Returns:
        Per cent, index model, columns dataset; datasets of this package go by its names.

    Raises:
        SettingError: If the file does not exist.
        DataError: If the address cannot be read, or it holds no such table.
    """
    if source == "paper":
        return load(source)
    if not source.startswith(("http://", "https://")):
        path = Path(source).expanduser()
        if not path.is_file():
            raise SettingError(f"source_table={source}: no such file; expected a CSV file or an address.")
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        return _rows(text, source, models) if text.startswith("name,pretrained,") else load(path)
    return _rows(_fetch(source), source, models)


def _fetch(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
            return str(answer.read().decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"source_table={address}: cannot be fetched ({error}); download the file and give its path."
        ) from error


def _rows(text: str, source: str, models: Mapping[str, str] | None) -> pd.DataFrame:
    try:
        frame = pd.read_csv(io.StringIO(text), dtype={"name": str, "pretrained": str}, keep_default_na=True)
        names = frame.pop("name") + "/" + frame.pop("pretrained")
        columns = [str(name) for name in frame]
        datasets = [name for name in columns if name not in _FACTS and not name.startswith(_AVERAGE)]
        table = 100 * frame[datasets].astype("float64")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"source_table={source}: not open_clip's table of results ({error}).") from error
    wrong = [name for name in datasets if bool((table[name].gt(100) | table[name].lt(0)).any())]
    if not datasets or wrong or names.duplicated().any() or names.isna().any():
        column = next(iter(wrong), "name")
        raise DataError(
            f"source_table={source}: not open_clip's table of results; column {column!r} has values that are not "
            "fractions from 0 to 1, or rows without a name of their own."
        )
    table.index = pd.Index(names, name="model")
    table = table.rename(columns=_COLUMN).rename_axis(columns="dataset")
    if models is None:
        return table
    found = {model: network for model, network in models.items() if network in table.index}
    renamed = table.loc[list(found.values())]
    renamed.index = pd.Index(list(found), name="model")
    return renamed
