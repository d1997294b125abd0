"""Errors that a user can fix: each names what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ItmError(Exception):
    """Base of every error that a user can cause and fix; entry scripts print it as one line, without a traceback."""

    def __str__(self) -> str:
        return " ".join(part.strip() for part in super().__str__().splitlines())  # names can hold line breaks


class SettingError(ItmError, ValueError):
    """A setting has a value that it cannot take."""


class FeatureError(ItmError, ValueError):
    """Features or labels that no score can be computed from."""


class DataError(ItmError):
    """Images or labels that cannot be found, read or decoded."""


class CheckpointError(ItmError):
    """Weights that are missing, unsafe to load, or do not fit the network."""


class WorkerError(ItmError):
    """Processes that decode images died; this says nothing about the images or the model."""


class StoreError(ItmError):
    """The feature store cannot be read or written."""


def unknown(setting: str, word: object, allowed: Iterable[object]) -> SettingError:
    """Build the error for a word that is not among the allowed ones, naming the closest.

    Args:
        setting: The setting as the user typed it, for example ``"scorer"``.
        word: What was found.
        allowed: What can stand there.

    Returns:
        The error, to be raised by the caller.
    """
    choices = sorted(str(choice) for choice in allowed)
    closest = difflib.get_close_matches(str(word), choices, n=1, cutoff=0.5)
    hint = f" Did you mean {closest[0]!r}?" if closest else ""
    return SettingError(f"{setting}={word}: not known.{hint} Allowed: {', '.join(choices)}.")
