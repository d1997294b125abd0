from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Tree

from itm.core.errors import DataError
from itm.data.folders import read_folder


def names(root: Path, split: str, seed: int = 0) -> dict[str, list[str]]:
    """File names by class."""
    listing = read_folder(root, split, seed)
    found: dict[str, list[str]] = {name: [] for name in listing.classes}
    for item, label in zip(listing.items, listing.labels, strict=True):
        found[listing.classes[label]].append(Path(item).name)
    return found


def test_seeded_split(image_folder: Path) -> None:
    train, test = names(image_folder, "train"), names(image_folder, "test")
    assert {name: len(files) for name, files in train.items()} == {"ant": 8, "bee": 4, "cat": 4}
    assert {name: sorted(train[name] + test[name]) for name in train} == {
        "ant": [f"{i}.png" for i in range(10)],
        "bee": [f"{i}.png" for i in range(5)],
        "cat": [f"{i}.png" for i in range(5)],
    }
    assert names(image_folder, "train") == train
    assert any(names(image_folder, "train", seed) != train for seed in range(1, 5))


def test_a_class_with_one_image_trains(tree: Tree) -> None:
    root = tree((f"many/{i}.png" for i in range(9)), "one/a.png")
    for seed in range(5):
        assert names(root, "train", seed)["one"] == ["a.png"]
        assert names(root, "test", seed)["one"] == []


@pytest.mark.parametrize(
    ("train", "others", "used"),
    [
        ("train", ["val"], "val"),
        ("train", ["test"], "test"),
        ("train", ["val", "test"], "test"),
        ("Training", ["Validation"], "Validation"),
    ],
)
def test_own_split(tree: Tree, train: str, others: list[str], used: str) -> None:
    root = tree(
        (f"{train}/{name}/1.png" for name in ("a", "b", "c")), (f"{o}/{n}/{o}.png" for o in others for n in "ac")
    )
    assert names(root, "train") == {"a": ["1.png"], "b": ["1.png"], "c": ["1.png"]}
    assert names(root, "test") == {"a": [f"{used}.png"], "b": [], "c": [f"{used}.png"]}


def test_odd_names_depth_and_suffixes(tree: Tree, tmp_path: Path) -> None:
    root = tree(
        "Größe 1 (a)/x.PNG", "Größe 1 (a)/deep/er/y.jPeG", "日本/z.tif", "日本/.hidden.png", "日本/.thumbs/t.png"
    )
    tree(".cache/c.png", "loose.png", "日本/p.jpe", "日本/q.pnm")
    (root / "日本/readme.txt").write_text("no image")
    found = {name: sorted(names(root, "train")[name] + names(root, "test")[name]) for name in ("Größe 1 (a)", "日本")}
    assert found == {"Größe 1 (a)": ["x.PNG", "y.jPeG"], "日本": ["p.jpe", "q.pnm", "z.tif"]}


def test_names_that_are_no_utf8(tree: Tree) -> None:
    try:
        root = tree("caf\udce9/a.png", "caf\udce9/b.png", "tea/a.png", "tea/b.png")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8 names")
    assert list(names(root, "train")) == ["caf\\xe9", "tea"]


def test_linked_class_folder(tree: Tree, tmp_path: Path) -> None:
    root = tree("a/1.png", "a/2.png")
    tree("b/1.png", "b/2.png", root="elsewhere")
    (root / "b").symlink_to(tmp_path / "elsewhere/b")
    assert list(names(root, "train")) == ["a", "b"]


@pytest.mark.parametrize(
    ("files", "folders", "message"),
    [
        ([], [], "no class folder"),
        (["loose.png"], [], "no class folder"),
        (["only/1.png", "only/2.png"], [], "at least two classes, found only 'only'"),
        (["train/a/1.png", "train/b/1.png"], [], "at least two classes, found only 'train'"),
        (["a/1.png", "b/1.png"], ["empty one"], "no image in 'empty one'"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png"], ["train/c"], "no image in 'c'"),
        (
            ["train/a/1.png", "train/b/1.png", "val/c/1.png", "val/d d/1.png"],
            [],
            r"classes 'c', 'd d' are not in .*train",
        ),
        (["train/a/1.png", "train/b/1.png"], ["val/a"], "val: no image"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_errors(tree: Tree, files: list[str], folders: list[str], message: str, split: str) -> None:
    root = tree(files)
    for folder in ["", *folders]:
        (root / folder).mkdir(parents=True, exist_ok=True)
    with pytest.raises(DataError, match=message) as caught:
        read_folder(root, split, 0)
    assert str(root) in str(caught.value)


def test_folder_that_cannot_be_read(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied"):
        read_folder(image_folder, "train", 0)


def test_order_is_the_same_everywhere(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_folder(image_folder, "train", 0)
    monkeypatch.setattr(Path, "iterdir", lambda self, plain=Path.iterdir: iter(sorted(plain(self), reverse=True)))
    again = read_folder(image_folder, "train", 0)
    assert list(first.items) == list(again.items)
    assert torch.equal(torch.tensor(first.labels), torch.tensor(again.labels))
