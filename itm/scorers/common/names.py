"""Scorers by the name that configs, tables and ``itm.rank`` use."""

from __future__ import annotations

import itm.scorers
from itm.core.errors import unknown
from itm.scorers.base import Scorer


def by_name(name: str, setting: str = "scorer") -> Scorer:
    """Build the scorer of that name with its default settings.

    Args:
        name: Its name, such as ``"itm"``.
        setting: Where the name stands, for the message.

    Raises:
        SettingError: If no scorer has that name.
    """
    table = itm.scorers.BY_NAME
    if name not in table:
        raise unknown(setting, name, table)
    return table[name]()
