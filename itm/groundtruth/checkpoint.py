"""What lets training go on after a kill: a checkpoint that is known to be whole, and a Ctrl-C that stays one."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from itm.core.files import file_digest, storage_errors
from itm.groundtruth.trials import KEPT, write_result

_log = logging.getLogger(__name__)


class LastCheckpoint:
    """The checkpoint of a cell's last epoch, known by its sha256.

    ``last.ckpt.sha256`` names the file that is there and the one that takes its place next, so that a kill between the
    two writes leaves a checkpoint that is still known.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "last.ckpt"
        self.digests = folder / "last.ckpt.sha256"

    def find(self) -> Path | None:
        """The checkpoint if it is there and whole; a damaged one is removed."""
        if not self.path.is_file():
            return None
        if self.digests.is_file() and file_digest(self.path) in self.digests.read_text().split():
            return self.path
        _log.warning("%s is damaged (cut short or altered) and is removed; the cell starts again.", self.path)
        self.remove()
        return None

    def save(self, write: Callable[[Path], None]) -> None:
        """Put a new checkpoint in the place of the old one."""
        temporary = self.path.with_name(".last.ckpt.tmp")
        with storage_errors("records", "write", self.path, KEPT):
            write(temporary)
            known = self.digests.read_text().split()[:1] if self.digests.is_file() else []
            write_result(self.digests, "\n".join([file_digest(temporary), *known, ""]).encode())
            temporary.replace(self.path)

    def remove(self) -> None:
        """Remove the checkpoint."""
        for path in (self.path, self.digests, self.path.with_name(".last.ckpt.tmp")):
            path.unlink(missing_ok=True)


class SafeCheckpoints(TorchCheckpointIO):
    """Loads plain tensors and values only, no pickled code."""

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Load a checkpoint, whatever ``weights_only`` says."""
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return checkpoint


@contextmanager
def interruptible(trainer: L.Trainer) -> Iterator[None]:
    """Lightning makes an exit of Ctrl-C and ignores it from then on."""
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
