"""Image files below a folder, without what systems and programs put beside them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from itm.core.errors import DataError
from itm.data.files import SUFFIXES, display

# Thumbnails, forks and waste bins of network storage, macOS and Windows, in lower case; names with a dot in front
# are left out anyway.
_SYSTEM = frozenset(
    {"@eadir", "__macosx", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found"}
    | {"__pycache__", "thumbs.db", "desktop.ini", "icon\r"}
)


def subfolders(root: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones and those of the system.

    Raises:
        DataError: If the folder cannot be read.
    """
    try:
        return sorted(child for child in root.iterdir() if child.is_dir() and not _is_hidden(child.name))
    except OSError as error:
        raise _unreadable(root, error) from error


def find_images(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Find the images at any depth below a folder; linked folders are followed, each folder is visited once.

    Returns:
        The image files, sorted, and the number of other files by their ending.

    Raises:
        DataError: If a folder cannot be read.
    """
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    try:
        real = folder.resolve()
        # A link to a folder that holds this one would bring in the other classes.
        visited = {_identity(each) for each in (real, *real.parents)}
        for parent, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
            folders[:] = [name for name in sorted(folders) if not _is_hidden(name) and _enter(parent, name, visited)]
            for name in files:
                ending = Path(name).suffix.lower()
                if ending in SUFFIXES and not _is_hidden(name):
                    found.append(Path(parent, name))
                elif not _is_hidden(name):
                    left_out[display(Path(ending)) if ending else "without an ending"] += 1
    except OSError as error:
        raise _unreadable(folder, error) from error
    return sorted(found), left_out


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _SYSTEM


def _enter(parent: str, name: str, visited: set[tuple[int, int]]) -> bool:
    identity = _identity(Path(parent, name))
    new = identity not in visited
    visited.add(identity)
    return new


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _raise(error: OSError) -> None:
    raise error


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(f"{display(folder)}: the folder cannot be read ({error.strerror}).")
