"""Print the tables of a run or of folders of records, and write them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from itm.core.console import console, print_frame
from itm.core.errors import ItmError, SettingError
from itm.groundtruth.summary import best_accuracies, choose, compare, gaps, measure, noise, selection, to_frame
from itm.groundtruth.table_files import write
from itm.groundtruth.tables import published
from itm.groundtruth.trials import Record, TrialStore


def show(table: pd.DataFrame, frame: pd.DataFrame, to: Console | None = None) -> None:
    """Print a table of best accuracies, its missing trials, and the comparison with the paper's table.

    Args:
        table: Percent, models by datasets.
        frame: Its trials, as :func:`itm.groundtruth.summary.to_frame` returns them.
        to: Console to print to; by default that of :func:`itm.core.console.console`.
    """
    to = to or console()
    # as a line of its own: the title of a table wraps at the table's width
    how = "zero-shot" if (frame["adaptation"] == "zero_shot").all() else "after fine-tuning"
    title = f"{measure(frame)} {how}, percent ({_protocols(frame)}); {selection(frame)}"
    to.print(title, markup=False, highlight=False, soft_wrap=True)
    print_frame(table, "", 2, to)
    for dataset, deviation in noise(frame).items():
        low, high = table[dataset].min(), table[dataset].max()
        line = f"{dataset}: {low:.2f} to {high:.2f}; the seed alone moves an accuracy by {deviation:.2f} points (std)"
        if deviation:
            line += f", the models lie {(high - low) / deviation:.0f} times as far apart"
        to.print(line, markup=False, soft_wrap=True)
    for gap in gaps(frame):
        to.print(f"incomplete: {gap}", style="yellow", markup=False)
    both = compare(table, published())
    if len(both):
        print_frame(both.set_index("dataset"), "Beside the paper's table, percent", 2, to)


def _protocols(frame: pd.DataFrame) -> str:
    kinds = frame[["dataset", "adaptation", "protocol"]].drop_duplicates()
    words = []
    for dataset, adaptation, protocol in kinds.itertuples(index=False):
        suffix = "" if adaptation == "full" else f" {adaptation}"
        words.append(f"{dataset}: {protocol}{suffix}")
    return ", ".join(words)


def finish(records: Sequence[Record], output: Path, table: str | None, to: Console | None = None) -> None:
    """Write and print the results of a run, and add them to a table that grows from run to run.

    Args:
        records: Records of all trials of the run.
        output: The run's own table.
        table: The growing table, or None.
        to: Console to print to.

    Raises:
        SettingError: If ``table`` holds trials of the dataset under another protocol.
        StoreError: If a file cannot be written.
    """
    if not records:
        return
    to = to or console()
    frame = to_frame(records)
    show(write(frame, output), frame, to)
    to.print(f"Table: {output}", markup=False, soft_wrap=True)
    if table is not None:
        write(frame, Path(table).expanduser(), f"table={table}")
        to.print(f"Added to: {table}", markup=False, soft_wrap=True)


def main(arguments: Sequence[str]) -> None:
    """Collect records into a table of accuracies after fine-tuning and compare it with the paper's.

    Args:
        arguments: Arguments of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m itm.groundtruth collect", description="Collect records of trials.")
    parser.add_argument("records", nargs="+", type=Path, help="folders of records, searched with all subfolders")
    parser.add_argument("--table", type=Path, help="CSV file to write or to add to, beside it <name>_cells.csv")
    parser.add_argument("--protocol", help="label of the protocol, where the records of a dataset have several")
    chosen = parser.parse_args(arguments)
    try:
        records = [record for folder in chosen.records for record in TrialStore(folder).read_all()]
        if not records:
            raise SettingError(f"records={', '.join(map(str, chosen.records))}: no record of a trial is below.")
        frame = choose(to_frame(records).drop_duplicates("cell"), chosen.protocol)
        table = write(frame, chosen.table, f"--table={chosen.table}") if chosen.table else best_accuracies(frame)
    except ItmError as error:
        parser.error(str(error))
    show(table, frame)
    if chosen.table:
        console().print(f"Table: {chosen.table}", markup=False, soft_wrap=True)
