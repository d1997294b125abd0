"""From records of cells to a table of true accuracies, and how that compares with published ones.

``<name>.csv`` has the accuracy of each model's best cell, models by datasets; ``<name>_cells.csv`` has every cell.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from itm.core.errors import DataError, ItmError, SettingError
from itm.groundtruth.trials import Cells, Record, write_result

_KEYS = ["dataset", "model"]
_SETTING = ["lr", "weight_decay"]
_log = logging.getLogger(__name__)


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per cell: what it is, its best accuracy in percent and that epoch, seconds and how it was computed.

    Cells with the same word under ``comparable`` saw the same images under the same protocol and adaptation.
    """
    return pd.DataFrame([_row(record) for record in records])


def _row(record: Record) -> dict[str, object]:
    cell, protocol, facts = record.cell, record.cell.protocol, record.facts
    best = record.best if record.error is None else {}
    return {
        "dataset": cell.dataset,
        "model": cell.model,
        "adaptation": cell.adaptation,
        "protocol": protocol.label,
        "comparable": cell.comparable,
        "lr": cell.lr,
        "weight_decay": cell.weight_decay,
        "seed": cell.seed,
        "accuracy": best.get("accuracy"),
        "epoch": best.get("epoch"),
        "class_accuracy": best.get("class_accuracy"),
        "last_accuracy": record.history[-1]["accuracy"] if best else None,
        "epochs": protocol.epochs,
        "batch_size": protocol.batch_size,
        "schedule": protocol.schedule,
        "image_size": protocol.image_size,
        "limit": protocol.limit,
        "test_limit": protocol.test_limit,
        "precision": protocol.precision,
        "seconds": facts.get("seconds"),
        "images_per_second": facts.get("images_per_second"),
        "peak_memory": facts.get("peak_memory"),
        "trainable": facts.get("trainable"),
        "device": facts.get("device"),
        "commit": facts.get("commit"),
        "error": record.error,
        "cell": cell.digest[:16],
    }


def choose(frame: pd.DataFrame, protocol: str | None = None) -> pd.DataFrame:
    """The cells of one protocol per dataset.

    Args:
        frame: As :func:`to_frame` gives it.
        protocol: The protocol's word, or the word under ``comparable``; None where each dataset has one only.

    Returns:
        Its rows.

    Raises:
        SettingError: If a dataset has cells of several protocols or a model in several versions, which no column of a
            table should mix, or if none is of that protocol.
    """
    if protocol is not None:
        chosen = frame[(frame["protocol"] == protocol) | (frame["comparable"] == protocol)]
        if chosen.empty:
            raise SettingError(f"--protocol {protocol}: no record is of that protocol. {_protocols(frame)}")
        frame = chosen
    mixed = frame.groupby("dataset")["comparable"].nunique()
    if (mixed > 1).any():
        raise SettingError(
            "--protocol: the records of one dataset are of several protocols, which are not comparable; "
            f"choose one. {_protocols(frame)}"
        )
    twice = frame[frame.duplicated([*_KEYS, *_SETTING, "seed"])]
    for row in twice.itertuples():
        raise SettingError(
            f"{row.model} on {row.dataset} was trained from two sets of weights or at two image sizes under the same "
            "name; give each its own name in the zoo or its own folder of records."
        )
    return frame


def _protocols(frame: pd.DataFrame) -> str:
    """Every protocol of the records, in words that tell them apart."""
    words = ["dataset", "protocol", "comparable", "adaptation", "epochs", "image_size", "limit", "test_limit"]
    kinds = frame[[*words, "precision"]].drop_duplicates().astype("object")
    told = [
        f"{row.dataset}: {row.protocol} = {row.comparable} ({row.adaptation}, {row.epochs} epochs, "
        f"{_or(row.image_size, 'the models own')} px, {_or(row.limit, 'all')} training and "
        f"{_or(row.test_limit, 'all')} test images, precision {row.precision})"
        for row in kinds.itertuples()
    ]
    return "There are: " + "; ".join(told) + "."


def _or(value: object, word: str) -> str:
    return word if pd.isna(value) else f"{value:g}"  # type: ignore[call-overload]


def best_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The accuracy of each model's best setting: the mean over seeds of each one's best epoch, then the largest.

    Where some settings were trained with more seeds than others (``grid.best_seeds``), only those with the most
    count: a single lucky seed of another setting is no better accuracy.

    Args:
        frame: Cells that :func:`choose` let through.

    Returns:
        Percent, index ``model``, columns ``dataset``, NaN where no cell finished; both in the order of the cells.
    """
    settings = frame.groupby([*_KEYS, *_SETTING], sort=False)["accuracy"].agg(["mean", "count"])
    most = settings.groupby(_KEYS, sort=False)["count"].transform("max")
    table = settings["mean"].where(settings["count"] == most).groupby(_KEYS, sort=False).max().unstack("dataset")
    table = table.reindex(index=frame["model"].unique(), columns=frame["dataset"].unique())
    return table.astype("float64").rename_axis(index="model", columns="dataset")


def noise(frame: pd.DataFrame) -> pd.Series[float]:
    """How far the seed alone moves an accuracy: its standard deviation within a setting, pooled over settings.

    Returns:
        Percentage points by dataset; without those where no setting was trained with two seeds.
    """
    groups = frame[frame["accuracy"].notna()].groupby([*_KEYS, *_SETTING])["accuracy"]
    freedom = (groups.count() - 1).groupby("dataset").sum()
    squares = (groups.var() * (groups.count() - 1)).groupby("dataset").sum()
    pooled: pd.Series[float] = (squares[freedom > 0] / freedom[freedom > 0]) ** 0.5
    return pooled


def gaps(frame: pd.DataFrame) -> list[str]:
    """Name the models that lack cells which other models of their dataset have: their best is of fewer settings."""
    finished = frame[frame["accuracy"].notna()]
    grids = frame.groupby(_KEYS).size().groupby("dataset").max()
    counts = finished.groupby(_KEYS).size()
    return [
        f"{model} on {dataset}: {counts.get((dataset, model), 0)} of {grids[dataset]} cells"
        for dataset, model in frame[_KEYS].drop_duplicates().itertuples(index=False)
        if counts.get((dataset, model), 0) < grids[dataset]
    ]


def write(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Write the table of the best cells and, beside it, that of all cells.

    Cells that the files hold already stay, unless ``frame`` has them, too; so datasets come together in one table.

    Args:
        frame: Cells of one protocol per dataset.
        path: The table, ``<name>.csv``; all cells go to ``<name>_cells.csv``.

    Returns:
        The table as written.

    Raises:
        SettingError: If the files hold cells of another protocol of the same dataset.
        DataError: If ``<name>_cells.csv`` is there and is no such table.
        StoreError: If the files cannot be written.
    """
    cells = path.with_name(f"{path.stem}_cells.csv")
    if cells.is_file():
        frame = _join(frame, cells)
    table = best_cells(frame)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_result(cells, frame.to_csv(index=False).encode())
    write_result(path, table.round(4).to_csv().encode())
    return table


def _join(frame: pd.DataFrame, cells: Path) -> pd.DataFrame:
    try:
        there = pd.read_csv(cells, dtype={"comparable": str, "cell": str, "protocol": str, "precision": str})
        there = there[~there["cell"].isin(frame["cell"])]
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"{cells}: cannot be read as a table of cells ({error}); move it away.") from error
    if there.empty:
        return frame
    try:
        return choose(pd.concat([there.astype("object"), frame.astype("object")], ignore_index=True))
    except SettingError as error:
        raise SettingError(f"{cells} holds other cells of the same dataset; name another table. {error}") from error


def compare(table: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Own accuracies beside published ones, where both have the model and the dataset.

    Returns:
        Columns ``dataset``, ``model``, ``own``, ``published`` and ``difference``, percent; empty where nothing matches.
    """
    table = table.rename_axis(index="model")
    own = table.melt(var_name="dataset", value_name="own", ignore_index=False).set_index("dataset", append=True)
    other = published.reindex(index=table.index, columns=table.columns)
    both = own.assign(published=other.melt(value_name="published")["published"].to_numpy()).dropna().reset_index()
    both["difference"] = both["own"] - both["published"]
    return both[["dataset", "model", "own", "published", "difference"]]


def show(table: pd.DataFrame, frame: pd.DataFrame, published: pd.DataFrame, console: Console) -> None:
    """Print the table, what is missing from it, and the comparison."""
    kinds = frame[["dataset", "adaptation", "protocol"]].drop_duplicates()
    words = ", ".join(
        f"{dataset}: {protocol}{'' if adaptation == 'full' else f' {adaptation}'}"
        for dataset, adaptation, protocol in kinds.itertuples(index=False)
    )
    print_table(console, table, f"Accuracy after fine-tuning, percent ({words})", digits=2)
    for dataset, deviation in noise(frame).items():
        low, high = table[dataset].min(), table[dataset].max()
        console.print(
            f"{dataset}: {low:.2f} to {high:.2f}; the seed alone moves an accuracy by {deviation:.2f} points (std)"
            + (f", the models lie {(high - low) / deviation:.0f} times as far apart" if deviation else ""),
            markup=False,
            soft_wrap=True,
        )
    for gap in gaps(frame):
        console.print(f"incomplete: {gap}", style="yellow", markup=False)
    both = compare(table, published)
    if len(both):
        print_table(console, both.set_index("dataset"), "Beside the paper's table, percent", digits=2)


def print_table(console: Console, rows: pd.DataFrame, title: str, digits: int = 3) -> None:
    """Print a table with its index in front, numbers to so many digits."""
    console.print(title, markup=False, soft_wrap=True)
    shown = Table("")
    for column in rows.columns:
        text = not pd.api.types.is_numeric_dtype(rows[column])
        shown.add_column(escape(str(column)), justify="left" if text else "right")
    for name, *row in rows.itertuples():
        words = (escape(value) if isinstance(value, str) else f"{value:.{digits}f}" for value in row)
        shown.add_row(escape(str(name)), *words)
    console.print(shown)


def finish(
    records: Sequence[Record], output: Path, table: str | None, published: pd.DataFrame, console: Console
) -> None:
    """Write and print what a run found, and add it to a table that grows from run to run.

    Args:
        records: Of all cells of the run.
        output: The run's own table.
        table: The growing table, or None.
        published: Accuracies to compare with, columns by this package's dataset names.
        console: Where to print.

    Raises:
        SettingError: If ``table`` holds another protocol's cells of the dataset.
        StoreError: If a file cannot be written.
    """
    if not records:
        return
    frame = to_frame(records)
    show(write(frame, output), frame, published, console)
    console.print(f"Table: {output}", markup=False, soft_wrap=True)
    if table is not None:
        write(frame, Path(table).expanduser())
        console.print(f"Added to: {table}", markup=False, soft_wrap=True)


def main(arguments: Sequence[str], published: pd.DataFrame) -> None:
    """Collect records into a table of true accuracies and compare it with the paper's.

    Args:
        arguments: Of the command line.
        published: Accuracies to compare with, columns by this package's dataset names.
    """
    parser = argparse.ArgumentParser(prog="python -m itm.groundtruth collect", description="Collect records of cells.")
    parser.add_argument("records", nargs="+", type=Path, help="folders of records; what is below them is found")
    parser.add_argument("--table", type=Path, help="CSV file to write or to add to, beside it <name>_cells.csv")
    parser.add_argument("--protocol", help="its word, where the records of a dataset are of several protocols")
    chosen = parser.parse_args(arguments)
    try:
        records = [record for folder in chosen.records for record in Cells(folder).read_all()]
        if not records:
            raise SettingError(f"records={', '.join(map(str, chosen.records))}: no record of a cell is below.")
        frame = choose(to_frame(records).drop_duplicates("cell"), chosen.protocol)
        table = write(frame, chosen.table) if chosen.table else best_cells(frame)
    except ItmError as error:
        parser.error(str(error))
    console = Console()
    show(table, frame, published, console)
    if chosen.table:
        console.print(f"Table: {chosen.table}", markup=False, soft_wrap=True)
