"""Datasets of Python: sequences of pairs of image and label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets, transforms

import itm
from itm.core.errors import DataError, ItmError
from itm.data.image_set import load_images


class Pairs:
    """A sequence of pairs that counts its readings."""

    def __init__(self, images: list[Any], labels: list[Any], classes: list[str] | None = None) -> None:
        self.images, self.labels = images, labels
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.images[index], self.labels[index]


def colours(count: int) -> list[np.ndarray[Any, Any]]:
    return [np.full((4, 6, 3), 10 * i, np.uint8) for i in range(count)]


def test_fake_data_of_torchvision_gives_its_images_and_labels() -> None:
    data = datasets.FakeData(size=30, image_size=(3, 16, 16), num_classes=3)
    train, test = load_images(data), load_images(data, "test")
    assert train.name == "FakeData"
    assert len(train) + len(test) == 30
    for index in range(len(train)):
        row = int(train.path(index).removeprefix("FakeData[").removesuffix("]"))
        image, label = data[row]
        assert train.classes[train.labels[index]] == str(int(label))
        assert train.image(index).tobytes() == image.tobytes()
    assert load_images(data).fingerprint == train.fingerprint


def test_an_image_folder_of_torchvision_has_the_classes_and_pixels_of_the_folder(image_folder: Path) -> None:
    plain, folder = load_images(datasets.ImageFolder(str(image_folder))), load_images(image_folder)
    assert plain.classes == folder.classes
    assert plain.labels.tolist() == folder.labels.tolist()
    assert all(plain.image(i).tobytes() == folder.image(i).tobytes() for i in range(len(folder)))
    turned = datasets.ImageFolder(str(image_folder), target_transform=lambda label: (label + 1) % 3)
    assert load_images(turned).fingerprint != plain.fingerprint


@pytest.mark.parametrize("kind", ["array", "tensor", "float", "grey", "PIL"])
def test_arrays_tensors_and_images_are_one(kind: str) -> None:
    arrays = colours(10)
    shown: list[Any] = {
        "array": arrays,
        "tensor": [torch.from_numpy(array).permute(2, 0, 1) for array in arrays],
        "float": [transforms.functional.to_tensor(array) for array in arrays],
        "grey": [array[..., :1] for array in arrays],
        "PIL": [Image.fromarray(array) for array in arrays],
    }[kind]
    images = load_images(Pairs(shown, [0, 1] * 5), columns=None, range=[0, 1] if kind == "float" else None)
    for index in range(len(images)):
        row = int(images.path(index)[6:-1])
        assert np.asarray(images.image(index)).tolist() == arrays[row].tolist()


def test_the_fingerprint_follows_pixels_and_labels() -> None:
    base = load_images(Pairs(colours(10), [0, 1] * 5)).fingerprint
    assert load_images(Pairs([Image.fromarray(array) for array in colours(10)], [0, 1] * 5)).fingerprint == base
    altered = colours(10)
    for array in altered:
        array[0, 0, 0] += 1
    assert load_images(Pairs(altered, [0, 1] * 5)).fingerprint != base
    assert load_images(Pairs(colours(10), [1, 0] * 5)).fingerprint != base


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Pairs([], []), "data=Pairs: it is empty"),
        (Pairs(colours(4), [0, 0, 0, 0]), "at least two classes, found only '0'"),
        (Pairs(colours(4), [0, 1, 0, 7], ["a", "b"]), "the label '7' is not among the 2 classes"),
        (Pairs(colours(4), [[0, 1]] * 4), r"data=Pairs\[0\]: a label is list"),
        ([1, 2, 3], r"data=list\[0\]: expected a pair"),
        (iter([(1, 2)]), "expected a name, a folder, a table"),
    ],
)
def test_a_wrong_dataset_is_one_line(data: Any, message: str) -> None:
    with pytest.raises(ItmError, match=message) as caught:
        load_images(data)
    assert "\n" not in str(caught.value)


def test_images_that_change_are_refused(image_folder: Path) -> None:
    noise = transforms.Lambda(lambda image: torch.rand(3, 8, 8))
    with pytest.raises(DataError, match="gives another image each time; leave out random transforms"):
        load_images(datasets.ImageFolder(str(image_folder), transform=noise))


def test_an_unreadable_pair_is_named_or_left_out(image_folder: Path) -> None:
    class Broken(Pairs):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            if index == 3:
                raise OSError("no data")
            return super().__getitem__(index)

    data = Broken(colours(10), [0, 1] * 5)
    with pytest.raises(DataError, match=r"data=Broken\[3\]: cannot be read \(no data\).*on_error=skip"):
        load_images(data)
    assert len(load_images(data, on_error="skip")) + len(load_images(data, "test", on_error="skip")) == 9


def test_a_dataset_is_ranked_as_its_folder_is(image_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"models": ["test_resnet"], "pretrained": False, "scorer": "knn"}
    folder = itm.estimate(image_folder, **options, store=tmp_path / "a")
    data = itm.estimate(datasets.ImageFolder(str(image_folder)), **options, store=tmp_path / "b")
    assert data.ranking.scores == folder.ranking.scores
