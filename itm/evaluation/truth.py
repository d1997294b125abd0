"""The true accuracies of a run: a table that fits its dataset and models, found before any work."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from itm.core.errors import DataError, SettingError, unknown
from itm.data.catalog import CATALOG, CATALOG_PREFIX
from itm.data.sources import dataset_name
from itm.groundtruth.protocol import OPTIMISTIC
from itm.groundtruth.tables import PAPER_COLUMN, load

LEAST_MODELS = 3
"""Fewest models that are compared: two have one of two orders by chance."""
PAPER_PROTOCOL = (
    "full fine-tuning with AdamW for 100 epochs; test accuracy at the best of 6 settings of learning rate and weight"
    " decay (Zheng et al. 2025)"
)
RECORDED = {
    "adaptation": "adaptation",
    "epochs": "epochs",
    "batch_size": "batch size",
    "image_size": "pixels",
    "limit": "training images",
    "test_limit": "test images",
    "lr": "learning rate",
    "weight_decay": "weight decay",
    "seed": "seed",
}
"""Columns of the trials beside a table that say how its models were trained, and the word for each."""
_TRAINING = ("epochs", "batch_size", "lr", "weight_decay", "seed")  # without effect where nothing is trained


@dataclass(frozen=True)
class Truth:
    """Accuracy after fine-tuning on the dataset of a run.

    Args:
        dataset: Name of the dataset.
        table: Percent, index model, columns dataset, as :func:`itm.groundtruth.tables.load` returns it.
        column: The dataset's column.
        source: ``"paper"`` or the file, as the user knows it.
        protocol: How the models were fine-tuned, in words; empty where it is not recorded.
        selection: How the best epoch and setting were chosen, in words; empty where it is not recorded.
    """

    dataset: str
    table: pd.DataFrame
    column: str
    source: str
    protocol: str = ""
    selection: str = ""

    @property
    def caution(self) -> str:
        """A sentence on how the accuracies were chosen, for every place that shows them."""
        return f"Of these: {self.selection or 'it is not recorded on which images epoch and setting were chosen'}."

    @cached_property
    def accuracy(self) -> dict[str, float]:
        """Percent by model, models without a value left out."""
        return {str(model): float(value) for model, value in self.table[self.column].dropna().items()}

    def shared(self, models: Collection[str]) -> list[str]:
        """Return the models that have a true accuracy, in their order."""
        return [model for model in models if model in self.accuracy]


def find_truth(source: str | None, data: str, models: Collection[str], shipped: Path) -> Truth | None:
    """Find the true accuracies for a run, before any image is read.

    Args:
        source: ``"shipped"``: of the tables in the folder ``shipped`` and the paper's the one that covers most of the
            models, for a dataset known by name; None where none fits. ``"paper"``: the paper's table. A CSV file that
            :func:`itm.groundtruth.tables.load` reads. None: no comparison.
        data: The run's data as typed, a dataset's name or a folder; a folder's own name is its column.
        models: Names of the run's models.
        shipped: Folder of the shipped tables; ``*_cells.csv`` hold single trials and are not tables.

    Returns:
        The true accuracies, or None.

    Raises:
        SettingError: If ``source`` is not known, or a table that was asked for has no such dataset or fewer than
            :data:`LEAST_MODELS` of the models.
        DataError: If a file is not such a table.
    """
    if source is None:
        return None
    dataset = dataset_of(data)
    if source == "shipped":
        sources = shipped_tables(shipped) if data.removeprefix(CATALOG_PREFIX) in CATALOG else []
        found = [truth for path in sources if (truth := _read(path, dataset)) is not None]
        best = max(found, key=lambda truth: len(truth.shared(models)), default=None)
        return best if best is not None and len(best.shared(models)) >= LEAST_MODELS else None
    if source != "paper" and not Path(source).suffix and not Path(source).is_file():
        raise unknown("groundtruth", source, ("shipped", "paper", "<a CSV file>", "null"))
    chosen = _read(source, dataset)
    if chosen is None:
        has = ", ".join(load(source).columns)
        raise SettingError(f"groundtruth={source}: no column for the dataset {dataset!r}; the table has {has}.")
    if (count := len(chosen.shared(models))) < LEAST_MODELS:
        raise SettingError(
            f"groundtruth={source}: expected accuracies in column {chosen.column} for at least {LEAST_MODELS} models"
            f" of the zoo ({', '.join(models)}), found {count}; it has {', '.join(chosen.accuracy) or 'none'}."
        )
    return chosen


def shipped_tables(folder: Path) -> list[str]:
    """Return the sources of the shipped tables in a folder, the paper's last."""
    paths = [str(path) for path in sorted(folder.glob("*.csv")) if not path.stem.endswith("_cells")]
    return [*paths, "paper"]


def dataset_of(data: str) -> str:
    """Return the name of the dataset of a run: its own, or the folder's."""
    name = data.removeprefix(CATALOG_PREFIX)
    return name if name in CATALOG else dataset_name(name)


def columns_of(data: str) -> list[str]:
    """Return the columns that a table may have for the data of a run: this package's name and the paper's."""
    dataset = dataset_of(data)
    return [name for name in (dataset, PAPER_COLUMN.get(dataset)) if name is not None]


def _read(source: str, dataset: str) -> Truth | None:
    """Return the table if it has the dataset, by this package's name or the paper's."""
    table = load(source)
    column = next((name for name in columns_of(dataset) if name in table.columns), None)
    if column is None:
        return None
    if source == "paper":
        return Truth(dataset, table, column, source, PAPER_PROTOCOL, OPTIMISTIC)
    return Truth(dataset, table, column, source, *_protocol(Path(source), column))


def _protocol(path: Path, dataset: str) -> tuple[str, str]:
    """Read the fine-tuning and the split of selection from the trials beside a table; empty where there are none."""
    trials = path.with_name(f"{path.stem}_cells.csv")
    if not trials.is_file():
        return "", ""
    try:
        frame = pd.read_csv(trials, dtype=str)
        rows = frame[frame["dataset"] == dataset]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{trials}: cannot be read as a table of trials ({error}); fix or move it.") from error
    if "adaptation" in rows and (rows["adaptation"] == "zero_shot").all():
        rows = rows.drop(columns=list(_TRAINING), errors="ignore")
    said = []
    for column, word in RECORDED.items():
        values = [value.removesuffix(".0") for value in rows[column].dropna().unique()] if column in rows else []
        if values:
            said.append(f"{word} {' or '.join(values)}")
    chosen = sorted(set(rows["selection"].dropna())) if "selection" in rows else [OPTIMISTIC]
    return ", ".join(said), "; ".join(chosen)
