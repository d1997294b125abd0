"""Extraction: right rows in the right order, resumed after any stop, and nothing done twice."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from itm.core.errors import DataError, ItmError, SettingError, StoreError, WorkerError
from itm.data.image_set import ImageSet, load_images
from itm.extraction.extract import extract
from itm.extraction.store import FeatureStore
from itm.models.backbone import load_backbone

FORK = multiprocessing.get_context("fork")


class TinyBackbone(nn.Module):
    """One convolution with the interface of a backbone; ``at_image[i]`` is called when image ``i`` reaches it."""

    name, model, pooling, dim = "tiny", "conv3", "gap", 4
    weights_digest, transform_text = "0", "resize 8"

    def __init__(self, at_image: dict[int, Callable[[], object]] | None = None) -> None:
        super().__init__()
        self.seen = 0
        self.at_image = at_image or {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    @staticmethod
    def transform(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image.resize((8, 8)))).permute(2, 0, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        for index in range(self.seen, self.seen + len(images)):
            self.at_image.get(index, int)()
        self.seen += len(images)
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        features = self.conv(images.float() / 255).mean(dim=(2, 3))
        return features, self.head(features)


@pytest.fixture
def images() -> ImageSet:
    """Twenty-two images of noise in three classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (22, 12, 10, 3), dtype=np.uint8)
    return ImageSet("noise", "train", ("a", "b", "c"), torch.arange(22) % 3, pixels, groups=torch.arange(22) // 2)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store", shard_size=6)


def run(images: ImageSet, store: FeatureStore, backbone: Any = None, **settings: Any) -> Any:
    return extract(backbone or TinyBackbone(), images, store, **{"workers": 0, "batch_size": 4} | settings)


def shard_files(store: FeatureStore) -> list[Path]:
    return sorted(store.root.glob("*/*.safetensors"))


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (0, 64), (1, 5), (2, 4), (None, 6)])
def test_rows_are_what_the_backbone_makes_of_each_image(
    images: ImageSet, store: FeatureStore, workers: int | None, batch_size: int
) -> None:
    backbone = TinyBackbone()
    with torch.no_grad():
        pixels = torch.stack([backbone.transform(images.image(i)) for i in range(len(images))])
        x, logits = TinyBackbone()(pixels.contiguous(memory_format=torch.channels_last))
    for cached in (False, True):
        found = extract(backbone, images, store, workers=workers, batch_size=batch_size)  # type: ignore[arg-type]
        assert found.cached is cached
        assert found.features.logits is not None
        torch.testing.assert_close(found.features.x, x)
        torch.testing.assert_close(found.features.logits, logits)
        assert torch.equal(found.features.y, images.labels)
        assert torch.equal(found.features.groups, images.groups)  # type: ignore[arg-type]
        assert not found.features.x.is_inference()
    assert [path.name[:8] for path in shard_files(store)] == ["00000000", "00000006", "00000012", "00000018"]


def test_stored_features_cost_neither_images_nor_passes(images: ImageSet, store: FeatureStore) -> None:
    first = run(images, store)
    idle = TinyBackbone()
    idle.transform = idle.forward = None  # type: ignore[assignment,method-assign]
    second = run(images, store, idle)
    assert (second.cached, second.seconds, second.images_per_second) == (True, first.seconds, first.images_per_second)
    assert second.images_per_second == pytest.approx(22 / second.seconds)
    assert torch.equal(first.features.x, second.features.x)


def test_global_random_state_is_left_alone(images: ImageSet, store: FeatureStore) -> None:
    before = torch.get_rng_state()
    run(images, store)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_model_data_or_precision_is_extracted_anew(images: ImageSet, store: FeatureStore) -> None:
    other = TinyBackbone()
    other.weights_digest = "1"
    mixed = run(images, store, precision="bf16")
    assert mixed.features.x.dtype == torch.float32
    found = [mixed, run(images, store), run(images, store, other), run(images.select(range(9)), store)]
    assert not any(extraction.cached for extraction in found)
    torch.testing.assert_close(found[0].features.x, found[1].features.x, atol=0.02, rtol=0.02)
    assert not torch.equal(found[0].features.x, found[1].features.x)
    assert run(images, store, precision=32).cached  # as YAML reads it


def _raise(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [KeyboardInterrupt(), torch.OutOfMemoryError()])
def test_interrupted_extraction_goes_on_where_it_stopped(
    images: ImageSet, store: FeatureStore, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        run(images, store, TinyBackbone({13: _raise(error)}))
    assert len(shard_files(store)) == 2
    backbone = TinyBackbone()
    assert torch.equal(run(images, store, backbone).features.x, run(images, FeatureStore(store.root / "b")).features.x)
    assert backbone.seen == 22 - 12


def test_kill_costs_one_shard_at_most(images: ImageSet, store: FeatureStore) -> None:
    def victim() -> None:
        torch.set_num_threads(1)  # the parent's thread pool does not survive the fork
        run(images, store, TinyBackbone({16: lambda: time.sleep(600)}))

    process = FORK.Process(target=victim)
    process.start()
    deadline = time.monotonic() + 600
    while len(shard_files(store)) < 2 and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    kept = {path: path.stat().st_mtime_ns for path in shard_files(store)}
    assert len(kept) == 2
    backbone = TinyBackbone()
    found = run(images, store, backbone)
    assert backbone.seen == 22 - 12
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert torch.equal(found.features.x, run(images, FeatureStore(store.root / "other")).features.x)


def _extract_beside_another(images: ImageSet, store: FeatureStore, barrier: Barrier) -> None:
    torch.set_num_threads(1)
    barrier.wait()
    run(images, store)


def test_two_processes_extract_into_one_store(images: ImageSet, store: FeatureStore) -> None:
    barrier = FORK.Barrier(2)
    processes = [FORK.Process(target=_extract_beside_another, args=(images, store, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    found = run(images, store)
    assert found.cached
    torch.testing.assert_close(found.features.x, run(images, FeatureStore(store.root / "other")).features.x)
    manifest = json.loads(next(store.root.glob("tiny*/manifest.json")).read_text())
    assert manifest["complete"]


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: content[:-1] + b"x"])
def test_only_a_damaged_shard_is_extracted_again(
    images: ImageSet, store: FeatureStore, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    first = run(images, store)
    path = shard_files(store)[2]
    path.write_bytes(damage(path.read_bytes()))
    backbone = TinyBackbone()
    second = run(images, store, backbone)
    assert (second.cached, backbone.seen) == (False, 6)
    assert torch.equal(second.features.x, first.features.x)
    assert sum(str(path) in message for message in caplog.messages) == 1
    assert run(images, store).cached


def test_full_disk_keeps_what_is_finished(
    images: ImageSet, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        monkeypatch.setattr(os, "fsync", lambda _: _raise(OSError(errno.ENOSPC, "No space left on device"))())

    with pytest.raises(StoreError, match=r"No space left on device.*store=<path>"):
        run(images, store, TinyBackbone({13: full}))
    monkeypatch.undo()
    backbone = TinyBackbone()
    run(images, store, backbone)
    assert backbone.seen == 22 - 12


def test_store_that_cannot_be_written_is_known_before_any_image(images: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    backbone = TinyBackbone({0: _raise(AssertionError("an image was computed"))})
    with pytest.raises(StoreError, match="store="):
        run(images, FeatureStore(tmp_path / "store"), backbone)


@pytest.fixture
def damaged(image_folder: Path) -> ImageSet:
    """Twenty files, of which the fourth and the eighth cannot be decoded."""
    (image_folder / "ant/3.png").write_bytes((image_folder / "ant/3.png").read_bytes()[:40])
    (image_folder / "ant/7.png").write_text("no image")
    found = load_images(str(image_folder)).select(range(16))
    items = sorted(image_folder.glob("*/*.png"))[:16]
    return replace(found, items=tuple(items), labels=torch.arange(16) % 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_images_leave_no_row_and_are_reported_each_time(
    damaged: ImageSet, store: FeatureStore, workers: int
) -> None:
    kept = [index for index in range(16) if index not in (3, 7)]
    whole = run(damaged.select(kept), FeatureStore(store.root / "whole"))
    for cached in (False, True):
        found = run(damaged, store, on_error="skip", workers=workers)
        assert found.cached is cached
        assert torch.equal(found.features.y, damaged.labels[kept])
        torch.testing.assert_close(found.features.x, whole.features.x)
        assert [Path("ant/3.png").name in reason or "7.png" in reason for reason in found.skipped] == [True, True]
    manifest = json.loads(next(store.root.glob("tiny*/manifest.json")).read_text())
    assert manifest["skipped"] == list(found.skipped)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_stops_and_is_named(damaged: ImageSet, store: FeatureStore, workers: int) -> None:
    with pytest.raises(DataError, match=r"ant/3\.png.*on_error=skip"):
        run(damaged, store, workers=workers)
    run(damaged, store, on_error="skip", workers=workers)
    with pytest.raises(DataError, match=r"ant/3\.png"):  # also when it was skipped before
        run(damaged, store, workers=workers)


def test_image_that_the_transform_refuses_is_named(images: ImageSet, store: FeatureStore) -> None:
    backbone = TinyBackbone()
    backbone.transform = lambda _: _raise(ValueError("too flat"))()  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(DataError, match=r"noise/train\[0\]: ValueError: too flat\. .*on_error=skip"):
        run(images, store, backbone)
    with pytest.raises(DataError, match=r"data=noise.*none can be read.*noise/train\[0\]"):
        run(images, store, backbone, on_error="skip")


def test_killed_worker_is_explained(images: ImageSet, store: FeatureStore) -> None:
    backbone = TinyBackbone()
    backbone.transform = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(WorkerError, match=r"workers=1: a decoding process ended early .*workers=0"):
        run(images, store, backbone, workers=1)


@pytest.mark.parametrize("victim", [0, 5, 21])
def test_one_killed_worker_costs_a_second_reading(
    images: ImageSet, store: FeatureStore, tmp_path: Path, victim: int, caplog: pytest.LogCaptureFixture
) -> None:
    expected = run(images, FeatureStore(tmp_path / "other", shard_size=6)).features
    backbone, mark = TinyBackbone(), tmp_path / "killed"
    shown = images.image(victim).tobytes()
    plain = backbone.transform

    def kill_once(image: Image.Image) -> Tensor:
        if image.tobytes() == shown and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(image)

    backbone.transform = kill_once  # type: ignore[method-assign]
    found = run(images, store, backbone, workers=2)
    assert mark.exists()
    assert torch.equal(found.features.x, expected.x)
    assert torch.equal(found.features.y, expected.y)
    assert "are read once more" in caplog.text


def test_death_of_a_worker_that_is_noticed_in_a_forward_pass_is_not_the_model_s(
    images: ImageSet, store: FeatureStore
) -> None:
    """Torch raises from a signal handler, at any point of the main process."""
    backbone = TinyBackbone()

    def interrupted(_: Tensor) -> tuple[Tensor, Tensor | None]:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    backbone.forward = interrupted  # type: ignore[method-assign,assignment]
    with pytest.raises(WorkerError, match=r"workers=1: a decoding process ended early \(DataLoader worker"):
        run(images, store, backbone, workers=1)
    with pytest.raises(RuntimeError, match="DataLoader worker"):  # without workers it is not about them
        run(images, store, backbone, workers=0)


def test_features_that_are_not_finite_are_kept_and_said(
    images: ImageSet, store: FeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = TinyBackbone()
    nn.init.constant_(backbone.conv.bias, torch.nan)  # type: ignore[arg-type]
    found = run(images, store, backbone)
    assert found.features.x.isnan().all()
    assert [(r.levelno, r.message) for r in caplog.records if r.levelno > logging.INFO] == [
        (logging.WARNING, "tiny: features are NaN or infinite in 22 of 22 rows of noise.")
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "gpu"}, "device=gpu: not known"),
        ({"device": "mps"}, "device=mps: .*finds no Apple GPU; set device=cpu"),
        ({"device": "cpu:0"}, "device=cpu:0: not known.*cpu, cuda, mps"),
        ({"precision": "fp16"}, "precision=fp16: not known.*16, 32, bf16"),
        ({"precision": "16"}, "precision=16: .*set precision=bf16 or 32"),
        ({"on_error": "ignore"}, "on_error=ignore: not known.*skip, stop"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"workers": -1}, "workers=-1"),
    ],
)
def test_settings_are_refused_by_name(
    images: ImageSet, store: FeatureStore, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        run(images, store, **settings)
    assert isinstance(caught.value, ItmError)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("count", "capability", "device", "precision", "message"),
    [
        (0, (9, 0), "cuda", "32", "device=cuda: .*set device=cpu"),
        (2, (9, 0), "cuda:2", "32", "device=cuda:2: this machine has cuda:0 to cuda:1"),
        (1, (7, 0), "cuda", "bf16", "precision=bf16: .*set precision=16 or 32"),
    ],
)
def test_gpu_settings_are_refused_by_name(
    images: ImageSet, store: FeatureStore, monkeypatch: pytest.MonkeyPatch,
    count: int, capability: tuple[int, int], device: str, precision: str, message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_70", "sm_90"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with pytest.raises(SettingError, match=message):
        run(images, store, device=device, precision=precision)


def test_a_real_backbone(image_folder: Path, store: FeatureStore) -> None:
    backbone = load_backbone("control", model="test_resnet", seed=1)
    images = load_images(str(image_folder))
    found = extract(backbone, images, store, workers=1)
    assert found.features.x.shape == (len(images), backbone.dim)
    with torch.no_grad():
        alone = backbone(backbone.transform(images.image(5))[None])[0]
    torch.testing.assert_close(found.features.x[5:6], alone, rtol=1e-4, atol=1e-5)
    assert extract(load_backbone("renamed", model="test_resnet", seed=1), images, store).cached
    assert not extract(load_backbone("control", model="test_resnet", seed=2), images, store).cached


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["32", "16"])
def test_gpu_agrees_with_cpu(images: ImageSet, store: FeatureStore, precision: str) -> None:
    found = run(images, store, device="cuda", precision=precision, workers=2)
    cpu = run(images, FeatureStore(store.root / "cpu"))
    torch.testing.assert_close(found.features.x, cpu.features.x, atol=2e-3, rtol=2e-3)
