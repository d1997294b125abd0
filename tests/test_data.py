from __future__ import annotations

import os
import pickle
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from conftest import Tree
from PIL import Image
from torch import Tensor

from itm.core.errors import DataError, FeatureError, SettingError
from itm.core.features import Features
from itm.data.image_set import ImageSet, count_shared, default_root, load_images
from itm.groundtruth.datamodule import TransferData


def test_image_set(image_folder: Path) -> None:
    images = load_images(image_folder)
    assert (images.name, images.split, images.classes) == ("images", "train", ("ant", "bee", "cat"))
    assert images.labels.dtype == torch.int64
    assert len(images) == len(images.labels) == 16
    image, label = images[3]
    assert (image.mode, image.size, label) == ("RGB", (12, 8), 0)
    assert image.tobytes() == Image.open(images.path(3)).tobytes()
    assert Path(images.path(3)).parent.name == "ant"
    assert repr(images) == "ImageSet('images', 'train', 16 images, 3 classes)"  # no list of files, no pixels
    copy = pickle.loads(pickle.dumps(images))  # workers get a copy
    assert copy.image(3).tobytes() == image.tobytes()
    assert copy.fingerprint == images.fingerprint


def test_select(image_folder: Path) -> None:
    for images in (load_images(image_folder), load_images("digits", limit=40)):
        chosen = images.select(torch.tensor([7, 2]))
        assert chosen.labels.tolist() == images.labels[[7, 2]].tolist()
        assert [chosen.image(i).tobytes() for i in range(2)] == [images.image(i).tobytes() for i in (7, 2)]
        assert chosen.classes == images.classes
        assert chosen.fingerprint not in (images.fingerprint, images.select([2, 7]).fingerprint)


def test_paths_without_files() -> None:
    assert load_images("digits", "test").path(5) == "digits/test[5]"


def test_home_and_relative_folders(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(image_folder.parent))
    monkeypatch.chdir(image_folder)
    expected = load_images(image_folder).fingerprint
    for data in ("~/images", ".", "./", "../images/", Path("../images")):
        assert load_images(data).fingerprint == expected
        assert load_images(data).name == "images"


def test_default_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ITM_HOME", raising=False)
    assert default_root() == Path.home() / ".cache/itm/data"
    monkeypatch.setenv("ITM_HOME", "/somewhere")
    assert default_root() == Path("/somewhere/data")


def swap_content(folder: Path) -> None:
    a, b = folder / "ant/0.png", folder / "bee/0.png"
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def change_one_byte(folder: Path) -> None:
    path = folder / "ant/1.png"
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time


CHANGES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "nothing": (lambda folder: None, False),
    "times": (lambda folder: os.utime(folder / "ant/0.png", (0, 0)), False),
    "a text file": (lambda folder: (folder / "ant/notes.txt").write_text("new"), False),
    "one byte": (change_one_byte, True),
    "two files swapped": (swap_content, True),
    "one file moved to another class": (lambda folder: (folder / "ant/0.png").rename(folder / "bee/9.png"), True),
    "one label": (lambda folder: (folder / "ant/2.png").rename(folder / "bee/-.png"), True),  # the order stays
    "one file gone": (lambda folder: (folder / "cat/0.png").unlink(), True),
    "one file more": (lambda folder: shutil.copy(folder / "cat/0.png", folder / "cat/7.png"), True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_follows_the_content(tree: Tree, tmp_path: Path, change: str) -> None:
    root = tree(
        f"{part}/{name}/{i}.png" for part in ("train", "val") for name in ("ant", "bee", "cat") for i in range(3)
    )
    act, differs = CHANGES[change]
    shutil.copytree(root, tmp_path / "elsewhere")
    before = load_images(root).fingerprint
    act(tmp_path / "elsewhere/train")
    after = load_images(tmp_path / "elsewhere").fingerprint
    assert len(before) == 64
    assert (after != before) == differs


def test_fingerprint_follows_the_selection(image_folder: Path) -> None:
    prints = [load_images(image_folder, *args).fingerprint for args in (("train",), ("test",))]
    prints += [load_images(image_folder, seed=1).fingerprint, load_images(image_folder, limit=9).fingerprint]
    prints += [
        load_images("digits", split, limit=limit).fingerprint for split in ("train", "test") for limit in (20, 30)
    ]
    images = load_images(image_folder)
    prints += [replace(images, groups=torch.arange(16) // n).fingerprint for n in (2, 4)]
    assert len(set(prints)) == len(prints)


def test_unreadable_files_are_left_to_decoding(tree: Tree, tmp_path: Path) -> None:
    root = tree("a/1.png", "b/1.png", "b/2.png")
    (root / "a/2.png").symlink_to(tmp_path / "gone.png")
    images = [load_images(root, split) for split in ("train", "test")]
    assert all(s.fingerprint for s in images)
    with pytest.raises(DataError, match=r"a/2\.png: .*no such file"):
        [s.image(i) for s in images for i in range(len(s))]


def test_limit(image_folder: Path) -> None:
    counts = [torch.bincount(load_images(image_folder, limit=n).labels).tolist() for n in (3, 6, 8, 16, 1000)]
    assert counts == [[1, 1, 1], [2, 2, 2], [4, 2, 2], [8, 4, 4], [8, 4, 4]]
    first, second = (load_images("digits", limit=30, seed=seed) for seed in (0, 1))
    assert first.fingerprint == load_images("digits", limit=30).fingerprint != second.fingerprint
    assert torch.bincount(first.labels).tolist() == [3] * 10


def test_a_name_of_both_a_folder_and_a_dataset_is_refused(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree((f"{name}/{i}.png" for name in ("mine", "yours") for i in range(3)), root="digits")
    monkeypatch.chdir(root.parent)
    with pytest.raises(SettingError, match=r"data=digits: both .*data=\./digits .*data=catalog:digits"):
        load_images("digits")
    assert load_images("./digits").classes == load_images(root).classes == ("mine", "yours")
    dataset = load_images("catalog:digits")
    assert (dataset.name, len(dataset.classes)) == ("digits", 10)


@pytest.mark.parametrize("name", ["mit Leerzeichen ", "größe", "日本", "a\\b", "it's", "{x}", "a=b", "2024"])
def test_folders_of_any_name_are_found(tree: Tree, name: str) -> None:
    root = tree((f"{kind}/{i}.png" for kind in "ab" for i in range(3)), root=name)
    for typed in (str(root), f"{root}/", f"{root}//"):
        assert load_images(typed).name == name


def test_folder_names_of_another_normalisation_are_found(tree: Tree) -> None:
    root = tree((f"{kind}/{i}.png" for kind in "ab" for i in range(3)), root=unicodedata.normalize("NFD", "café"))
    assert load_images(unicodedata.normalize("NFC", str(root))).classes == ("a", "b")


def test_files_that_are_not_read_are_mentioned_once(image_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(3):
        (image_folder / f"ant/{i}.dcm").write_bytes(b"DICM")
    load_images(image_folder)
    load_images(image_folder, "test")
    assert [message for message in caplog.messages if "left out" in message] == [
        "data=images: left out: 3 .dcm (not read as images)."
    ]


def test_pixels_and_files_that_both_splits_share_are_counted(tree: Tree) -> None:
    root = tree(f"{part}/{name}/{i}.png" for part in ("train", "val") for name in "ab" for i in range(3))
    train, test = load_images(root), load_images(root, "test")
    assert count_shared(train, test) == 0
    shutil.copy(root / "train/a/0.png", root / "val/b/new name.png")
    shutil.copy(root / "train/a/1.png", root / "val/a/1.png")
    assert count_shared(train, load_images(root, "test")) == 2
    pixels = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2)
    sets = [ImageSet("x", "train", ("a", "b"), torch.arange(n) % 2, pixels[part]) for n, part in PARTS]
    assert count_shared(*sets) == 1


PARTS = ((3, slice(3)), (3, slice(2, 5)))


def test_missing_files_are_not_shared(tree: Tree, tmp_path: Path) -> None:
    root = tree("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png")
    for part in ("train", "val"):
        (root / part / "a/gone.png").symlink_to(tmp_path / "nowhere")
    assert count_shared(load_images(root), load_images(root, "test")) == 0


@pytest.mark.parametrize("limit", [2, 0, -1, 2.5, "many", True])
def test_limit_too_small(image_folder: Path, limit: Any) -> None:
    with pytest.raises(SettingError, match=rf"data\.limit={limit}: .*3 or more.*3 classes of images"):
        load_images(image_folder, limit=limit)


@pytest.mark.parametrize(
    ("data", "split", "error", "message"),
    [
        ("dgits", "train", SettingError, "data=dgits: .*Did you mean 'digits'.*folder of that name does not exist"),
        ("", "train", SettingError, "data=: not known"),
        ("./digitz", "train", DataError, r"data=\./digitz: no such folder"),
        (__file__, "train", DataError, "is a file; expected a folder.*Label files .* are not read"),
        (r"C:\Users\me", "train", DataError, "no such folder. Write / between folders"),
        ("~nobody-of-this-name/x", "train", DataError, "no such folder"),
        ("x" * 5000, "train", SettingError, "not known"),
        ("zero\0byte", "train", SettingError, "not known"),
        ("caf\udce9/x", "train", DataError, r"data=caf\\xe9/x: no such folder"),
        ("digits", "val", SettingError, "split=val: .*test, train"),
    ],
)
def test_mistyped(data: str, split: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load_images(data, split)
    assert "\n" not in str(caught.value)


def features(n: int = 100, groups: Tensor | None = None) -> Features:
    x = torch.arange(n, dtype=torch.float32)[:, None].repeat(1, 3)  # a row shows its number
    return Features(x, torch.arange(n) % 4, groups=groups)


def rows(loader: Any) -> list[int]:
    return [int(row) for x, _ in loader for row in x[:, 0]]


def test_batches_of_features() -> None:
    data = TransferData.from_features(features(103), batch_size=32, seed=3)
    train, held = data.train_dataloader(), data.val_dataloader()
    assert [len(x) for x, _ in train] == [32, 32]  # of 82 rows; the incomplete batch is left out
    assert [len(x) for x, _ in held] == [21]
    assert all(torch.equal(y, x[:, 0].long() % 4) for x, y in [*train, *held])
    assert not set(rows(train)) & set(rows(held))
    assert rows(held) == rows(held) == rows(data.test_dataloader()) != sorted(rows(held))
    assert rows(TransferData.from_features(features(103), seed=3, batch_size=32).train_dataloader()) == rows(train)


def test_small_training_part_is_one_batch() -> None:
    data = TransferData.from_features(features(10), batch_size=256)
    assert len(rows(data.train_dataloader())) == 8


def test_groups_of_features_stay_whole() -> None:
    groups = torch.arange(100) // 10
    data = TransferData.from_features(features(100, groups), batch_size=10)
    assert len({row // 10 for row in rows(data.val_dataloader())}) == 2
    assert len(rows(data.val_dataloader())) == 20


def test_features_that_cannot_be_split() -> None:
    with pytest.raises(SettingError, match="between 0 and 1"):
        TransferData.from_features(features(), train_fraction=1.5)
    with pytest.raises(FeatureError, match="two or more"):
        TransferData.from_features(features(1))


class Recorder(lightning.LightningModule):
    """Notes which rows each epoch shows."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[list[int]] = []
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.epochs[-1] += batch[0][:, 0].int().tolist()
        return self.weight * 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path: Path, epochs: int, resume: Path | None = None) -> tuple[list[list[int]], Path]:
    module = Recorder()
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=TransferData.from_features(features(), batch_size=20), ckpt_path=resume)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return module.epochs, tmp_path / "last.ckpt"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*LeafSpec:FutureWarning")
def test_resumed_training_sees_the_batches_it_would_have_seen(tmp_path: Path) -> None:
    whole, _ = fit(tmp_path, 3)
    assert sorted(whole[0]) == sorted(whole[1])
    assert whole[0] != whole[1] != whole[2]
    first, checkpoint = fit(tmp_path, 1)
    rest, _ = fit(tmp_path, 3, checkpoint)
    assert first + rest[-2:] == whole


def test_batches_of_images(image_folder: Path) -> None:
    def pixels(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    train, test = load_images(image_folder), load_images(image_folder, "test")
    data = TransferData.from_images(
        train, test, train_transform=lambda image: 255 - pixels(image), eval_transform=pixels, batch_size=6
    )
    assert [x.shape for x, _ in data.train_dataloader()] == [(6, 3, 8, 12)] * 2
    ((x, y),) = data.val_dataloader()
    assert y.tolist() == test.labels.tolist()
    assert torch.equal(x, torch.stack([pixels(image) for image, _ in (test[i] for i in range(4))]))
    shown = {tuple((255 - image[:, 0, 0]).tolist()) for x, _ in data.train_dataloader() for image in x}
    assert shown <= {train.image(i).getpixel((0, 0)) for i in range(16)}
