"""Checkpoints that survive a kill at any moment, and a Ctrl-C that stops the whole run."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from itm.core.files import file_digest, storage_errors, write_atomic
from itm.groundtruth.trials import KEPT

_log = logging.getLogger(__name__)


class LastCheckpoint:
    """The checkpoint of the last finished epoch, verified by its sha256.

    ``last.ckpt.sha256`` holds the digests of the next checkpoint and of the current one, so a kill between the two
    writes leaves a checkpoint that is still verified.

    Args:
        folder: Folder of the trial.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "last.ckpt"
        self.digests = folder / "last.ckpt.sha256"
        self._temporary = folder / ".last.ckpt.tmp"

    def find(self) -> Path | None:
        """Return the checkpoint if it exists undamaged; a damaged one is removed and logged.

        Raises:
            StoreError: If a damaged checkpoint cannot be removed.
        """
        if not self.path.exists():
            return None
        if self._is_intact():
            return self.path
        _log.warning("%s is damaged (cut short or altered) and is removed; training starts again.", self.path)
        self.remove()
        return None

    def save(self, write: Callable[[Path], None]) -> None:
        """Replace the checkpoint.

        Args:
            write: Writes the new checkpoint to the given path.

        Raises:
            StoreError: If it cannot be written; the old checkpoint stays.
        """
        try:
            with storage_errors("records", "write", self.path, KEPT):
                write(self._temporary)
                digests = [file_digest(self._temporary), *self._known_digests()[:1]]
                if self.digests.is_dir():
                    shutil.rmtree(self.digests)
                write_atomic(self.digests, "".join(f"{digest}\n" for digest in digests).encode())
                self._temporary.replace(self.path)
        finally:
            with suppress(OSError):  # a full disk needs the space
                self._temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the checkpoint and its digests.

        Raises:
            StoreError: If they cannot be removed.
        """
        with storage_errors("records", "remove", self.path, KEPT):
            for path in (self.path, self.digests, self._temporary):
                if path.is_dir():
                    shutil.rmtree(path)
                path.unlink(missing_ok=True)

    def _is_intact(self) -> bool:
        try:
            return file_digest(self.path) in self._known_digests()
        except OSError:  # a folder, or not readable
            return False

    def _known_digests(self) -> list[str]:
        try:
            return self.digests.read_text("ascii").split()
        except (OSError, UnicodeDecodeError):  # missing, a folder, or damaged
            return []


class SafeCheckpoints(TorchCheckpointIO):
    """Loads tensors and plain values only, never pickled code."""

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Load a checkpoint safely; ``weights_only`` is ignored."""
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return checkpoint


@contextmanager
def interruptible(trainer: L.Trainer) -> Iterator[None]:
    """Raise KeyboardInterrupt after Ctrl-C; Lightning would exit and ignore the signal from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if trainer.interrupted:
            raise KeyboardInterrupt from stop
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
