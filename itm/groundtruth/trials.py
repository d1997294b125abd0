"""The cells of a fine-tuning grid on disk: one folder, one record and one claim each.

A cell is everything that decides one accuracy after fine-tuning; its folder's name ends in the start of the digest of
that identity. ``record.json`` is there once the cell ended and holds its own sha256, so it is either exactly what was
written or is seen to be damaged. Workers that share the folder of all cells claim a cell by a lock of the kernel, which
is free at once when the worker's processes are gone, however they ended.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from itm.core.files import folder_name, json_digest, storage_errors, try_lock, write_atomic
from itm.groundtruth.protocol import Protocol

FORMAT = 1
"""Version of the records and of how a cell is trained; part of the identity, so another version's are not mixed in."""

KEPT = "Finished cells and epochs are kept."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One model fine-tuned once on one dataset with one setting.

    Args:
        dataset: Name of the dataset.
        train: Fingerprint of the training images.
        test: Fingerprint of the test images.
        model: The zoo's name of the model.
        architecture: timm's or torchvision's name of it.
        weights: Digest of the weights that training starts from.
        transform: The evaluation transform in one line.
        pooling: How tokens or maps become one feature.
        lr: Highest learning rate.
        weight_decay: Of AdamW.
        seed: Of the head, the order of the images and the augmentation.
        adaptation: What of the backbone is trained, see :mod:`itm.groundtruth.adaptation`.
        protocol: Everything else that decides the accuracy.
        format: Version of the records.
    """

    dataset: str
    train: str
    test: str
    model: str
    architecture: str
    weights: str
    transform: str
    pooling: str
    lr: float
    weight_decay: float
    seed: int = 0
    adaptation: str = "full"
    protocol: Protocol = field(default_factory=Protocol)
    format: int = FORMAT

    @cached_property
    def digest(self) -> str:
        """The sha256 of the identity, in hexadecimal."""
        return json_digest(asdict(self) | {"protocol": self.protocol.identity()})

    @property
    def comparable(self) -> str:
        """Eight hexadecimal digits that cells share whose accuracies belong in one column of a table."""
        return json_digest([self.train, self.test, self.adaptation, self.protocol.identity(), self.format])[:8]

    @property
    def folder(self) -> str:
        """A folder name that a person can read, made unique by the start of the digest."""
        details = (f"lr{self.lr:g}", f"wd{self.weight_decay:g}", f"seed{self.seed}", self.adaptation)
        return folder_name((self.dataset, self.model), self.digest, details)

    def __str__(self) -> str:
        seed = f", seed {self.seed}" if self.seed else ""
        adaptation = f", {self.adaptation}" if self.adaptation != "full" else ""
        return f"{self.model} on {self.dataset}{adaptation}, lr {self.lr:g}, weight decay {self.weight_decay:g}{seed}"

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Cell:
        """The cell whose :func:`dataclasses.asdict` went through JSON."""
        return cls(**{**facts, "protocol": Protocol(**facts["protocol"])})


@dataclass(frozen=True)
class Record:
    """How a cell ended.

    Args:
        cell: The cell.
        error: Why it failed, or None.
        history: One entry per finished epoch: epoch from 1, losses, accuracies in percent, seconds.
        facts: How it was computed: seconds, speed, memory, numbers of parameters, micro-batch, device, versions.
    """

    cell: Cell
    error: str | None = None
    history: Sequence[Mapping[str, float]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Mapping[str, float]:
        """The epoch of the best test accuracy, the first of equals."""
        return max(self.history, key=lambda epoch: epoch["accuracy"])

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the best accuracy on top for whoever opens the file."""
        best = {} if self.error is not None else {"accuracy": self.best["accuracy"], "epoch": self.best["epoch"]}
        return {"status": "finished" if self.error is None else "failed", **best, **asdict(self)}


class Cells:
    """The folder that all workers share.

    Args:
        root: The folder of the setting ``records``; made when the first cell is claimed.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()

    def folder(self, cell: Cell) -> Path:
        """Where a cell's files are, or will be."""
        return self.root / cell.folder

    def read(self, cell: Cell) -> Record | None:
        """The record of a cell, or None where there is none that is whole."""
        record = _read(self.folder(cell) / "record.json")
        return record if record is not None and record.cell.digest == cell.digest else None

    def read_all(self) -> list[Record]:
        """Every whole record below the folder, by path; damaged ones are named in the log."""
        read = (_read(path) for path in sorted(self.root.rglob("record.json")))
        return [record for record in read if record is not None]

    def write(self, record: Record) -> None:
        """Write a record, whole or not at all.

        Raises:
            StoreError: If it cannot be written.
        """
        content = json.loads(json.dumps(record.to_json(), ensure_ascii=False))
        text = json.dumps({"sha256": json_digest(content), **content}, indent=1, ensure_ascii=False) + "\n"
        write_result(self.folder(record.cell) / "record.json", text.encode())

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[bool]:
        """Hold a cell: True if it is this worker's until the block ends, False if another one has it.

        Raises:
            StoreError: If the folder cannot be made or written.
        """
        folder = self.folder(cell)
        with storage_errors("records", "write", folder, KEPT):
            lock = try_lock(folder)
        try:
            yield lock.is_locked
        finally:
            lock.release()


def write_result(path: Path, content: bytes) -> None:
    """Write a record, a checkpoint's digest or a table completely or not at all.

    Raises:
        StoreError: If it cannot be written.
    """
    with storage_errors("records", "write", path, KEPT):
        write_atomic(path, content)


def _read(path: Path) -> Record | None:
    try:
        content = json.loads(path.read_bytes())
        sha256 = content.pop("sha256")
        if sha256 == json_digest(content):
            return Record(Cell.from_dict(content["cell"]), content["error"], content["history"], content["facts"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):  # no JSON, or not what a record holds
        pass
    _tell_damage(path)
    return None


@cache
def _tell_damage(path: Path) -> None:
    """Once, though a walk looks at a record several times."""
    _log.warning("%s is damaged (cut short or altered) and counts as absent; its cell is trained again.", path)
