"""One trial: the same numbers after a kill, within the available memory, and a record in every case."""

from __future__ import annotations

import errno
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from breaking import break_in

from itm.core.errors import DataError, SettingError, StoreError
from itm.core.provenance import peak_memory, reset_peak_memory
from itm.data.image_set import ImageSet
from itm.groundtruth.checkpoint import LastCheckpoint
from itm.groundtruth.grid import Grid
from itm.groundtruth.hardware import Hardware
from itm.groundtruth.images import ImageSplits
from itm.groundtruth.memory import Batching
from itm.groundtruth.module import FineTuneModule
from itm.groundtruth.protocol import Protocol
from itm.groundtruth.train import train_trial
from itm.groundtruth.trials import TrialStore
from itm.models.backbone import load_backbone

PROTOCOL = Protocol(epochs=4, batch_size=8, warmup_epochs=1)


class Killed(BaseException):
    """An error that no handler may swallow."""


def image_set(count: int, split: str) -> ImageSet:
    """Noise whose brightness depends on the class."""
    labels = torch.arange(count) % 2
    noise = np.random.default_rng(len(split)).integers(0, 128, (count, 20, 20, 3))
    return ImageSet(
        "noise", split, ("dark", "bright"), labels, (noise + 100 * labels.numpy()[:, None, None, None]).astype(np.uint8)
    )


IMAGES = ImageSplits(image_set(20, "train"), image_set(10, "test"))


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


@pytest.fixture
def store(tmp_path):
    return TrialStore(tmp_path)


@pytest.fixture(scope="module", params=["test_vit", "test_resnet"])
def backbone(request):
    return load_backbone("tiny", model=request.param, image_size=32)


@pytest.fixture(scope="module")
def vit():
    return load_backbone("tiny", model="test_vit", image_size=32)


def only_trial(backbone, protocol=PROTOCOL, **grid):
    return Grid(**{"lr": [1e-3], "weight_decay": [1e-2], "protocol": protocol, **grid}).trials(backbone, IMAGES)[0]


def train(store, backbone, trial=None, hardware=None):
    trial = trial or only_trial(backbone)
    store.folder(trial).mkdir(parents=True, exist_ok=True)
    return train_trial(trial, backbone, IMAGES, store, hardware)


def numbers(record):
    return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in record.history]


def test_resumed_training_ends_with_the_numbers_of_an_uninterrupted_one(store, backbone, tmp_path, monkeypatch):
    whole = train(TrialStore(tmp_path / "whole"), backbone)
    assert [epoch["epoch"] for epoch in whole.history] == [1, 2, 3, 4]
    assert whole.facts["trainable"] > 1e5
    assert whole.facts["images_per_second"] > 0
    with monkeypatch.context() as patch:
        break_in(patch, Killed(), lambda module, _: module.current_epoch == 2)
        with pytest.raises(Killed):
            train(store, backbone)
    assert LastCheckpoint(store.folder(only_trial(backbone))).find()
    seen = []
    break_in(monkeypatch, Killed(), lambda module, _: seen.append(module.current_epoch))
    resumed = train(store, backbone)
    assert min(seen) == 2, "the finished epochs are trained again"
    assert numbers(resumed) == numbers(whole)


def test_ctrl_c_stays_one_and_keeps_the_epochs(store, vit, monkeypatch):
    break_in(monkeypatch, KeyboardInterrupt(), lambda module, _: module.current_epoch == 1)
    with pytest.raises(KeyboardInterrupt):
        train(store, vit)
    assert LastCheckpoint(store.folder(only_trial(vit))).find()


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-100], lambda content: content[:999] + b"?" + content[1000:]]
)
def test_a_damaged_checkpoint_is_removed_and_training_starts_again(store, vit, monkeypatch, caplog, damage):
    with monkeypatch.context() as patch:
        break_in(patch, Killed(), lambda module, _: module.current_epoch == 1)
        with pytest.raises(Killed):
            train(store, vit)
    path = LastCheckpoint(store.folder(only_trial(vit))).find()
    path.write_bytes(damage(path.read_bytes()))
    record = train(store, vit)
    assert f"{path} is damaged" in caplog.text
    assert len(record.history) == 4


@pytest.mark.parametrize("damage", ["not utf-8", "empty", "missing", "folder"])
def test_a_checkpoint_without_a_valid_digest_is_removed_once_and_the_trial_runs(
    store, vit, monkeypatch, caplog, damage
):
    with monkeypatch.context() as patch:
        break_in(patch, Killed(), lambda module, _: module.current_epoch == 1)
        with pytest.raises(Killed):
            train(store, vit)
    digests = store.folder(only_trial(vit)) / "last.ckpt.sha256"
    if damage == "not utf-8":
        digests.write_bytes(b"\xff\xfe\x00")
    elif damage == "empty":
        digests.write_bytes(b"")
    else:
        digests.unlink()
    if damage == "folder":
        digests.mkdir()
    record = train(store, vit)
    assert (record.error, len(record.history)) == (None, 4)
    assert caplog.text.count("last.ckpt is damaged") == 1


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_no_part_behind(tmp_path):
    last = LastCheckpoint(tmp_path)
    last.save(lambda path: path.write_text("first"))

    def fill(path):
        path.write_text("sec")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match=r"^records: cannot write .*last\.ckpt \(No space left on device\)"):
        last.save(fill)
    assert last.find().read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]


def test_digests_that_are_a_folder_are_replaced_by_the_next_checkpoint(tmp_path):
    last = LastCheckpoint(tmp_path)
    last.digests.mkdir()
    last.save(lambda path: path.write_text("first"))
    assert last.find().read_text() == "first"


def test_a_kill_between_the_two_files_of_a_checkpoint_leaves_the_old_one(tmp_path, monkeypatch):
    last = LastCheckpoint(tmp_path)
    last.save(lambda path: path.write_text("first"))

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda old, new: die() if "ckpt.tmp" in old.name else old.rename(new))
        with pytest.raises(Killed):
            last.save(lambda path: path.write_text("second"))
    assert last.find().read_text() == "first"
    last.save(lambda path: path.write_text("third"))
    assert last.find().read_text() == "third"
    last.remove()
    assert list(tmp_path.iterdir()) == []


def test_out_of_memory_halves_the_images_at_once_and_keeps_the_batch(store, vit, tmp_path, monkeypatch, caplog):
    whole = train(TrialStore(tmp_path / "whole"), vit)
    break_in(
        monkeypatch,
        torch.OutOfMemoryError("CUDA out of memory"),
        lambda module, images: len(images) > (2 if module.current_epoch == 2 else 4),
    )
    record = train(store, vit)
    assert record.error is None
    assert record.facts["images_at_once"] == 2
    assert "4 images at once and the gradients of 2 such parts" in caplog.text
    assert "2 images at once and the gradients of 4 such parts" in caplog.text
    # neither batch normalisation nor dropout: the same gradients, so the same numbers but for rounding
    for one, other in zip(numbers(record), numbers(whole), strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def cpu_without_memory() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize("error", [cpu_without_memory(), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when")])
def test_memory_that_runs_out_elsewhere_halves_too(store, vit, monkeypatch, error):
    break_in(monkeypatch, error, lambda module, images: len(images) > 4)
    record = train(store, vit)
    assert record.error is None
    assert record.facts["images_at_once"] == 4


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the counter")
def test_peak_memory_is_counted_anew():
    block = torch.ones(100 * 2**20, dtype=torch.uint8)
    before = peak_memory("cpu")
    del block
    reset_peak_memory("cpu")
    assert peak_memory("cpu") < before - 50 * 2**20


def test_no_memory_for_a_single_image_is_a_failure(store, vit, monkeypatch):
    break_in(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), lambda module, images: True)
    record = train(store, vit)
    assert "one image at once" in record.error
    assert record.history == []


def test_a_loss_that_is_no_number_is_a_failure_with_the_good_epochs(store, vit, monkeypatch):
    step = FineTuneModule.training_step

    def poison(module, batch, index):
        if module.current_epoch == 2:
            module.head.weight.data.fill_(math.nan)
        return step(module, batch, index)

    monkeypatch.setattr(FineTuneModule, "training_step", poison)
    record = train(store, vit)
    assert record.error == "the training loss is nan in epoch 3"
    assert [epoch["epoch"] for epoch in record.history] == [1, 2]


def test_a_defect_in_training_is_a_failure_in_one_line(store, vit, monkeypatch):
    break_in(monkeypatch, RuntimeError("no kernel image\nCUDA kernel errors might"), lambda module, images: True)
    assert train(store, vit).error == "RuntimeError: no kernel image"


def test_an_adaptation_that_does_not_suit_the_network_fails_the_trial(store):
    resnet = load_backbone("tiny", model="test_resnet", image_size=32)
    record = train(store, resnet, only_trial(resnet, adaptation="vpt"))
    assert record.error.startswith("adaptation=vpt:")
    linear = train(store, resnet, only_trial(resnet, adaptation="linear"))
    assert linear.facts["trainable"] == (resnet.dim + 1) * 2


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_stops_everything(store, vit, tmp_path, workers):
    path = tmp_path / "bee.png"
    path.write_bytes(b"no image")
    broken = ImageSet("noise", "train", ("a", "b"), torch.tensor([0, 1]), (path, path))
    with pytest.raises(DataError, match=r"bee\.png"):
        train_trial(only_trial(vit), vit, ImageSplits(broken, IMAGES.test), store, Hardware(workers=workers))


@pytest.mark.parametrize(
    ("images", "batch_size", "at_once", "expected"),
    [
        (1000, 64, 64, (64, 1, 15)),
        (1000, 64, 256, (64, 1, 15)),
        (1000, 64, 16, (64, 4, 15)),
        (1000, 64, 48, (64, 2, 15)),
        (50, 64, 64, (50, 1, 1)),
        (51, 64, 32, (51, 2, 1)),
    ],
)
def test_batches_by_hand(images, batch_size, at_once, expected):
    batching = Batching.fitting(images, batch_size, at_once)
    assert (batching.size, batching.parts, batching.steps) == expected
    assert batching.micro <= at_once
    assert batching.steps * batching.parts * batching.micro <= images


def test_the_backbone_stays_as_it_is(store, vit):
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    train(store, vit, only_trial(vit, Protocol(epochs=1, batch_size=8, warmup_epochs=0)))
    assert all(torch.equal(before[name], value) for name, value in vit.state_dict().items())


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({"accelerator": "cpu", "precision": "16"}, "trainer.precision=16"),
        pytest.param(
            {"accelerator": "cuda", "precision": "16"},
            "no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device"),
        ),
    ],
)
def test_a_missing_device_or_precision_is_refused_before_training(trainer, words):
    settings = {
        "trainer": {"batch_size": 8, "workers": None, **trainer},
        "compile": False,
        "gradient_checkpointing": False,
    }
    with pytest.raises(SettingError, match=words):
        Hardware.from_settings(settings | {"gradient_checkpointing": False})


@pytest.mark.parametrize(
    ("capability", "precision", "words"),
    [
        ((7, 0), "16", "compute capability 7.0.*built for 7.5.*torch<2.11"),
        ((7, 5), "bf16", "trainer.precision=bf16: .*set trainer.precision=16 or 32"),
        ((12, 0), "bf16", None),
    ],
)
def test_a_gpu_that_does_not_suit_the_build_or_the_precision_is_refused(monkeypatch, capability, precision, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_75", "sm_90a", "sm_100", "compute_120"])
    hardware = Hardware(accelerator="cuda")
    with pytest.raises(SettingError, match=words) if words else nullcontext():
        hardware.check(precision)
