"""The console: its width, text that is safe to print, and the one printer of tables."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTH = 110
"""Columns of a console that is not a terminal, such as a log file."""
_WIDEST = 40  # a longer cell is folded over several lines
_GAP = 4  # two blanks on either side of a column


def console(width: int = WIDTH) -> Console:
    """Return the console that tables go to: the terminal's own width, or ``width`` columns in a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else width)


def printable(text: object, keep: str = "") -> str:
    r"""Replace characters that a terminal or a page would act upon or refuse by their escapes.

    Control characters (among them terminal escape codes and line ends), lone surrogates and invisible formatting
    characters become visible text such as ``\x1b``.

    Args:
        text: A name or a message; another object is converted by ``str``.
        keep: Control characters that stay, such as a line end.

    Example:
        >>> printable("red\x1b[31m")
        'red\\x1b[31m'
    """
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in str(text))


def encodable(text: str) -> str:
    r"""Replace lone surrogates by their escapes: UTF-8, and a column of text in pandas, refuse them.

    Example:
        >>> encodable("half\udc80")
        'half\\udc80'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def plain_table(title: str) -> Table:
    """Return an empty table in the project's style; cells that hold user's text need :func:`cell`."""
    return Table(title=cell(title), title_justify="left", box=box.SIMPLE, padding=(0, 1))


def cell(text: object) -> str:
    """Return text that a table shows as it is: printable, with the console's markup escaped."""
    return escape(printable(text))


def number_format(values: Iterable[float | None], digits: int = 3) -> str:
    """Return one format for all numbers of a column.

    Args:
        values: The column; missing and infinite numbers do not count.
        digits: Decimals of ordinary columns. Numbers from 1,000 on get fewer; columns below the last decimal or from a
            million on get exponents.

    Returns:
        A format specification such as ``.3f``.

    Example:
        >>> number_format([0.5, 12.25]), number_format([4096.5]), number_format([2e-7, 0])
        ('.3f', '.1f', '.3e')
    """
    array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    sizes = np.abs(array[np.isfinite(array) & (array != 0)])
    if not len(sizes):
        return f".{digits}f"
    if sizes.max() < 10.0**-digits or sizes.max() >= 1e6:
        return f".{digits}e"
    return f".{digits if sizes.max() < 1_000 else max(0, digits - 2)}f"


def print_frame(
    frame: pd.DataFrame, title: str, digits: int = 3, to: Console | None = None, rows: int | None = None
) -> None:
    """Print a data frame, its index as the first column, every number of a column in the same format.

    A table wider than the console is printed in parts, each with the index.

    Args:
        frame: The table. Missing values stay empty.
        title: Printed above the table.
        digits: Decimals of fractional columns, see :func:`number_format`; columns of integers have none.
        to: Console to print to; default :func:`console`.
        rows: Most rows to print; the number of the others follows. Default all.
    """
    target = to or console()
    shown = frame if rows is None else frame.head(rows)
    text = pd.DataFrame(
        {place: _column(shown.iloc[:, place], frame.iloc[:, place], digits) for place in range(frame.shape[1])},
        index=shown.index,
    )
    text.columns = frame.columns
    left = [place for place in range(frame.shape[1]) if not _is_numeric(frame.iloc[:, place])]
    for table in frame_tables(text, title, target.width, left):
        target.print(table)
    if len(shown) < len(frame):
        target.print(f"and {len(frame) - len(shown)} more rows", highlight=False)


def frame_tables(text: pd.DataFrame, title: str, width: int, left: Collection[int] = ()) -> Iterator[Table]:
    """Turn a frame of strings into tables that fit the width, the index first in each.

    Args:
        text: Cells as strings, without the console's markup.
        title: Above each table; parts add the range of their columns.
        width: Characters of a line.
        left: Positions of the columns that are aligned to the left.
    """
    first = _width(str(text.index.name or ""), map(str, text.index))
    widths = [_width(str(name), text.iloc[:, place]) for place, name in enumerate(text.columns)]
    parts, used = [[0]] if widths else [[]], first + sum(widths[:1])
    for place, extra in enumerate(widths[1:], start=1):
        if used + extra > width:
            parts, used = [*parts, []], first
        parts[-1].append(place)
        used += extra
    for part in parts:
        where = f" (columns {part[0] + 1} to {part[-1] + 1} of {len(widths)})" if len(parts) > 1 else ""
        table = plain_table(title + where)
        table.add_column(cell(text.index.name or ""), overflow="fold")
        for place in part:
            table.add_column(cell(text.columns[place]), justify="left" if place in left else "right", overflow="fold")
        for name, row in zip(text.index, text.to_numpy(), strict=True):
            table.add_row(cell(name), *(cell(row[place]) for place in part))
        yield table


def _width(header: str, cells: Iterable[str]) -> int:
    """Return the width of a column with its gap: its longest cell or the longest word of its header, which may wrap."""
    words = [cell_len(word) for word in printable(header, keep="\n").split()]
    return min(_WIDEST, max([*words, *(cell_len(printable(text)) for text in cells), 1])) + _GAP


def _is_numeric(column: Any) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _column(shown: pd.Series[Any], whole: pd.Series[Any], digits: int) -> list[str]:
    if not _is_numeric(whole):
        return ["" if pd.isna(value) else encodable(str(value)) for value in shown]
    if pd.api.types.is_integer_dtype(whole):
        return ["" if pd.isna(value) else str(int(value)) for value in shown]
    form = number_format(whole, digits)
    return ["" if pd.isna(value) else format(value, form) for value in shown]


def markdown(frame: pd.DataFrame, digits: int) -> str:
    """Return a table in Markdown, its index first.

    Args:
        frame: The table; floating-point values are rounded.
        digits: Digits after the point.
    """
    head = [str(frame.index.name or ""), *map(str, frame.columns)]
    lines = [f"| {' | '.join(head)} |", f"{'|---' * len(head)}|"]
    for name, row in frame.iterrows():
        cells = [f"{value:.{digits}f}" if isinstance(value, float) else str(value) for value in row]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
