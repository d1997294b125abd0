"""Tables of accuracies after fine-tuning, published or your own, and the scores that the ITM paper reports.

The published tables are CSV files in the package (``itm/groundtruth/published``). :mod:`itm.evaluation.paper` analyses
them.
"""

from __future__ import annotations

import csv
import math
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import pandas as pd

from itm.core.errors import DataError, SettingError, unknown

PAPER_COLUMN = {
    "caltech101": "Cal101",
    "stanford_cars": "Cars",
    "cifar100": "CIFAR100",
    "cifar10": "CIFAR10",
    "dtd": "DTD",
    "aircraft": "Aircraft",
    "flowers": "Flowers",
    "food101": "Food",
    "pets": "Pets",
    "sun397": "SUN",
    "voc2007": "VOC",
}
"""Column of the paper's table by dataset name of :mod:`itm.data.image_set`."""

PAPER10 = (
    "ResNet-18",
    "MobileNetv2",
    "EfficientNet-B0",
    "DenseNet-121",
    "DINO-S8",
    "DINO-B16",
    "MoCov3-B16",
    "MAE-B16",
    "MAE-L16",
    "SimMIM-B16",
)
"""The ten models of the paper's main comparison, tables 1, 2 and 8 (section 4.1)."""

PAPER_CNNS = (
    "DenseNet-121",
    "DenseNet-161",
    "DenseNet-169",
    "DenseNet-201",
    "ResNet-34",
    "ResNet-50",
    "ResNet-101",
    "ResNet-152",
    "InceptionV3",
    "GoogleNet",
    "MobileNetv2",
    "MnasNet",
)
"""The twelve supervised CNNs of the paper's table 9, as appendix A.6 lists them. Its text calls them 14 and 12."""

_PUBLISHED = files("itm.groundtruth") / "published"


def load(source: str | Path = "paper") -> pd.DataFrame:
    """Load a table of accuracies after fine-tuning.

    Args:
        source: ``"paper"`` (Zheng et al. 2025: 20 models, 11 datasets, AdamW for 100 epochs, best of six settings), or
            a CSV file whose first column is ``model`` and whose other columns are datasets. Empty cells are missing.

    Returns:
        Percent, float64, index ``model``, columns ``dataset``; NaN where missing.

    Raises:
        SettingError: If ``source`` is neither a known name nor a file.
        DataError: If the file is not such a table; the message names file, line, model and column.

    Example:
        >>> load("paper").loc["MAE-L16", ["Cars", "Pets"]].tolist()
        [91.21, 94.69]
    """
    if source == "paper":
        return _read(_PUBLISHED / "finetuned_accuracy.csv")
    path = Path(source)
    if path.is_file():
        return _read(path)
    if path.suffix:
        raise SettingError(f"groundtruth={source}: no such file.")
    raise unknown("groundtruth", source, ["paper", "<a CSV file>"])


def published() -> pd.DataFrame:
    """Load the paper's table with the dataset names of this package."""
    return load("paper").rename(columns={column: name for name, column in PAPER_COLUMN.items()})


def _read(path: Path | Traversable) -> pd.DataFrame:
    try:
        reader = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
        header = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, list(map(str.strip, row))) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV in UTF-8 ({error}).") from error
    if header[:1] != ["model"] or len(header) < 2 or "" in header or len(set(header)) < len(header):
        raise DataError(f"{path}, line 1: expected model,<dataset>,..., each name once; found {','.join(header)!r}.")
    accuracies: dict[str, list[float]] = {}
    for line, (model, *cells) in rows:
        if not model or model in accuracies:
            raise DataError(f"{path}, line {line}: expected a model not listed above, found {model!r}.")
        if len(cells) != len(header) - 1:
            raise DataError(f"{path}, line {line} ({model}): expected {len(header)} columns, found {len(cells) + 1}.")
        accuracies[model] = [
            _percent(cell, f"{path}, line {line} ({model}), column {dataset}")
            for dataset, cell in zip(header[1:], cells, strict=True)
        ]
    table = pd.DataFrame.from_dict(accuracies, orient="index", columns=header[1:], dtype="float64")
    if not (table > 1).to_numpy().any():
        raise DataError(f"{path}: no accuracy is above 1; expected percent, 0 to 100, not fractions; multiply by 100.")
    return table.rename_axis(index="model", columns="dataset")


def _percent(cell: str, where: str) -> float:
    if not cell:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise DataError(f"{where}: expected a percentage from 0 to 100, or nothing where missing; found {cell!r}.")
    return value


def missing_cells(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Name the ``(model, dataset)`` cells that have no value, model by model."""
    return [(str(model), str(dataset)) for model, row in table.iterrows() for dataset in row.index[row.isna()]]


def reported(name: str) -> pd.DataFrame:
    """Load a table of the ITM paper as printed, as reference numbers.

    Args:
        name: ``table1_weighted_tau``, ``table1_seconds``, ``table2_loss_ablation``, ``table3_segmentation``,
            ``table4_wz_cosine``, ``table8_kendall``, ``table8_spearman`` or ``table9_cnn_weighted_tau``.

    Returns:
        The table, indexed by its row names (segmentation: by dataset and quantity).

    Raises:
        SettingError: If the table does not exist.

    Example:
        >>> float(reported("table1_weighted_tau").loc["ITM", "Avg"])
        0.61
    """
    tables = {file.name.removesuffix(".csv"): file for file in _PUBLISHED.iterdir() if file.name.startswith("table")}
    if name not in tables:
        raise unknown("table", name, tables)
    with tables[name].open(encoding="utf-8") as lines:
        return pd.read_csv(lines, index_col=[0, 1] if name == "table3_segmentation" else 0)


def parameters() -> pd.Series[float]:
    """Load the parameter counts of the paper's twenty models: a supervised CNN's with its classifier."""
    with (_PUBLISHED / "parameters.csv").open(encoding="utf-8") as lines:
        return pd.read_csv(lines, index_col="model")["parameters"].astype("float64")
