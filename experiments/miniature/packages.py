"""Debian packages that images are drawn from: installed versions and files."""

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
    """Return the installed version of each package.

    Raises:
        DataError: If packages are missing; the message lists them with the command that installs them.
    """
    names = [package.name for package in packages]
    answer = _query("--show", "--showformat=${db:Status-Status} ${Package} ${Version}\n", *names)
    rows = (line.split() for line in answer.splitlines())
    found = {row[1]: row[2] for row in rows if row[0] == "installed"}
    if missing := [name for name in names if name not in found]:
        raise DataError(
            f"The images are drawn from Debian packages; {len(missing)} are not installed: {', '.join(missing)}. "
            f"Install the packages: apt-get install --no-install-recommends {' '.join(missing)}"
        )
    return {name: found[name] for name in names}


def files_of(package: Package, suffixes: Collection[str]) -> list[Path]:
    """Return the package's regular files with one of these suffixes, sorted; symbolic links are skipped."""
    listed = (Path(line) for line in _query("--listfiles", package.name).splitlines())
    return sorted(file for file in listed if file.suffix in suffixes and file.is_file() and not file.is_symlink())


def _query(*arguments: str) -> str:
    """Return the standard output of ``dpkg-query``; its complaints about unknown packages are dropped."""
    try:
        return subprocess.run(["dpkg-query", *arguments], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        raise DataError(
            "The images are drawn from Debian packages, but dpkg-query is not installed: run this on Debian or Ubuntu."
        ) from None
