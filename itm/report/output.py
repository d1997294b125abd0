"""Files of a report: a check of the folder before the work, and tables that a spreadsheet opens safely."""

from __future__ import annotations

import uuid
from pathlib import Path

import pandas as pd

from itm.core.console import printable
from itm.core.files import storage_errors, write_atomic

_PROBE = 1 << 20  # bytes: about what tables and page take together
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def check_writable(folder: Path, setting: str = "hydra.run.dir") -> None:
    """Create the output folder and check that it takes a megabyte, before the work whose results it will hold.

    Args:
        folder: The output folder.
        setting: The setting that decides it, for the message.

    Raises:
        StoreError: If the folder cannot be created or written.
    """
    with storage_errors(setting, "write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{uuid.uuid4().hex}"
        try:
            write_atomic(probe, bytes(_PROBE))
        finally:
            probe.unlink(missing_ok=True)


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
