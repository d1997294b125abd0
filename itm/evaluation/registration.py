"""The registration of a benchmark: the datasets that may be scored, each written down before its first score."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from itm.core.errors import DataError, SettingError

CHOOSING, JUDGING, PUBLISHED = "choosing", "judging", "published"
"""Parts of a registration: settings are chosen on the first, judged on the second; the third was scored before."""

_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|", re.MULTILINE)


def read_registration(file: Path) -> dict[str, str]:
    """Read the table of a registration page: rows that begin with a dataset in backticks and its part.

    Args:
        file: A Markdown file.

    Returns:
        The part of each registered dataset, in the order of the table.

    Raises:
        DataError: If the file cannot be read, registers nothing, or names another part or a dataset twice.
    """
    try:
        rows = _ROW.findall(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not readable as a registration ({error}).") from error
    registered = dict(rows)
    unknown_parts = set(registered.values()) - {CHOOSING, JUDGING, PUBLISHED}
    if not rows or len(registered) < len(rows) or unknown_parts:
        raise DataError(
            f"{file}: expected rows such as `| `digits` | {CHOOSING} |`, each dataset once, its part one of "
            f"{CHOOSING}, {JUDGING} and {PUBLISHED}; found {len(rows)} rows."
        )
    return registered


def check_registered(names: Iterable[str], registered: Mapping[str, str], file: Path) -> None:
    """Refuse datasets that are not registered.

    Args:
        names: Datasets that are to be scored.
        registered: As :func:`read_registration` returns it.
        file: The registration, for the message.

    Raises:
        SettingError: If a dataset is not registered.
    """
    for name in names:
        if name not in registered:
            raise SettingError(
                f"data.name={name}: not registered in {file}, so its score would not count; registered: "
                f"{', '.join(registered)}. Add a row before the first score."
            )
