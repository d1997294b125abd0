"""Tables of the console: formats, widths and names that a terminal would act upon."""

from __future__ import annotations

import doctest
import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import itm.core.console
from itm.core.console import print_frame, printable

HOSTILE = ["$a_$b", "[/]", "[red]x[/red]", "esc\x1b[31m", "half\udc80", "two\nlines", "‮left"]


def printed(frame: pd.DataFrame, width: int = 80, **settings: object) -> str:
    target = Console(file=io.StringIO(), width=width)
    print_frame(frame, "title", to=target, **settings)
    return target.file.getvalue()


def test_examples_in_docstrings_are_true() -> None:
    assert doctest.testmod(itm.core.console) == (0, 3)


def test_a_column_has_one_format() -> None:
    frame = pd.DataFrame({"a": [0.5, 10.25], "b": [2e-9, 1.0e-9], "c": [1234.5, 2.0], "d": [3, 40]}, index=["x", "y"])
    lines = printed(frame).splitlines()
    assert [line.split() for line in lines if line.split()[:1] in (["x"], ["y"])] == [
        ["x", "0.500", "2.000e-09", "1234.5", "3"],
        ["y", "10.250", "1.000e-09", "2.0", "40"],
    ]


def test_missing_values_stay_empty() -> None:
    frame = pd.DataFrame({"a": [np.nan, 1.0], "b": ["text", None]}, index=["x", "y"])
    assert "nan" not in printed(frame).lower()
    assert "None" not in printed(frame)


def test_a_wide_table_is_printed_in_parts_with_every_column_once() -> None:
    frame = pd.DataFrame({f"column{i}": [0.5] for i in range(30)}, index=["x"])
    text = printed(frame, width=60)
    assert all(text.count(f"column{i} ") == 1 for i in range(30))
    assert max(map(len, text.splitlines())) <= 60
    assert "…" not in text
    assert "columns 1 to" in text
    assert "to 30 of 30" in text


def test_a_long_table_says_how_many_rows_are_left_out() -> None:
    text = printed(pd.DataFrame({"a": range(100)}), rows=7)
    assert "and 93 more rows" in text
    assert len(text.splitlines()) < 15


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_and_not_acted_upon(name: str) -> None:
    # pandas' own type of text refuses half a surrogate pair where pyarrow is installed
    names = pd.Index([name], name=name, dtype=object)
    frame = pd.DataFrame([[name]], index=names, columns=names.rename(None), dtype=object)
    text = printed(frame)
    assert text.count(printable(name)) == 4
    assert "\x1b" not in text
    text.encode("utf-8")


def test_a_frame_without_columns_shows_its_index() -> None:
    assert "x" in printed(pd.DataFrame(index=["x"]))
