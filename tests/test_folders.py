from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
import torch
from conftest import Tree

from itm.core.errors import DataError
from itm.data.folders import describe_left_out, read_folder


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
        ("train", ["dev"], "dev"),
        ("train", ["eval"], "eval"),
        ("train", ["validation", "dev"], "validation"),
        ("TRAIN", ["Hold-Out"], "Hold-Out"),
        ("train_images", ["val_images"], "val_images"),
        ("seg_train", ["seg_test", "seg_pred"], "seg_test"),
        ("images_train", ["images_dev"], "images_dev"),
        ("TrainImages", ["ValidSet"], "ValidSet"),
        ("train2017", ["val2017"], "val2017"),
        ("training_set", ["test_set"], "test_set"),
        ("trainset", ["testset"], "testset"),
        ("Train Data", ["Test"], "Test"),
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
        (["photos/a/1.png", "photos/b/1.png"], [], r"found only 'photos'.*one folder deeper, give data=.*photos\."),
        (["train/a/1.png", "train/b/1.png", "query/a/1.png"], [], "none of 'query' is named as a held-out split"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"], [], "classes 'c' are not in"),
        (["a/1.png", "nan/1.png"], [], "class folder 'nan' is named as a missing label"),
        (["a/1.png", " /1.png"], [], "class folder ' ' is named as a missing label"),
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


def test_words_beside_that_of_the_split_have_to_agree(tree: Tree) -> None:
    root = tree(f"{name}/{i}.png" for name in ("steam train", "crash test") for i in range(3))
    assert list(names(root, "train")) == ["crash test", "steam train"]


def test_a_class_of_trains_is_a_class(tree: Tree) -> None:
    root = tree(f"{name}/{i}.png" for name in ("bus", "train") for i in range(3))
    assert list(names(root, "train")) == ["bus", "train"]


@pytest.mark.parametrize("unlabelled", ["test/001.png", "test/images/001.png", "test/unknown/deep/001.png"])
def test_test_images_without_labels_are_passed_over(tree: Tree, unlabelled: str) -> None:
    root = tree((f"{part}/{name}/{part}.png" for part in ("train", "val") for name in "abc"), unlabelled)
    assert names(root, "train") == {key: ["train.png"] for key in "abc"}
    assert names(root, "test") == {key: ["val.png"] for key in "abc"}


@pytest.mark.parametrize("other", ["test/001.png", "test/images/001.png", None])
def test_training_images_are_split_where_no_others_have_labels(
    tree: Tree, other: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    root = tree((f"train/{name}/{i}.png" for name in "ab" for i in range(10)), *([other] if other else []))
    train, test = names(root, "train"), names(root, "test")
    assert {name: (len(train[name]), len(test[name])) for name in "ab"} == dict.fromkeys("ab", (8, 2))
    assert ("'test' has no class folders; a seeded fifth of train is held out" in caplog.text) == (other is not None)


def test_linked_folders_below_a_class_are_followed_once(tree: Tree, tmp_path: Path) -> None:
    root = tree("a/1.png", "b/1.png")
    tree("2023/x.png", "2023/more/y.png", root="pool")
    (root / "a/2023").symlink_to(tmp_path / "pool/2023")
    (root / "a/again").symlink_to(tmp_path / "pool/2023/more")
    for loop, target in (("self", "a"), ("up", "."), ("out", "..")):
        (root / "a" / loop).symlink_to((root / target).resolve())
    (root / "a/broken").symlink_to(root / "nowhere")
    found = [sorted(Path(item).name for item in read_folder(root, part, 0).items) for part in ("train", "test")]
    assert sorted(found[0] + found[1]) == ["1.png", "1.png", "x.png", "y.png"]


def test_folders_of_the_system_are_left_out(tree: Tree) -> None:
    root = tree("a/1.png", "a/2.png", "b/1.png", "b/2.png", "__MACOSX/a/._1.png", "@eaDir/a/1.png", "#recycle/3.png")
    tree("a/@eaDir/1.png/SYNOPHOTO_THUMB_M.png", "a/.thumbnails/1.png", "b/._1.png", "lost+found/x/1.png")
    found = {name: names(root, "train")[name] + names(root, "test")[name] for name in names(root, "train")}
    assert {name: sorted(files) for name, files in found.items()} == {"a": ["1.png", "2.png"], "b": ["1.png", "2.png"]}


@pytest.mark.parametrize("own_split", [True, False])
def test_names_that_differ_in_unicode_normalisation_are_one_class(tree: Tree, own_split: bool) -> None:
    composed, separate = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    parts = ("train/", "val/") if own_split else ("", "")
    root = tree(f"{parts[0]}{composed}/1.png", f"{parts[1]}{separate}/2.png", f"{parts[0]}tea/3.png")
    train, test = names(root, "train"), names(root, "test")
    assert list(train) == [composed, "tea"]
    assert sorted(train[composed] + test[composed]) == ["1.png", "2.png"]


@pytest.mark.parametrize("name", ["images/001.png", "train/002.png"])
@pytest.mark.parametrize("labels", ["labels.csv", "train/metadata.jsonl"])
def test_label_files_are_mentioned(tree: Tree, name: str, labels: str) -> None:
    root = tree(name)
    (root / labels).parent.mkdir(exist_ok=True)
    (root / labels).write_text("file,label\n001.png,a\n")
    if (root / "images").exists() and labels.startswith("train"):
        (root / labels).rename(root / "images/metadata.jsonl")
        (root / "train").rmdir()
    with pytest.raises(DataError, match=r"give data=\S+/labels\.csv\.|not read from metadata\.jsonl: save them as CSV"):
        read_folder(root, "train", 0)


def test_other_files_are_counted_by_their_ending(tree: Tree) -> None:
    root = tree("train/a/1.png", "train/b/1.png", "val/a/1.png")
    for name in ("train/a/x.SVG", "train/b/y.svg", "val/a/z.svg", "train/a/LICENSE", "val/a/n.txt"):
        (root / name).write_text("no picture")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._x.svg"):
        (root / "train/a" / name).write_text("system")
    left_out = read_folder(root, "train", 0).left_out
    assert left_out == {".svg": 3, "without an ending": 1, ".txt": 1}
    assert describe_left_out(left_out).startswith("left out: 3 .svg, 1 ")
    assert "itm[heif]" in describe_left_out({".heic": 2})


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
