"""Files on disk: atomic writes, digests, folder names, locks and storage errors."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from itm.core.errors import StoreError


def home_folder() -> Path:
    """Return the folder of downloaded data and stored features: ``$ITM_HOME``, or ``~/.cache/itm``."""
    return Path(os.environ.get("ITM_HOME") or "~/.cache/itm").expanduser()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file completely or not at all, even after a power cut or when several processes write the same file.

    Raises:
        OSError: If it cannot be written; the earlier content stays.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def storage_errors(setting: str, action: str, path: Path, kept: str = "") -> Iterator[None]:
    """Turn an ``OSError`` of the block into a :class:`StoreError` in one line.

    Args:
        setting: The setting that decides the path, as the user typed it: ``"store=features"`` or ``"records"``.
        action: What failed: ``"read"``, ``"write"``, ``"remove"``.
        path: The file or folder.
        kept: A sentence on what is not lost, such as ``"Finished shards are kept."``

    Raises:
        StoreError: If the block raises an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        name = setting.partition("=")[0]
        remedy = f"Free disk space or fix the permissions, or set {name}=<path> to a writable place with free space."
        reason = error.strerror or error
        raise StoreError(" ".join(f"{setting}: cannot {action} {path} ({reason}). {kept} {remedy}".split())) from error


def check_writable(setting: str, folder: Path, size: int = 1) -> None:
    """Create a folder and write a temporary file in it, so that an unwritable one is refused before long work.

    Args:
        setting: The setting that decides the folder, as the user typed it.
        folder: The folder.
        size: Bytes that it must take.

    Raises:
        StoreError: If the folder cannot be created or written.
    """
    with storage_errors(setting, "write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(bytes(size))
            os.fsync(file.fileno())  # some file systems report a full disk only then


def try_lock(folder: Path) -> FileLock:
    """Try to lock a folder, which is created if missing; check ``is_locked`` of the result.

    The kernel holds the lock and frees it when the process ends or is killed.

    Raises:
        OSError: If the folder or its lock file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", blocking=False)
    with suppress(Timeout):
        lock.acquire()
    return lock


def json_digest(value: Any) -> str:
    """Return the sha256 of a JSON value, in hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_name(names: Sequence[str], digest: str, details: Sequence[str] = ()) -> str:
    """Return a readable folder name that the start of a digest makes unique.

    Args:
        names: Names of any characters, such as a dataset and a model; each is shortened to 40 safe characters.
        digest: Digest of the identity, hexadecimal; the first 16 digits end the name.
        details: Parts that are safe already and stand before the digest.
    """
    safe = [re.sub(r"[^A-Za-z0-9_.]+", "_", name)[:40] for name in names]
    return "-".join((*safe, *details, digest[:16])).lstrip(".-")
