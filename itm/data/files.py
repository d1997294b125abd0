"""Image files on disk: which endings and formats are read, names of paths as text and content digests."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, features

from itm.core.errors import DataError
from itm.core.files import file_digest

# Pillow goes by the content, not by the name: it would hand a .jpg that is a PostScript program to Ghostscript. Only
# formats of pixels are opened. Each one's endings stand beside it.
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2",),
    "HEIF": (".heic", ".heif"),
}
# Pillow may be built without these; HEIF needs the package pillow-heif
_AVAILABLE = {
    "WEBP": features.check("webp"),
    "AVIF": features.check("avif"),
    "JPEG2000": features.check("jpg_2000"),
    "HEIF": find_spec("pillow_heif") is not None,
}
_READ = {name: endings for name, endings in _ENDINGS.items() if _AVAILABLE.get(name, True)}

SUFFIXES = frozenset(ending for endings in _READ.values() for ending in endings)
"""Endings, in lower or upper case, of the files that count as images in a folder."""


UNREADABLE = b"unreadable"
"""Stands for the digest of a file that cannot be read."""


@cache
def formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are read; loads the plug-in for HEIF where it is installed."""
    if "HEIF" in _READ:
        import pillow_heif  # an optional extra

        pillow_heif.register_heif_opener()
    return tuple(_READ)


def display(path: Path) -> str:
    """Return the path as printable text; bytes that are not UTF-8 appear as hexadecimal numbers."""
    return path_text(os.fspath(path))


def path_text(text: str) -> str:
    """Return a text of a path in which bytes that are not UTF-8 appear as hexadecimal numbers."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def opened(source: Path | bytes) -> BinaryIO:
    """Open a file, or the content of one that is held in memory."""
    return BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def check_regular(path: Path) -> None:
    """Refuse pipes, devices and sockets: reading one may never end.

    Raises:
        DataError: If the path is not a regular file.
        OSError: If the path does not exist.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise DataError("is a directory")
    if not stat.S_ISREG(mode):
        raise DataError("not a regular file")


def check_size(width: int, height: int, part: int = 1) -> None:
    """Refuse an image of too many pixels for a worker's memory.

    Raises:
        DataError: If it has more than ``PIL.Image.MAX_IMAGE_PIXELS / part``.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit // part:
        raise DataError(
            f"{width} x {height} pixels are more than the {limit / part / 1e6:.0f} million that are decoded; "
            "make it smaller"
        )


def content_digest(path: Path) -> bytes:
    """Return the sha256 of a file's bytes; ``b"unreadable"`` where they cannot be read, which decoding then reports."""
    try:
        check_regular(path)
        return bytes.fromhex(file_digest(path))
    except (OSError, ValueError, DataError):
        return UNREADABLE


def quoted(names: Iterable[str]) -> str:
    """Return at most five names in quotes, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return ", ".join(repr(name) for name in listed[:5]) + more
