"""The console: its width, and the one printer of data frames."""

from __future__ import annotations

import sys
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTH = 110
"""Columns of a console that is not a terminal, such as a log file."""


def console(width: int = WIDTH) -> Console:
    """Return the console that tables go to: the terminal's own width, or ``width`` columns in a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else width)


def plain_table(title: str) -> Table:
    """Return an empty table in the project's style; cells that hold user's text need :func:`rich.markup.escape`."""
    return Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1))


def print_frame(frame: pd.DataFrame, title: str, digits: int = 3, to: Console | None = None) -> None:
    """Print a data frame; the index is its first column, and every number of a column has the same decimals.

    Args:
        frame: What to print. Missing values stay empty.
        title: Printed above the table.
        digits: Decimals of fractional columns; columns of integers show none.
        to: Console to print to; :func:`console` where not given.
    """
    table = plain_table(escape(title))
    table.add_column(escape(str(frame.index.name or "")), no_wrap=True)
    for name in frame.columns:
        table.add_column(escape(str(name)), justify="right" if _is_numeric(frame[name]) else "left")
    for index, row in frame.iterrows():
        table.add_row(escape(str(index)), *(_cell(row[name], frame[name], digits) for name in frame.columns))
    (to or console()).print(table)


def _is_numeric(column: Any) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _cell(value: Any, column: Any, digits: int) -> str:
    if pd.isna(value):
        return ""
    if pd.api.types.is_integer_dtype(column):
        return str(int(value))
    return f"{value:.{digits}f}" if _is_numeric(column) else escape(str(value))
