"""Files of a report: a check of the folder before the work, and tables that a spreadsheet opens safely."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from itm.core.console import printable
from itm.core.files import check_writable, write_atomic

_SIZE = 1 << 20  # bytes: about what tables and page take together
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def check_output(folder: Path) -> None:
    """Create the output folder and check that it takes a megabyte, before the work whose results it will hold.

    Raises:
        StoreError: If the folder cannot be created or written.
    """
    check_writable("hydra.run.dir", folder, _SIZE)


def write_csv(frame: pd.DataFrame, path: Path, *, index: bool = False) -> None:
    """Write a table as CSV in UTF-8, completely or not at all.

    Text that a spreadsheet would run as a formula gets an apostrophe in front; numbers stay as they are.

    Raises:
        OSError: If the file cannot be written.
    """
    safe = frame.copy()
    for place in range(safe.shape[1]):
        if not pd.api.types.is_numeric_dtype(safe.dtypes.iloc[place]):
            safe.isetitem(place, [csv_safe(value) for value in safe.iloc[:, place]])
    if index:
        safe.index = safe.index.map(csv_safe)
    safe.columns = safe.columns.map(csv_safe)
    write_atomic(path, safe.to_csv(index=index).encode("utf-8", "backslashreplace"))


def csv_safe(value: object) -> object:
    """Return text that a spreadsheet shows and does not run; other values as they are.

    Example:
        >>> csv_safe("=1+1"), csv_safe("resnet18"), csv_safe(-1.5)
        ("'=1+1", 'resnet18', -1.5)
    """
    if not isinstance(value, str):
        return value
    text = printable(value, keep="\n")
    return f"'{text}" if text.startswith(_FORMULA) or value.startswith(_FORMULA) else text
