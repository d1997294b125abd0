"""True rankings: accuracy after fine-tuning, published or your own, and the scores that the ITM paper reports.

``python -m itm.groundtruth.tables priors`` prints how well rankings that never look at the images do on the paper's
table,
``... segmentation`` what each definition of the weighted tau gives for its segmentation table; ``... collect`` makes a
table of your own records. The published ones are CSV files in the package (``itm/groundtruth/published``).
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import rankdata

from itm.core.errors import DataError, SettingError, unknown
from itm.groundtruth import summary as collect
from itm.metrics import functional as rowwise

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

VITS = ("DINO-S8", "DINO-B16", "MoCov3-B16", "MAE-B16", "MAE-L16", "SimMIM-B16")
"""The six self-supervised transformers of the paper's main comparison."""

PAPER10 = (*VITS, "InceptionV3", "ResNet-18", "ResNet-34", "ResNet-50")
"""Ten models that stand in for those of the paper's main comparison: six transformers and four CNNs.

Which four of the fourteen CNNs is inferred, and weakly. Of the 1,001 choices two give, to two decimals, 0.65 for the
mean rank elsewhere and 0.44 for the number of parameters (see :func:`prior_taus`); the other one has MobileNetv2 and
ResNet-34 in it, which tie on Flowers, while the paper's table 8 shows no tie there. What is concluded from these ten
should hold for the other choices too: ``python -m itm.groundtruth.tables priors`` shows the range over all of them.
"""

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
        DataError: If the file is no such table; the message names file, line, model and column.

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
    """The paper's table with the dataset names of this package."""
    return load("paper").rename(columns={column: name for name, column in PAPER_COLUMN.items()})


def _read(path: Path | Traversable) -> pd.DataFrame:
    try:
        reader = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
        header = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
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
        raise DataError(f"{path}: no accuracy is above 1; expected percent, 0 to 100, not fractions.")
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


def merge(own: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Join two tables; where both have a value, ``own`` counts.

    Dataset names of this package become the paper's (``cifar10`` to ``CIFAR10``). The union of models and datasets may
    have missing cells, which :func:`missing_cells` names.

    Example:
        >>> own = pd.DataFrame({"pets": [93.9]}, index=["ResNet-50"])
        >>> merge(own, load("paper")).loc["ResNet-50", ["Pets", "Cars"]].tolist()
        [93.9, 88.87]
    """
    own, other = own.rename(columns=PAPER_COLUMN), other.rename(columns=PAPER_COLUMN)
    for name, table in (("own", own), ("other", other)):
        for repeated in [*table.index[table.index.duplicated()], *table.columns[table.columns.duplicated()]]:
            raise SettingError(f"{name}: {repeated!r} occurs twice; each model and each dataset has one accuracy.")
    models, datasets = other.index.union(own.index, sort=False), other.columns.union(own.columns, sort=False)
    joined = own.reindex(index=models, columns=datasets).fillna(other.reindex(index=models, columns=datasets))
    return joined.rename_axis(index="model", columns="dataset")


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
        SettingError: If there is no such table.

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
    """Number of parameters of the paper's twenty models as published: that of a supervised CNN with its classifier."""
    with (_PUBLISHED / "parameters.csv").open(encoding="utf-8") as lines:
        return pd.read_csv(lines, index_col="model")["parameters"].astype("float64")


def mean_rank(table: pd.DataFrame, exclude: str | None = None) -> pd.Series[float]:
    """Mean relative rank of each model over datasets: a ranking for one dataset that looks at the others only.

    Args:
        table: Accuracies, models by datasets; may have gaps. On each dataset the models with a value are ranked, ties
            share their mean rank, and ranks are divided by the number of these models, so that datasets weigh alike.
        exclude: The dataset to be predicted, left out; a dataset name of this package or the table's column.

    Returns:
        Between 0 and 1 by model, lower is better; its negative is a score. Models without a value are left out.

    Raises:
        SettingError: If ``exclude`` is no column.

    Example:
        >>> mean_rank(pd.DataFrame({"a": [9, 8], "b": [7, 6], "c": [1, 2]}, index=["x", "y"]), exclude="c").tolist()
        [0.5, 1.0]
    """
    if exclude is not None:
        column = exclude if exclude in table.columns else PAPER_COLUMN.get(exclude, exclude)
        if column not in table.columns:
            raise unknown("exclude", exclude, table.columns)
        table = table.drop(columns=column)
    ranks = table.rank(ascending=False) / table.count()
    return ranks.mean(axis=1).dropna().rename("mean_rank")


def prior_taus(table: pd.DataFrame, definition: rowwise.Definition = "scipy") -> pd.DataFrame:
    """Weighted tau, on each dataset, of the rankings that never look at its images.

    Args:
        table: Accuracies of models that :func:`parameters` knows, no cell missing.
        definition: Of the weighted tau, see :func:`itm.metrics.single.weighted_kendall_tau`.

    Returns:
        Rows: the datasets. Columns: ``mean rank elsewhere`` and ``parameters``.

    Raises:
        SettingError: If a cell is missing.
    """
    for model, dataset in missing_cells(table):
        raise SettingError(f"{model} has no accuracy on {dataset}; complete the table or leave one of them out.")
    taus = taus_over(table, np.arange(len(table))[np.newaxis], definition)
    return pd.DataFrame({prior: values[:, 0] for prior, values in taus.items()}, index=table.columns)


def taus_over(
    table: pd.DataFrame, pools: NDArray[np.intp], definition: rowwise.Definition = "scipy"
) -> dict[str, rowwise.Array]:
    """Evaluate :func:`prior_taus` on many pools of models, indices ``[M, n]``: by prior, values ``[datasets, M]``."""
    truth = table.to_numpy(dtype="float64").T[:, pools]
    rank = rankdata(-truth, axis=-1)
    size = np.broadcast_to(parameters()[table.index].to_numpy()[pools], truth.shape)
    scores = {"mean rank elsewhere": rank - rank.sum(axis=0), "parameters": size}
    flat = (-1, pools.shape[1])
    return {
        prior: rowwise.weighted_kendall_tau(truth.reshape(flat), score.reshape(flat), definition).reshape(
            -1, len(pools)
        )
        for prior, score in scores.items()
    }


def paper_pools(table: pd.DataFrame) -> NDArray[np.intp]:
    """All pools like the paper's ten models: the six transformers and any four CNNs, as indices ``[1001, 10]``."""
    six = table.index.get_indexer(pd.Index(VITS))
    cnns = np.setdiff1d(np.arange(len(table)), six)
    return np.array([[*six, *four] for four in combinations(cnns, 4)])


def segmentation_taus() -> pd.DataFrame:
    """Weighted tau of the paper's segmentation table by either definition, beside the value printed there.

    The printed values follow from neither definition applied to the printed accuracies and scores.
    """
    table = reported("table3_segmentation").xs
    truth, scores = (table(row, level="quantity").drop(columns="weighted_tau") for row in ("mIoU", "ITM score"))
    return pd.DataFrame(
        {
            "scipy": rowwise.weighted_kendall_tau(truth.to_numpy(), scores.to_numpy(), "scipy"),
            "paper": rowwise.weighted_kendall_tau(truth.to_numpy(), scores.to_numpy(), "paper"),
            "reported": table("ITM score", level="quantity")["weighted_tau"],
        },
        index=truth.index,
    )


def _print_priors(console: Console, definition: rowwise.Definition) -> None:
    table = load("paper").drop(columns="VOC")
    published = reported("table1_weighted_tau").loc[["ITM", "LogME"]].T.rename(columns="{}, published".format)
    taus = prior_taus(table.loc[list(PAPER10)], definition)
    rows = pd.concat([taus, taus.mean().to_frame("Avg").T]).join(published)
    title = f"Weighted tau ({definition}), ten models like the paper's: {', '.join(PAPER10)}"
    collect.print_table(console, rows, title)
    pools = paper_pools(table)
    averages = pd.DataFrame({prior: t.mean(axis=0) for prior, t in taus_over(table, pools, definition).items()})
    title = f"Avg over all {len(pools):,} choices of the four CNNs"
    collect.print_table(console, averages.agg(["min", "median", "max"]), title)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print an analysis of the published tables, or collect your own."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["collect"]:
        return collect.main(arguments[1:], published())
    parser = argparse.ArgumentParser(prog="python -m itm.groundtruth.tables", description=main.__doc__)
    parser.add_argument("analysis", choices=("priors", "segmentation", "collect"))
    parser.add_argument("--definition", choices=rowwise.DEFINITIONS, default="scipy", help="of the weighted tau")
    chosen = parser.parse_args(arguments)
    if chosen.analysis == "priors":
        return _print_priors(Console(), chosen.definition)
    return collect.print_table(Console(), segmentation_taus(), "Weighted tau of the paper's segmentation table")


if __name__ == "__main__":
    main()
