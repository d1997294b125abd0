"""The trials of a fine-tuning grid on disk: one folder, one record and one lock each.

A trial is everything that decides one accuracy after fine-tuning. Its folder's name ends in the start of the digest of
that identity. ``record.json`` exists once the trial has ended and holds its own sha256, so damage is detected. Workers
share the folder of all trials and claim a trial by a kernel lock, which the kernel frees when the worker's process
ends.
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
from itm.groundtruth.protocol import Adaptation, Protocol

FORMAT = 1
"""Version of the records and of the training code; part of the identity, so that versions are not mixed."""

KEPT = "Finished trials and epochs are kept."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One model fine-tuned once on one dataset with one setting.

    Args:
        dataset: Name of the dataset.
        train: Fingerprint of the images that train.
        test: Fingerprint of the test images.
        model: The zoo's name of the model.
        architecture: timm's or torchvision's name of the network.
        weights: Digest of the weights that training starts from.
        transform: The evaluation transform in one line.
        pooling: How tokens or feature maps become one feature.
        lr: Highest learning rate.
        weight_decay: Weight decay of AdamW.
        seed: Seed of the head, the order of the images and the augmentation.
        adaptation: Which weights of the backbone train, see :mod:`itm.groundtruth.adaptation`.
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
    adaptation: Adaptation = "full"
    protocol: Protocol = field(default_factory=Protocol)
    format: int = FORMAT

    @cached_property
    def digest(self) -> str:
        """The sha256 of the identity, in hexadecimal."""
        return json_digest(asdict(self) | {"protocol": self.protocol.identity()})

    @property
    def comparable(self) -> str:
        """Eight hexadecimal digits, shared by trials whose accuracies belong in one column of a table."""
        return comparable_digest(self.train, self.test, self.adaptation, self.protocol)

    @property
    def folder(self) -> str:
        """A readable folder name that the start of the digest makes unique."""
        details = (f"lr{self.lr:g}", f"wd{self.weight_decay:g}", f"seed{self.seed}", self.adaptation)
        return folder_name((self.dataset, self.model), self.digest, details)

    def __str__(self) -> str:
        if self.adaptation == "zero_shot":
            return f"{self.model} on {self.dataset}, zero-shot"
        seed = f", seed {self.seed}" if self.seed else ""
        adaptation = f", {self.adaptation}" if self.adaptation != "full" else ""
        return f"{self.model} on {self.dataset}{adaptation}, lr {self.lr:g}, weight decay {self.weight_decay:g}{seed}"

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Trial:
        """Build a trial from the JSON of its :func:`dataclasses.asdict`."""
        return cls(**{**facts, "protocol": Protocol(**facts["protocol"])})


def comparable_digest(train: str, test: str, adaptation: Adaptation, protocol: Protocol) -> str:
    """Return eight hexadecimal digits of all that two trials must share for their accuracies to be comparable."""
    return json_digest([train, test, adaptation, protocol.identity(), FORMAT])[:8]


@dataclass(frozen=True)
class Record:
    """The outcome of a trial.

    Args:
        trial: The trial.
        error: Reason of the failure, or None.
        history: One entry per finished epoch: epoch from 1, losses, accuracies in percent, seconds.
        facts: How the trial was computed: seconds, speed, memory, numbers of parameters, micro-batch, device, versions.
    """

    trial: Trial
    error: str | None = None
    history: Sequence[Mapping[str, float]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Mapping[str, float]:
        """The epoch that ``protocol.select`` chooses, the first of equal ones."""
        return max(self.history, key=self.trial.protocol.chosen_by)

    def to_json(self) -> dict[str, Any]:
        """Return plain values with the test accuracy of the best epoch near the top.

        The trial stands under ``"cell"``, the key of the records' first version.
        """
        best: dict[str, Any] = {}
        if self.error is None:
            best = {"accuracy": self.best["accuracy"], "epoch": self.best["epoch"]}
        return {
            "status": "finished" if self.error is None else "failed",
            **best,
            "cell": asdict(self.trial),
            "error": self.error,
            "history": [dict(epoch) for epoch in self.history],
            "facts": dict(self.facts),
        }


class TrialStore:
    """The folder of records that all workers share.

    Args:
        root: Folder of the setting ``records``; the first claim creates it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()

    def folder(self, trial: Trial) -> Path:
        """Return the folder of a trial's files; it need not exist yet."""
        return self.root / trial.folder

    def read(self, trial: Trial) -> Record | None:
        """Return the record of a trial, or None where it is missing or damaged."""
        record = _read(self.folder(trial) / "record.json")
        return record if record is not None and record.trial.digest == trial.digest else None

    def read_all(self) -> list[Record]:
        """Return every undamaged record below the folder, sorted by path; the log names damaged ones."""
        read = (_read(path) for path in sorted(self.root.rglob("record.json")))
        return [record for record in read if record is not None]

    def write(self, record: Record) -> None:
        """Write a record completely or not at all.

        Raises:
            StoreError: If it cannot be written.
        """
        content = json.loads(json.dumps(record.to_json(), ensure_ascii=False))
        text = json.dumps({"sha256": json_digest(content), **content}, indent=1, ensure_ascii=False) + "\n"
        path = self.folder(record.trial) / "record.json"
        with storage_errors("records", "write", path, KEPT):
            write_atomic(path, text.encode())

    @contextmanager
    def claim(self, trial: Trial) -> Iterator[bool]:
        """Claim a trial for this worker until the block ends.

        Yields:
            True if the claim succeeded, False if another worker holds the trial.

        Raises:
            StoreError: If the folder cannot be created or written.
        """
        folder = self.folder(trial)
        with storage_errors("records", "write", folder, KEPT):
            lock = try_lock(folder)
        try:
            yield lock.is_locked
        finally:
            lock.release()


def _read(path: Path) -> Record | None:
    try:
        content = json.loads(path.read_bytes())
        sha256 = content.pop("sha256")
        if sha256 == json_digest(content):
            return Record(Trial.from_dict(content["cell"]), content["error"], content["history"], content["facts"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not JSON, or not the content of a record
        pass
    _warn_damaged(path)
    return None


@cache  # one warning per file, though a worker reads each record several times
def _warn_damaged(path: Path) -> None:
    _log.warning("%s is damaged (cut short or altered) and counts as absent; its trial runs again.", path)
