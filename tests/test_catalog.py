from __future__ import annotations

import gzip
import json
import pickle
import re
import struct
import urllib.error
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from conftest import Tree
from scipy.io import savemat

from itm.core.errors import DataError
from itm.data import catalog
from itm.data.catalog import CATALOG
from itm.data.image_set import load_images

Shown = dict[str, str]
"""Class by file name."""


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def dtd(root: Path) -> tuple[Shown, Shown]:
    parts = {
        "train": "dots/d1.jpg\nlined/l1.jpg\n",
        "val": "dots/d2.jpg\nlined/l2.jpg\n",
        "test": "dots/d3.jpg\nlined/l3.jpg",
    }
    write(root / "dtd/dtd/labels", {f"{part}1.txt": text for part, text in parts.items()})
    (root / "dtd/dtd/images").mkdir()
    return {"d1.jpg": "dots", "l1.jpg": "lined"}, {"d3.jpg": "dots", "l3.jpg": "lined"}


def pets(root: Path) -> tuple[Shown, Shown]:
    lists = {"trainval.txt": "great_dane_7 2 2 1\nSphynx_1 1 1 1\n", "test.txt": "Sphynx_2 1 1 1\ngreat_dane_8 2 2 1\n"}
    write(root / "oxford-iiit-pet/annotations", lists)
    (root / "oxford-iiit-pet/images").mkdir()
    return {"great_dane_7.jpg": "Great Dane", "Sphynx_1.jpg": "Sphynx"}, {
        "Sphynx_2.jpg": "Sphynx",
        "great_dane_8.jpg": "Great Dane",
    }


def food101(root: Path) -> tuple[Shown, Shown]:
    lists = {
        "train": {"ramen": ["ramen/5"], "apple_pie": ["apple_pie/1"]},
        "test": {"apple_pie": [], "ramen": ["ramen/6"]},
    }
    write(root / "food-101/meta", {f"{part}.json": json.dumps(files) for part, files in lists.items()})
    (root / "food-101/images").mkdir()
    return {"5.jpg": "ramen", "1.jpg": "apple_pie"}, {"6.jpg": "ramen"}


def aircraft(root: Path) -> tuple[Shown, Shown]:
    lists = {"variants.txt": "707-320\nCessna 172\n", "images_variant_train.txt": "001 Cessna 172\n002 707-320\n"}
    write(root / "fgvc-aircraft-2013b/data", lists | {"images_variant_test.txt": "003 Cessna 172\n"})
    return {"001.jpg": "Cessna 172", "002.jpg": "707-320"}, {"003.jpg": "Cessna 172"}


def flowers(root: Path) -> tuple[Shown, Shown]:
    (root / "flowers-102/jpg").mkdir(parents=True)
    savemat(root / "flowers-102/imagelabels.mat", {"labels": [2, 1, 2, 1, 1, 2]})
    savemat(root / "flowers-102/setid.mat", {"trnid": [1, 2], "valid": [4, 3], "tstid": [5, 6]})
    first, second = getattr(torchvision.datasets.Flowers102, "classes", ["class 1", "class 2"])[:2]
    files = [f"image_{i:05d}.jpg" for i in range(7)]
    return {files[1]: second, files[2]: first}, {files[5]: first, files[6]: second}


def stanford_cars(root: Path) -> tuple[Shown, Shown]:
    base = root / "stanford_cars"
    for folder in ("devkit", "cars_train", "cars_test"):
        (base / folder).mkdir(parents=True)
    savemat(base / "devkit/cars_meta.mat", {"class_names": np.array(["AM General Hummer", "Audi TT"], dtype=object)})
    for path, stem in (("devkit/cars_train_annos.mat", "a"), ("cars_test_annos_withlabels.mat", "b")):
        rows = np.array([(2, f"{stem}1.jpg"), (1, f"{stem}2.jpg")], dtype=[("class", object), ("fname", object)])
        savemat(base / path, {"annotations": rows})
    return {"a1.jpg": "Audi TT", "a2.jpg": "AM General Hummer"}, {"b1.jpg": "Audi TT", "b2.jpg": "AM General Hummer"}


def voc2007(root: Path) -> tuple[Shown, Shown]:
    def annotation(*objects: tuple[str, int]) -> str:
        box = "<xmax>{0}</xmax><xmin>1</xmin><ymin>1</ymin><ymax>{0}</ymax>"
        parts = (f"<object><name>{name}</name><bndbox>{box.format(side)}</bndbox></object>" for name, side in objects)
        return f"<annotation>{''.join(parts)}</annotation>"

    base = root / "VOCdevkit/VOC2007"
    write(base / "ImageSets/Main", {"train.txt": "000005\n000007\n", "test.txt": "000001\n"})
    write(
        base / "Annotations",
        {
            "000005.xml": annotation(("chair", 20), ("person", 90), ("chair", 60)),
            "000007.xml": annotation(("tvmonitor", 5)),
            "000001.xml": annotation(("dog", 40), ("person", 39)),
        },
    )
    return {"000005.jpg": "person", "000007.jpg": "tvmonitor"}, {"000001.jpg": "dog"}


LAYOUTS: dict[str, Callable[[Path], tuple[Shown, Shown]]] = {
    layout.__name__: layout for layout in (dtd, pets, food101, aircraft, flowers, stanford_cars, voc2007)
}


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes made-up files for the real ones, whose checksums torchvision knows."""
    for module in ("cifar", "flowers102"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *_: True)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.usefixtures("unchecked")
def test_files_labels_and_official_splits(tmp_path: Path, name: str) -> None:
    expected = LAYOUTS[name](tmp_path)
    for split, shown in zip(("train", "test"), expected, strict=True):
        images = load_images(name, split, root=tmp_path)
        assert {Path(images.path(i)).name: images.classes[images.labels[i]] for i in range(len(images))} == shown
        assert all(images.path(i).startswith(str(tmp_path)) for i in range(len(images)))
        assert images.license == CATALOG[name].license


def test_caltech101_has_30_training_images_per_class(tree: Tree) -> None:
    categories = {"BACKGROUND_Google": 3, "accordion": 33, "wrench": 31}
    root = tree(
        f"caltech101/101_ObjectCategories/{name}/image_{i:04d}.jpg" for name, n in categories.items() for i in range(n)
    )
    train, test = (load_images("caltech101", split, root=root) for split in ("train", "test"))
    assert train.classes == ("accordion", "wrench")
    assert torch.bincount(train.labels).tolist() == [30, 30]
    assert torch.bincount(test.labels).tolist() == [3, 1]
    assert not set(train.items) & set(test.items)
    assert (
        load_images("caltech101", root=root, seed=1).items != train.items == load_images("caltech101", root=root).items
    )


def test_sun397_has_50_images_per_class_and_split(tree: Tree) -> None:
    root = tree(f"SUN397/{name}/sun_{i:03d}.jpg" for name in ("a/abbey", "c/church/outdoor") for i in range(103))
    write(root / "SUN397", {"ClassName.txt": "/a/abbey\n/c/church/outdoor\n"})
    train, test = (load_images("sun397", split, root=root) for split in ("train", "test"))
    assert train.classes == ("abbey", "church/outdoor")
    for images in (train, test):
        assert torch.bincount(images.labels).tolist() == [50, 50]
        assert all(("outdoor" in images.path(i)) == (images.labels[i] == 1) for i in range(100))
    assert not set(train.items) & set(test.items)


@pytest.mark.parametrize(("name", "key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
@pytest.mark.usefixtures("unchecked")
def test_cifar(tmp_path: Path, name: str, key: str) -> None:
    data_class = torchvision.datasets.CIFAR10 if name == "cifar10" else torchvision.datasets.CIFAR100
    folder = tmp_path / data_class.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    for file, _ in data_class.train_list + data_class.test_list:
        batch = {"data": rng.integers(0, 256, (2, 3072), dtype=np.uint8), key: [1, 0]}
        (folder / file).write_bytes(pickle.dumps(batch))
    (folder / data_class.meta["filename"]).write_bytes(pickle.dumps({data_class.meta["key"]: ["cat", "dog"]}))
    for split in ("train", "test"):
        images, reference = load_images(name, split, root=tmp_path), data_class(tmp_path, train=split == "train")
        assert len(images) == len(reference)
        for i, (image, label) in enumerate(reference):
            assert images.image(i).tobytes() == image.tobytes()
            assert images.labels[i] == label


def test_fashion_mnist_reads_the_same_from_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, system, rng = tmp_path / "FashionMNIST/raw", tmp_path / "system", np.random.default_rng(0)
    raw.mkdir(parents=True)
    system.mkdir()
    for stem, n in (("train", 5), ("t10k", 3)):
        images, labels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), (np.arange(n, dtype=np.uint8) * 7 + 2) % 10
        for kind, header, values in (
            ("images-idx3", struct.pack(">4i", 2051, n, 28, 28), images),
            ("labels-idx1", struct.pack(">2i", 2049, n), labels),
        ):
            (raw / f"{stem}-{kind}-ubyte").write_bytes(header + values.tobytes())
            (system / f"{stem}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))
    for split, n in (("train", 5), ("test", 3)):
        monkeypatch.setattr(catalog, "SYSTEM_FASHION_MNIST", tmp_path / "nowhere")
        downloaded = load_images("fashion_mnist", split, root=tmp_path)
        monkeypatch.setattr(catalog, "SYSTEM_FASHION_MNIST", system)
        packaged = load_images("fashion_mnist", split, root=tmp_path / "unused")
        assert len(packaged) == n
        assert packaged.classes[2] == "Pullover"
        assert packaged.fingerprint == downloaded.fingerprint
        assert packaged.image(n - 1).tobytes() == downloaded.image(n - 1).tobytes()


def test_digits() -> None:
    from sklearn.datasets import load_digits

    train, test = load_images("digits"), load_images("digits", "test")
    assert (len(train), len(test)) == (1438, 359)
    whole = load_digits()
    shown = sorted(
        (np.asarray(s.image(i))[..., 0].tobytes(), int(s.labels[i])) for s in (train, test) for i in range(len(s))
    )
    # 16 grey levels above black spread over a byte: 16 becomes 255 and 8 becomes 127.5, rounded to even.
    spread = np.round(whole.data / 16 * 255).astype(np.uint8)
    assert shown == sorted((row.tobytes(), int(label)) for row, label in zip(spread, whole.target, strict=True))
    assert (torch.bincount(test.labels) / torch.bincount(train.labels) - 0.25).abs().max() < 0.01


def test_fashion_mnist_test_splits_the_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "SYSTEM_FASHION_MNIST", tmp_path)
    pixels = np.arange(3500).astype(">u2").view(np.uint8).reshape(3500, 2).repeat(392, axis=1)  # no two alike
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels.tobytes(), 1))
    labels = (np.arange(3500) % 10).astype(np.uint8)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels.tobytes()))
    train, test = (load_images("fashion_mnist_test", split) for split in ("train", "test"))
    assert torch.bincount(train.labels).tolist() == [100] * 10
    assert torch.bincount(test.labels).tolist() == [200] * 10
    whole, *parts = (
        {item.tobytes(): int(label) for item, label in zip(images.items, images.labels, strict=True)}
        for images in (load_images("fashion_mnist", "test"), train, test)
    )
    assert (len(whole), [len(part) for part in parts]) == (3500, [1000, 2000])
    assert not parts[0].keys() & parts[1].keys()
    assert all(part.items() <= whole.items() for part in parts)
    assert load_images("fashion_mnist_test", seed=1).fingerprint != train.fingerprint


def test_elpv() -> None:
    pytest.importorskip("elpv_dataset")
    train, test = load_images("elpv"), load_images("elpv", "test")
    assert (torch.bincount(train.labels) + torch.bincount(test.labels)).tolist() == [1508, 295, 106, 715]
    assert abs(len(test) - 2624 / 5) < 1
    assert train.image(0).size == (300, 300)
    assert "NC" in train.license


def test_elpv_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"data=elpv: .*uv run --extra demo.*pip install 'itm\[demo\]'"):
        load_images("elpv")


TORCHVISION = (
    *("aircraft", "caltech101", "cifar10", "cifar100", "dtd", "fashion_mnist", "fashion_mnist_test", "flowers"),
    *("food101", "pets", "sun397", "voc2007"),
)


@pytest.mark.parametrize("name", TORCHVISION)
def test_without_network_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr(catalog, "SYSTEM_FASHION_MNIST", tmp_path / "nowhere")
    with pytest.raises(DataError, match=rf"data={name}: .*data\.root=.*not known") as caught:
        load_images(name, root=tmp_path / "new")
    assert "\n" not in str(caught.value)
    command = re.search(r'python -c "(.*)"$', str(caught.value))
    assert command is not None
    # The command does what it promises: it asks the network, and for this dataset.
    with pytest.raises((urllib.error.URLError, RuntimeError)):
        exec(command[1])


def test_cars_cannot_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"stanford_cars/devkit/.*by hand|by hand.*stanford_cars/devkit/"):
        load_images("stanford_cars", root=tmp_path)


def test_what_is_damaged_is_said(tmp_path: Path) -> None:
    food101(tmp_path)
    (tmp_path / "food-101/meta/train.json").write_text('{"ramen": [')
    with pytest.raises(DataError, match=r"data=food101: Food101 in data\.root=.* is damaged"):
        load_images("food101", root=tmp_path)


def test_download_that_is_cut_short_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = iter([False, True])

    def download(self: torchvision.datasets.DTD) -> None:
        dtd(Path(self.root))
        if not next(network):
            (Path(self.root) / "dtd/dtd/labels/val1.txt").unlink()
            raise urllib.error.URLError("connection reset")

    monkeypatch.setattr(torchvision.datasets.DTD, "_download", download)
    with pytest.raises(DataError, match="connection reset"):
        load_images("dtd", root=tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    assert len(load_images("dtd", root=tmp_path / "new")) == 2
    assert len(load_images("dtd", "test", root=tmp_path / "new")) == 2
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["dtd"]


def test_download_joins_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pascal VOC's test images come in an archive of their own, into the folder of the training images."""
    voc2007(tmp_path)
    listing = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/test.txt"
    listing.unlink()

    def download(url: str, root: Path, **_: object) -> None:
        voc2007(Path(root))
        (Path(root) / "VOCdevkit/VOC2007/ImageSets/Main/train.txt").unlink()

    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", download)
    assert len(load_images("voc2007", root=tmp_path)) == 2
    assert len(load_images("voc2007", "test", root=tmp_path)) == 1
    assert len(load_images("voc2007", root=tmp_path)) == 2
