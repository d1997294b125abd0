"""Debian packages that images are made of: whether they are installed, which version, which files."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from itm.core.errors import DataError


class Package(NamedTuple):
    """A Debian package and the licence of its images or fonts, as its copyright file states it."""

    name: str
    license: str


def versions(packages: Iterable[Package]) -> dict[str, str]:
    """The installed version of each package.

    Raises:
        DataError: If some are not installed; the message names all of them and the line that installs them.
    """
    names = [package.name for package in packages]
    answer = _query("--show", "--showformat=${db:Status-Status} ${Package} ${Version}\n", *names)
    rows = (line.split() for line in answer.splitlines())
    found = {row[1]: row[2] for row in rows if row[0] == "installed"}
    if missing := [name for name in names if name not in found]:
        raise DataError(
            f"The images are made of Debian packages, of which {len(missing)} are not installed: {', '.join(missing)}. "
            f"This installs them: apt-get install --no-install-recommends {' '.join(missing)}"
        )
    return {name: found[name] for name in names}


def files_of(package: Package, suffixes: Collection[str]) -> list[Path]:
    """The package's regular files with one of these endings, sorted; links are left out."""
    listed = (Path(line) for line in _query("--listfiles", package.name).splitlines())
    return sorted(file for file in listed if file.suffix in suffixes and file.is_file() and not file.is_symlink())


def _query(*arguments: str) -> str:
    """What ``dpkg-query`` knows; of packages that it does not know it tells on the standard error."""
    try:
        return subprocess.run(["dpkg-query", *arguments], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        raise DataError(
            "The images are made of Debian packages, and this machine has no dpkg-query: run this on Debian or Ubuntu."
        ) from None
