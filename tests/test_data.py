from __future__ import annotations

import os
import pickle
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tree
from PIL import Image

from itm.core.errors import DataError, SettingError
from itm.data.image_set import ImageSet, count_shared, default_root, load_images


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
        (__file__, "train", DataError, "is a file; expected a folder.*or a table .*csv, .*parquet"),
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
