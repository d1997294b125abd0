"""The feature store: identity, damage, kills, full disks and several writers."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from itm.core.errors import StoreError
from itm.extraction.store import FeatureKey, FeatureStore, Shard

KEY = FeatureKey("resnet18", "a1", "resize 8", "gap", "32", "f1", name="my resnet", dataset="blüten/x", split="train")


def shard(start: int, stop: int, fill: float = 0.0, skipped: dict[int, str] | None = None) -> Shard:
    skipped = skipped or {}
    indices = torch.tensor([index for index in range(start, stop) if index not in skipped], dtype=torch.int64)
    features = torch.arange(len(indices) * 3, dtype=torch.float32).view(-1, 3) + fill
    return Shard(start, stop, indices, features, indices % 2, features[:, :2] * 2, skipped, seconds=0.5)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """A store with two finished shards of four images each, of a dataset of ten."""
    store = FeatureStore(tmp_path / "store", shard_size=4)
    store.prepare(KEY, 10)
    stored = [store.write(KEY, shard(0, 4)), store.write(KEY, shard(4, 8, skipped={5: "b.png: damaged."}))]
    store.describe(KEY, 10, stored)
    return store


def files(store: FeatureStore) -> list[Path]:
    return sorted(store.folder(KEY).glob("*.safetensors"))


def test_names_do_not_count_and_everything_else_does() -> None:
    assert replace(KEY, name="a", dataset="b", split="c").digest == KEY.digest
    others = [replace(KEY, **{name: "other"}) for name in ("model", "weights", "transform", "pooling", "fingerprint")]
    others += [replace(KEY, precision="bf16"), replace(KEY, format=KEY.format + 1)]
    assert len({KEY.digest, *(key.digest for key in others)}) == len(others) + 1


def test_folder_can_be_read_by_people_and_made_on_any_disk() -> None:
    assert KEY.folder == f"my_resnet-bl_ten_x-train-{KEY.digest[:16]}"
    long = replace(KEY, name="../" + "ü" * 300).folder
    assert len(long.encode()) < 255
    assert not long.startswith(".")


def test_what_is_written_is_read(store: FeatureStore) -> None:
    shards = store.read(KEY, 10)
    assert list(shards) == [0, 4]
    for expected in (shard(0, 4), shard(4, 8, skipped={5: "b.png: damaged."})):
        found = shards[expected.start]
        for name in ("indices", "features", "labels", "logits"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)
        assert (found.stop, found.skipped, found.seconds) == (expected.stop, expected.skipped, expected.seconds)


def test_other_programs_can_read_and_check_it(store: FeatureStore) -> None:
    manifest = json.loads((store.folder(KEY) / "manifest.json").read_text("utf-8"))
    assert manifest["shards"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files(store)}
    assert manifest["key"]["dataset"] == "blüten/x"
    assert manifest["skipped"] == ["b.png: damaged."]
    assert (manifest["complete"], manifest["images_done"], manifest["images_per_second"]) == (False, 8, 8.0)
    assert torch.__version__.startswith(manifest["versions"]["torch"])
    with safe_open(files(store)[0], framework="pt") as opened:
        assert set(opened.keys()) == {"indices", "features", "labels", "logits"}


def test_renaming_finds_the_same_features(store: FeatureStore) -> None:
    renamed = replace(KEY, name="other", dataset="moved")
    assert store.folder(renamed) == store.folder(KEY)
    assert list(store.read(renamed, 10)) == [0, 4]


def _cut(content: bytes) -> bytes:
    return content[:-7]


def _flip(at: float, content: bytes) -> bytes:
    where = int(at * (len(content) - 1))
    return content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :]


@pytest.mark.parametrize(
    "damage", [_cut, lambda _: b"", *(lambda content, at=at: _flip(at, content) for at in (0, 0.1, 0.4, 0.9, 1))]
)
def test_damage_is_seen_said_and_cleared(store: FeatureStore, damage, caplog) -> None:  # type: ignore[no-untyped-def]
    path = files(store)[0]
    path.write_bytes(damage(path.read_bytes()))
    assert list(store.read(KEY, 10)) == [4]
    assert [(record.levelno, str(path) in record.message) for record in caplog.records] == [(logging.WARNING, True)]
    assert not path.exists()


@pytest.mark.parametrize("change", [{"format": KEY.format + 1}, {"precision": "bf16"}, {"fingerprint": "f2"}])
def test_what_another_format_or_key_wrote_is_absent(store: FeatureStore, change: dict[str, str]) -> None:
    other = replace(KEY, **change)
    assert store.read(other, 10) == {}
    shutil.copytree(store.folder(KEY), store.root / other.folder)
    assert store.read(other, 10) == {}
    assert list(store.read(KEY, 10)) == [0, 4]


def test_shards_of_another_size_or_with_a_row_missing_are_absent(store: FeatureStore) -> None:
    assert FeatureStore(store.root, shard_size=5).read(KEY, 10) == {}
    assert list(store.read(KEY, 7)) == [0]
    gap = replace(shard(8, 10), indices=torch.tensor([8, 8]))
    assert not gap.is_complete()
    store.write(KEY, gap)
    assert list(store.read(KEY, 10)) == [0, 4]


def test_a_shard_without_any_readable_image(store: FeatureStore) -> None:
    store.write(KEY, shard(8, 10, skipped={8: "x", 9: "y"}))
    assert store.read(KEY, 10)[8].features.shape == (0, 3)


def test_leftovers_of_killed_writers_are_cleared(store: FeatureStore) -> None:
    dead, alive = store.folder(KEY) / ".a.tmp", store.folder(KEY) / ".b.tmp"
    for path in (dead, alive):
        path.touch()
    os.utime(dead, (0, 0))
    store.prepare(KEY, 10)
    assert not dead.exists()
    assert alive.exists()


def test_full_disk_is_named_and_leaves_nothing_half_written(store: FeatureStore, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = sorted(store.folder(KEY).iterdir())
    with pytest.raises(
        StoreError, match=r"store=.*cannot write .*00000008-.* \(No space left on device\).*store=<path>"
    ):
        store.write(KEY, shard(8, 10))
    assert sorted(store.folder(KEY).iterdir()) == before
    assert list(store.read(KEY, 10)) == [0, 4]


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("mine")
    with pytest.raises(StoreError, match=r"store=.*store: cannot write .*store"):
        FeatureStore(tmp_path / "store").prepare(KEY, 10)
    assert (tmp_path / "store").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_folder_without_permission(store: FeatureStore) -> None:
    store.folder(KEY).chmod(0o500)
    assert list(store.read(KEY, 10)) == [0, 4]  # reading needs none
    with pytest.raises(StoreError, match="Permission denied"):
        store.write(KEY, shard(8, 10))


def test_unreadable_shard_is_named(store: FeatureStore, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(StoreError, match=r"cannot read .*00000000-.*Permission denied"):
        store.read(KEY, 10)


def _write_repeatedly(store: FeatureStore, fill: float) -> None:
    for repeat in range(30):
        store.prepare(KEY, 8)
        shards = [store.write(KEY, shard(start, start + 4, fill + repeat % 2)) for start in (0, 4)]
        store.describe(KEY, 8, shards)


def test_two_writers_of_different_values_leave_valid_content(tmp_path: Path, caplog) -> None:  # type: ignore[no-untyped-def]
    store = FeatureStore(tmp_path, shard_size=4)
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_write_repeatedly, args=(store, fill)) for fill in (0.0, 0.5)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        store.read(KEY, 8)
    assert [writer.exitcode for writer in writers] == [0, 0]
    shards = store.read(KEY, 8)
    assert list(shards) == [0, 4]
    assert all(float(found.features[0, 0]) in (0.0, 0.5, 1.0, 1.5) for found in shards.values())
    manifest = json.loads((store.folder(KEY) / "manifest.json").read_text())
    assert manifest["complete"]
    assert all((store.folder(KEY) / name).exists() for name in manifest["shards"])
    assert not caplog.records
    assert not list(store.folder(KEY).glob(".*"))
