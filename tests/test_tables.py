"""Labelled images in tables: CSV, Parquet and DataFrames."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Tree
from PIL import Image

import itm
from itm.core.errors import DataError, ItmError, SettingError
from itm.data.image_set import ImageSet, load_images
from itm.groundtruth.images import load_splits


def names(images: ImageSet) -> dict[str, list[str]]:
    """File names by class."""
    found: dict[str, list[str]] = {name: [] for name in images.classes}
    for item, label in zip(images.items, images.labels.tolist(), strict=True):
        assert isinstance(item, Path)
        found[images.classes[label]].append(item.name)
    return {name: sorted(files) for name, files in found.items()}


def table(folder: Path, *lines: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


@pytest.fixture
def photos(tree: Tree) -> Path:
    return tree(f"{i}.png" for i in range(10))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_csv_of_any_dialect_gives_the_same_images(photos: Path, encoding: str, separator: str) -> None:
    rows = [f"{i}.png{separator}{('Äpfel', 'pears')[i % 2]}" for i in range(10)]
    path = table(photos, f"file{separator}class", *rows, encoding=encoding)
    train, test = load_images(path), load_images(str(path), "test")
    assert train.name == "labels.csv"
    assert train.classes == ("pears", "Äpfel")
    assert (len(train), len(test)) == (8, 2)
    both = names(train)["pears"] + names(test)["pears"]
    assert sorted(both) == ["1.png", "3.png", "5.png", "7.png", "9.png"]


def test_quoted_cells_hold_separators_and_absolute_paths_are_kept(tree: Tree, tmp_path: Path) -> None:
    root = tree("a, b.png", "c.png", "sub/d.png", "sub/e.png")
    path = table(
        tmp_path, "image,label", f'"{root}/a, b.png","x; y"', f"{root}/c.png,z", "images/sub/d.png,z",
        r"images\sub\e.png,x; y",
    )  # fmt: skip
    images = load_images(path, limit=None)
    assert images.classes == ("x; y", "z")
    everything = names(images)
    for name, files in names(load_images(path, "test")).items():
        everything[name] += files
    assert {name: sorted(files) for name, files in everything.items()} == {
        "x; y": ["a, b.png", "e.png"],
        "z": ["c.png", "d.png"],
    }


@pytest.mark.parametrize(
    ("words", "train", "test"),
    [
        (["train"] * 6 + ["test"] * 2 + ["val"] * 2, range(6), (6, 7)),
        (["Training"] * 6 + ["valid"] * 4, range(6), (6, 7, 8, 9)),
        (["0", "1", "2", "0", "1", "2", "0", "1", "2", "0"], (1, 2, 4, 5, 7, 8), (0, 3, 6, 9)),
    ],
)
def test_the_column_of_splits_decides(photos: Path, words: list[str], train: range, test: tuple[int, ...]) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]},{word}" for i, word in enumerate(words)]
    path = table(photos, "path,label,split", *rows)
    for split, expected in (("train", train), ("test", test)):
        found = sorted(int(Path(item).stem) for item in load_images(path, split).items)  # type: ignore[arg-type]
        assert found == list(expected)


def test_a_held_out_split_without_labels_is_passed_over(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        f"{i}.png,{'' if i > 7 else 'ab'[i % 2]},{'test' if i > 7 else 'val' if i > 5 else 'train'}" for i in range(10)
    ]
    images = load_images(table(photos, "path,label,split", *rows), "test")
    assert sorted(Path(item).name for item in images.items) == ["6.png", "7.png"]  # type: ignore[arg-type]
    assert "the split test have no labels" in caplog.text


def test_labels_stay_as_they_are_written_and_numbers_are_sorted_by_value(photos: Path) -> None:
    rows = [f"{i}.png,{('10', '9', '01', 'NA')[i % 4]}" for i in range(8)]
    assert load_images(table(photos, "path,label", *rows)).classes == ("01", "10", "9", "NA")
    rows = [f"{i}.png,{('10', '9')[i % 2]}" for i in range(8)]
    assert load_images(table(photos, "path,label", *rows)).classes == ("9", "10")


def test_columns_are_named_by_the_user(photos: Path) -> None:
    path = table(photos, "id,where,kind,label", *(f"{i},{i}.png,{'ab'[i % 2]},{i}" for i in range(10)))
    images = load_images(path, columns={"image": "where", "label": "kind"})
    assert images.classes == ("a", "b")
    with pytest.raises(SettingError, match=r"data\.columns\.label=knd: not known. Did you mean 'kind'"):
        load_images(path, columns={"image": "where", "label": "knd"})
    with pytest.raises(SettingError, match=r"data\.columns\.images: not known"):
        load_images(path, columns={"images": "where"})
    with pytest.raises(DataError, match=r"no column of images among 'id', 'where'.*data\.columns\.image=<column>"):
        load_images(path)
    with pytest.raises(SettingError, match=r"data\.columns: data=digits has no columns"):
        load_images("digits", columns={"label": "kind"})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "not readable as CSV"),
        (["path,label"], "no row below the header"),
        (["0.png,a", "1.png,b"], r"no column of images among '0\.png', 'a'"),
        (["path,label", "0.png,a", "gone.png,b", "lost.png,b"], r"2 of 3 images are missing .*images/gone\.png; paths"),
        (["path,label", "0.png,a,", "1.png,b,"], "a row has more cells than the header"),
        (["path,label", "0.png,a", ",b"], r"1 of 2 images are missing"),
        (["path,label", "0.png,a", "1.png,a"], r"at least two classes, found only 'a' in 'label'"),
        (
            ["path,label", "0.png,a", "1.png,", "2.png,nan"],
            r"2 of 3 rows have no label .*first in row 3.*on_error=skip",
        ),
        (["path,label", "0.png,a", "1.png,b", "0.png,b"], r"0\.png has two labels, 'a' and 'b' in row 4"),
        (["path,label,split", "0.png,a,train", "1.png,b,later"], r"the split 'later' is not known; expected train"),
        (["path,label,split", "0.png,a,test", "1.png,b,test"], r"no image of the split train, found 'test'"),
        (["path,label,split", "0.png,a,train", "1.png,b,"], r"row 3 has no split"),
        (
            ["path,label,split", "0.png,a,train", "1.png,b,train", "2.png,c,test"],
            r"the classes 'c' of the held-out split do not train",
        ),
    ],
)
def test_a_mistake_in_a_table_is_one_line(photos: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_images(table(photos, *lines))
    assert "\n" not in str(caught.value)
    assert "labels.csv" in str(caught.value)


def test_measured_numbers_are_not_classes(photos: Path) -> None:
    frame = pd.DataFrame({"image": ["0.png"] * 6000, "age": np.arange(6000) % 5000})
    frame["image"] = [Image.new("RGB", (1, 1))] * 6000
    with pytest.raises(DataError, match="'age' holds 5,000 different numbers in 6,000 rows: is this"):
        load_images(frame, columns={"label": "age"})
    thirty = frame[:60].assign(age=np.linspace(0, 1, 60))
    with pytest.raises(DataError, match="60 different numbers in 60 rows: is this regression"):
        load_images(thirty, columns={"label": "age"})
    ids = frame[:60].assign(age=[f"id {i}" for i in range(60)])
    with pytest.raises(DataError, match="each of 60 rows has a label of its own"):
        load_images(ids, columns={"label": "age"})
    species = frame.assign(age=np.arange(6000) % 1000)
    assert len(load_images(species, columns={"label": "age"}).classes) == 1000


def test_repeated_rows_count_once(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]}" for i in range(10)]
    path = table(photos, "path,label", *rows, *rows[:3])
    assert len(load_images(path)) + len(load_images(path, "test")) == 10
    assert "3 repeated rows are left out" in caplog.text


def test_skip_leaves_out_rows_without_a_label_and_keeps_missing_files_for_the_report(photos: Path) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]},{'train' if i < 8 else 'test'}" for i in range(10)]
    path = table(photos, "path,label,split", *rows, "gone.png,a,train", "9.png,,train")
    images = load_images(path, on_error="skip")
    assert len(images) == 9
    with pytest.raises(DataError, match=r"gone\.png: not readable as an image \(no such file\)"):
        images.image(8)
    nothing = table(photos, "path,label", "x.png,a", "y.png,b", name="nothing.csv")
    with pytest.raises(DataError, match="none of 2 images exists"):
        load_images(nothing, on_error="skip")


def test_pipes_and_folders_are_not_images(photos: Path) -> None:
    os.mkfifo(photos / "pipe.png")
    (photos / "folder.png").mkdir()
    path = table(photos, "path,label", "0.png,a", "pipe.png,b", "folder.png,b", "x" * 5000 + ".png,b")
    with pytest.raises(DataError, match=r"3 of 4 images are missing or not regular files, the first is .*pipe\.png"):
        load_images(path)
    os.mkfifo(photos / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe\.csv: cannot be read \(not a regular file\)"):
        load_images(photos / "pipe.csv")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        load_images(tmp_path / "gone.csv")


def test_the_fingerprint_follows_labels_and_images(photos: Path) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]},{'train' if i < 8 else 'test'}" for i in range(10)]
    path = table(photos, "path,label,split", *rows)
    whole = load_images(path)
    first, order = whole.fingerprint, whole.items
    assert load_images(path).fingerprint == first
    path.write_text("path,label,split\n" + "\n".join(["0.png,b,train", *rows[1:]]))
    changed = load_images(path)
    assert changed.items == order
    assert changed.fingerprint != first
    path.write_text("path,label,split\n" + "\n".join(rows))
    assert load_images(path).fingerprint == first
    index = [Path(item).name for item in order].index("4.png")  # type: ignore[arg-type]
    Image.new("RGB", (9, 9), "red").save(Path(order[index]))  # type: ignore[arg-type]
    assert load_images(path).fingerprint != first


def encoded(photos: Path, number: int) -> bytes:
    return (photos / f"{number}.png").read_bytes()


@pytest.mark.parametrize("kind", ["bytes", "struct", "path"])
def test_parquet_holds_files_or_their_paths(photos: Path, kind: str) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    cells: list[object] = [f"{i}.png" for i in range(10)]
    if kind == "bytes":
        cells = [encoded(photos, i) for i in range(10)]
    if kind == "struct":
        cells = [{"bytes": encoded(photos, i), "path": f"{i}.png"} for i in range(10)]
    labels = [i % 2 for i in range(10)]
    pd.DataFrame({"image": cells, "label": labels, "other": labels}).to_parquet(photos / "photos.parquet")
    images = load_images(photos / "photos.parquet")
    csv = load_images(table(photos, "path,label", *(f"{i}.png,{i % 2}" for i in range(10))))
    assert images.classes == ("0", "1")
    assert images.fingerprint == csv.fingerprint
    for index in range(len(csv)):
        assert images.image(index).tobytes() == csv.image(index).tobytes()


def test_parquet_decodes_raster_formats_only_and_names_the_row(photos: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    cells = [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", *(encoded(photos, i) for i in range(3))]
    splits = ["train", "train", "train", "test"]
    frame = pd.DataFrame({"image": cells, "label": ["a", "b", "a", "b"], "split": splits})
    frame.to_parquet(photos / "photos.parquet")
    with pytest.raises(DataError, match=r"photos\.parquet: row 1: not readable as an image \(no known image format\)"):
        load_images(photos / "photos.parquet").image(0)
    (photos / "broken.parquet").write_bytes(b"PAR1 not a table")
    with pytest.raises(DataError, match=r"broken\.parquet: not readable as Parquet"):
        load_images(photos / "broken.parquet")
    frame.assign(label=[["a", "b"]] * 4).to_parquet(photos / "lists.parquet")
    with pytest.raises(DataError, match=r"row 1: a label is .*; expected one class per image"):
        load_images(photos / "lists.parquet")


def test_wide_values_have_one_range_in_a_folder_and_in_a_table(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    cells, files = [], []
    for i in range(6):
        values = np.full((8, 8), 600 * (i + 1), np.uint16)
        values[0] = 4095 if i == 5 else 0
        file = BytesIO()
        Image.fromarray(values).save(file, "PNG")
        cells.append(file.getvalue())
        files.append(f"{i}.png")
        (tmp_path / f"{i}.png").write_bytes(file.getvalue())
    frame = pd.DataFrame({"image": cells, "label": ["a", "b"] * 3, "split": ["test", *["train"] * 5]})
    frame.to_parquet(tmp_path / "wide.parquet")
    held = load_images(tmp_path / "wide.parquet")
    listed = load_images(frame.assign(image=[str(tmp_path / file) for file in files]))
    assert held.pixels == listed.pixels
    assert held.pixels.range is not None
    assert tuple(held.pixels.range) == (0, 4095)
    assert held.fingerprint == listed.fingerprint
    assert [held.image(i).getpixel((0, 4)) for i in range(5)] == [listed.image(i).getpixel((0, 4)) for i in range(5)]
    arrays = load_images(frame.assign(image=[Image.open(tmp_path / file) for file in files]))
    assert arrays.image(2).getpixel((0, 4)) == held.image(2).getpixel((0, 4))


def test_a_dataframe_is_ranked(photos: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": [Image.open(photos / f"{i}.png") for i in range(10)], "label": list("ab") * 5})
    options = {"models": ["test_resnet"], "pretrained": False, "scorer": "knn", "store": tmp_path / "store"}
    first = itm.estimate(frame, **options)
    assert first.ranking.order == ["test_resnet"]
    assert "8 images" in repr(first.found.images) if first.found else False
    files = itm.estimate(frame.assign(image=[str(photos / f"{i}.png") for i in range(10)]), **options)
    assert files.ranking.scores == first.ranking.scores
    assert itm.estimate(itm.load_images(frame), **options).ranking.scores == first.ranking.scores
    with pytest.raises(ItmError, match=r"data=1\.5: expected a name, a folder, a table"):
        itm.estimate(1.5, **options)


def test_a_truncated_pillow_image_is_named_and_the_images_of_the_frame_stay_as_they_are(tree: Tree) -> None:
    root = tree(f"{i}.png" for i in range(8))
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "2.png")
    (root / "2.png").write_bytes((root / "2.png").read_bytes()[:2000])
    turned = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    turned.getexif()[0x0112] = 6
    opened = [turned, *(Image.open(root / f"{i}.png") for i in range(1, 8))]
    frame = pd.DataFrame({"image": opened, "label": list("ab") * 4, "split": ["train"] * 6 + ["test"] * 2})
    images = load_images(frame)
    with pytest.raises(DataError, match=r"DataFrame: row 2: not readable as an image \(.*truncated"):
        images.image(2)
    assert (images.image(0).size, images.image(0).getpixel((0, 0))) == ((2, 4), (255, 255, 255))
    assert (turned.size, turned.mode) == ((4, 2), "RGBA")
    assert images.digests.count(b"unreadable") == 1


def test_parquet_without_its_package_names_the_command(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"Parquet needs the package pyarrow: pip install 'itm\[parquet\]'"):
        load_images(photos / "x.parquet")


def test_bytes_are_read_by_threads_as_one_by_one(photos: Path) -> None:
    frame = pd.DataFrame({"image": [encoded(photos, i) for i in range(10)], "label": list("ab") * 5})
    images = load_images(frame)
    assert len(images.digests) == len(images)
    assert torch.equal(images.labels, load_images(frame).labels)


def test_the_command_takes_a_table_and_the_names_of_its_columns(photos: Path, run: Callable[..., Path]) -> None:
    path = table(photos, "datei;klasse", *(f"{i}.png;{'ab'[i % 2]}" for i in range(10)), "gone.png;a")
    words = ["models=[test_resnet]", "pretrained=false", "scorer=knn", "data.columns.label=klasse"]
    out = run(f"data={path}", "data.columns.image=datei", "data.on_error=skip", *words)
    assert "test_resnet" in (out / "ranking.csv").read_text()


def test_the_ground_truth_reads_the_splits_of_a_table(photos: Path) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]},{'train' if i < 6 else 'test'}" for i in range(10)]
    path = table(photos, "path,kind,split", *rows, "gone.png,a,test")
    settings = {"name": str(path), "root": None, "limit": None, "test_limit": None, "on_error": "skip"}
    splits = load_splits({**settings, "columns": {"label": "kind"}}, 0, "test")
    assert (len(splits.train), len(splits.test)) == (6, 4)
    assert [Path(reason.partition(":")[0]).name for reason in splits.skipped] == ["gone.png"]
