"""The store that keeps extracted features on disk: content keys, shards, atomic writes, verified reads.

One folder per key, one safetensors file per shard of consecutive images. A shard's file name ends in the start of the
file's sha256, so a file is either exactly what was written or is recognised as damaged, for every writer.
``manifest.json`` describes a folder for people and other programs; reading does not depend on it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from itm.core.errors import StoreError
from itm.core.files import folder_name, json_digest, storage_errors, try_lock, write_atomic
from itm.core.provenance import versions

FORMAT = 1
"""Version of the files and of how images become values; part of every key, so another version's files are not seen."""

_NAMES = ("name", "dataset", "split")
_DEAD_AFTER = 3600.0  # seconds; a file is written within moments, so an older temporary one has lost its writer
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureKey:
    """Everything that decides the values of extracted features, and three names for people.

    Args:
        model: Identifier of the network's architecture.
        weights: Digest of the loaded weights.
        transform: The evaluation transform in one canonical line.
        pooling: How the network's tokens or maps become one vector.
        precision: How the network ran: ``"32"``, ``"bf16"`` or ``"16"``. Features are kept as float32 in any case.
        fingerprint: Identity of the images, their labels and their order.
        name: The user's name of the model; this and the next two are not part of the identity.
        dataset: Name of the dataset.
        split: Name of its split.
        format: Version of the store's files.
        readout: The readout with its settings; empty for pooled features, whose keys are older than the field.
    """

    model: str
    weights: str
    transform: str
    pooling: str
    precision: str
    fingerprint: str
    name: str = ""
    dataset: str = ""
    split: str = ""
    format: int = FORMAT
    readout: str = ""

    @property
    def digest(self) -> str:
        """The sha256 of the identity, in hexadecimal."""
        identity = {name: value for name, value in asdict(self).items() if name not in _NAMES}
        if not self.readout:
            del identity["readout"]
        return json_digest(identity)

    @property
    def folder(self) -> str:
        """A folder name that a person can read, made unique by the start of the digest."""
        return folder_name([getattr(self, name) for name in _NAMES], self.digest)


@dataclass(frozen=True, eq=False)
class Shard:
    """Features of the images ``start..stop-1`` of a dataset.

    Args:
        start: First image of the shard.
        stop: One past its last image.
        indices: Image that each row belongs to, int64, ``[n]``, ascending; an image of sampled pixels has several.
        features: Float32, ``[n, D]``.
        labels: Class of each row, int64, ``[n]``.
        logits: Output of the source head, float32, ``[n, K]``, or None.
        skipped: Image to file and reason, for images of the range that could not be read.
        seconds: Wall-clock time of the extraction.
        sha256: Digest of the file, hexadecimal; filled in by the store.
    """

    start: int
    stop: int
    indices: Tensor
    features: Tensor
    labels: Tensor
    logits: Tensor | None = None
    skipped: Mapping[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    sha256: str = ""

    @property
    def file(self) -> str:
        """Name of the file that holds this shard."""
        return f"{self.start:08d}-{self.sha256[:16]}.safetensors"

    def is_complete(self) -> bool:
        """Return whether each image of the range has its rows, in order, or a reason why it has none."""
        images = [index for index in range(self.start, self.stop) if index not in self.skipped]
        present = torch.unique_consecutive(self.indices).tolist()
        return present == images and len(self.features) == len(self.labels) == len(self.indices)


class FeatureStore:
    """Features on disk by content key, safe against kills, damage and several writers at once.

    Args:
        root: The folder of the setting ``store``; made when the first features are written.
        shard_size: Images per shard: what a kill can cost at most.
    """

    def __init__(self, root: str | Path, shard_size: int = 512) -> None:
        self.root = Path(root).expanduser()
        self.shard_size = shard_size

    def spans(self, total: int) -> list[tuple[int, int]]:
        """Return the ranges ``start, stop`` of the shards of a dataset of ``total`` images."""
        return [(start, min(start + self.shard_size, total)) for start in range(0, total, self.shard_size)]

    def folder(self, key: FeatureKey) -> Path:
        """Return the folder of a key's features; an existing one is found under any names."""
        return min(self.root.glob(f"*{key.digest[:16]}"), default=self.root / key.folder)

    def read(self, key: FeatureKey, total: int) -> dict[int, Shard]:
        """Read the shards that are finished and undamaged.

        A damaged file is named in the log and removed. What another key, format or shard size wrote counts as absent.

        Args:
            key: What decides the values.
            total: Number of images in the dataset.

        Returns:
            Shards by their ``start``, in order.

        Raises:
            StoreError: If a file is there and cannot be read.
        """
        spans = set(self.spans(total))
        shards: dict[int, Shard] = {}
        for path in sorted(self.folder(key).glob(f"*-{'?' * 16}.safetensors")):
            shard = self._read(path, key)
            if shard is not None and (shard.start, shard.stop) in spans and shard.is_complete():
                shards.setdefault(shard.start, shard)
        return shards

    def prepare(self, key: FeatureKey, total: int, shards: Collection[Shard] = ()) -> None:
        """Make the folder, clear what killed writers left, and write a first manifest.

        Called before an extraction, it shows that the folder can be written before any time is spent.

        Raises:
            StoreError: If the folder cannot be made or written.
        """
        folder = self.folder(key)
        with self._errors("write", folder):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".*.tmp"):
                with suppress(FileNotFoundError):
                    if time.time() - leftover.stat().st_mtime > _DEAD_AFTER:
                        leftover.unlink()
        self.describe(key, total, shards)

    def write(self, key: FeatureKey, shard: Shard) -> Shard:
        """Write one shard, whole or not at all.

        Returns:
            The shard with the digest of its file.

        Raises:
            StoreError: If it cannot be written; shards written before stay.
        """
        tensors = {"indices": shard.indices, "features": shard.features, "labels": shard.labels}
        if shard.logits is not None:
            tensors["logits"] = shard.logits
        facts = {"start": shard.start, "stop": shard.stop, "skipped": dict(shard.skipped), "seconds": shard.seconds}
        metadata = {"key": key.digest, "shard": json.dumps(facts), "versions": json.dumps(versions())}
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
        stored = replace(shard, sha256=hashlib.sha256(content).hexdigest())
        self._write(self.folder(key) / stored.file, content)
        return stored

    def describe(self, key: FeatureKey, total: int, shards: Collection[Shard]) -> None:
        """Write ``manifest.json``: the key, the versions, and what the folder holds so far.

        Raises:
            StoreError: If it cannot be written.
        """
        shards = sorted(shards, key=lambda shard: shard.start)
        seconds = sum(shard.seconds for shard in shards)
        done = sum(shard.stop - shard.start for shard in shards)
        manifest = {
            "key": asdict(key) | {"digest": key.digest},
            "versions": versions(),
            "complete": done == total,
            "images": total,
            "images_done": done,
            "seconds": seconds,
            "images_per_second": done / seconds if seconds else None,
            "skipped": [reason for shard in shards for reason in shard.skipped.values()],
            "shards": {shard.file: shard.sha256 for shard in shards},
        }
        content = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        self._write(self.folder(key) / "manifest.json", content.encode())

    def remove(self, key: FeatureKey) -> None:
        """Remove the features of a key.

        Raises:
            StoreError: If a file cannot be removed.
        """
        folder = self.folder(key)
        with self._errors("remove", folder):
            if folder.is_dir():
                shutil.rmtree(folder)

    @contextmanager
    def claim(self, digest: str) -> Iterator[bool]:
        """Claim a piece of work for this process until the block ends, or until the process dies.

        Args:
            digest: Identity of the work, hexadecimal.

        Yields:
            True if the claim succeeded, False if another process holds it.

        Raises:
            StoreError: If the store cannot be written.
        """
        folder = self.root / ".claims" / digest[:16]
        with self._errors("write", folder):
            lock = try_lock(folder)
        try:
            yield lock.is_locked
        finally:
            lock.release()

    def _write(self, path: Path, content: bytes) -> None:
        with self._errors("write", path):
            write_atomic(path, content)

    def _read(self, path: Path, key: FeatureKey) -> Shard | None:
        try:
            with self._errors("read", path):
                content = path.read_bytes()
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):  # another process found it damaged and removed it
                return None
            raise
        sha256 = hashlib.sha256(content).hexdigest()
        if path.stem.rpartition("-")[2] != sha256[:16]:
            _log.warning("%s is damaged (cut short or altered) and is removed; its images are extracted again.", path)
            with self._errors("remove", path):
                path.unlink(missing_ok=True)
            return None
        metadata = _metadata(content)
        if metadata.get("key") != key.digest:
            return None
        facts: dict[str, Any] = json.loads(metadata["shard"])
        facts["skipped"] = {int(index): reason for index, reason in facts["skipped"].items()}
        facts.update(safetensors.torch.load(content))
        return Shard(**facts, sha256=sha256)

    def _errors(self, action: str, path: Path) -> AbstractContextManager[None]:
        return storage_errors(f"store={self.root}", action, path, "Finished shards are kept.")


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file: eight bytes give the length of a JSON header that holds it."""
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return metadata
