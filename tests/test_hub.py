"""Datasets of Hugging Face, saved in a folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from itm.core.errors import DataError, SettingError
from itm.data.image_set import load_images
from itm.groundtruth.images import load_splits

pytestmark = pytest.mark.hf


def pictures(count: int) -> list[Image.Image]:
    return [Image.fromarray(np.full((6, 9, 3), 5 * i, np.uint8)) for i in range(count)]


def dataset(labels: list[int], names: tuple[str, ...] = ("ant", "bee", "unused"), **columns: Any) -> Any:
    import datasets

    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(names))}
        | {name: datasets.Value("string") for name in columns}
    )
    rows = {"picture": pictures(len(labels)), "kind": labels, **columns}
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """Saves splits to disk and returns ``hf:<folder>``."""

    def save(**parts: list[int]) -> str:
        import datasets

        datasets.disable_progress_bars()
        datasets.DatasetDict({split: dataset(labels) for split, labels in parts.items()}).save_to_disk(tmp_path / "x")
        return f"hf:{tmp_path / 'x'}"

    return save


def test_columns_are_found_by_type_and_official_splits_are_kept(saved: Callable[..., str]) -> None:
    data = saved(train=[0, 1, 0, 1, 1], validation=[1, 0, 1], test=[1, 0])
    train, test = load_images(data), load_images(data, "test")
    assert train.name == "x"
    assert train.classes == ("ant", "bee")
    assert train.labels.tolist() == [0, 1, 0, 1, 1]
    assert test.labels.tolist() == [1, 0]
    for index, picture in enumerate(pictures(5)):
        assert train.image(index).tobytes() == picture.tobytes()
    assert train.path(3).endswith("x/train[3]")
    assert load_images(data).fingerprint == train.fingerprint != test.fingerprint


def test_a_test_split_without_labels_gives_way_to_the_validation_split(saved: Callable[..., str]) -> None:
    data = saved(train=[0, 1, 0, 1, 1], validation=[1, 0, 1], test=[-1, -1])
    assert load_images(data, "test").labels.tolist() == [1, 0, 1]


def test_a_single_dataset_is_split_with_the_seed(tmp_path: Path) -> None:
    dataset([0, 1] * 10).save_to_disk(tmp_path / "single")
    data = f"hf:{tmp_path / 'single'}"
    assert (len(load_images(data)), len(load_images(data, "test"))) == (16, 4)
    splits = ["train"] * 15 + ["test"] * 5
    dataset([0, 1] * 10, fold=splits).save_to_disk(tmp_path / "column")
    assert len(load_images(f"hf:{tmp_path / 'column'}", "test", columns={"split": "fold"})) == 5


def test_a_dataset_of_the_package_is_read_from_python() -> None:
    images = load_images(dataset([0, 1] * 10))
    assert images.classes == ("ant", "bee")
    assert len(images) == 16


def test_a_parquet_file_of_the_package_keeps_the_names_of_classes(tmp_path: Path) -> None:
    dataset([0, 1] * 10).rename_columns({"picture": "image", "kind": "label"}).to_parquet(tmp_path / "x.parquet")
    images = load_images(tmp_path / "x.parquet")
    assert images.classes == ("ant", "bee")
    assert images.fingerprint == load_images(dataset([0, 1] * 10)).fingerprint


def test_the_ground_truth_reads_the_same_splits(saved: Callable[..., str]) -> None:
    data = saved(train=[0, 1] * 5, test=[1, 0])
    settings = {"name": data, "root": None, "limit": None, "test_limit": None, "on_error": "skip"}
    splits = load_splits(settings, 0, "validation")
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (8, 2, 2)


def test_mistakes_are_one_line(saved: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(train=[0, 1, 0, 1], test=[2, 0])
    with pytest.raises(DataError, match="the classes 'unused' of the held-out split do not train"):
        load_images(data)
    with pytest.raises(SettingError, match=r"data\.columns\.label=knd: not known. Did you mean 'kind'"):
        load_images(data, columns={"label": "knd"})
    with pytest.raises(DataError, match=r"a dataset of Hugging Face; give data=hf:/"):
        load_images(data.removeprefix("hf:"))
    with pytest.raises(DataError, match=r"the folder is not one that save_to_disk"):
        load_images(f"hf:{tmp_path}")
    with pytest.raises(DataError, match=r"the folder does not exist"):
        load_images("hf:/no/such/folder")
    with pytest.raises(SettingError, match=r"data\.config=x: data=digits has no configurations"):
        load_images("digits", config="x")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package datasets: pip install 'itm\[hf\]'"):
        load_images(data)


def test_without_a_network_the_way_around_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(name: str, config: str | None) -> None:
        asked.append((name, config))
        raise ConnectionError("Couldn't reach\nthe hub")

    asked: list[tuple[str, str | None]] = []
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        DataError, match=r"Couldn't reach the hub\. .*save_to_disk\('folder'\)\", and give data=hf:folder"
    ):
        load_images("hf:owner/name/small")
    with pytest.raises(DataError, match="Couldn't reach the hub"):
        load_images("hf:name", config="large")
    assert asked == [("owner/name", "small"), ("name", "large")]
