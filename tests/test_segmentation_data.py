"""Images with masks: folders, classes, checks, and the tiles of land cover."""

import numpy as np
import pytest
from PIL import Image

from itm.core.errors import DataError
from itm.data import land_cover, load_images
from itm.data.image_set import is_segmentation
from itm.data.mask_folders import has_masks

COLOURS = {"road": (128, 64, 128), "sky": (70, 130, 180), "void": (0, 0, 0)}


def write(folder, stem, mask, size=None):
    """Write an image of noise and its mask."""
    array = np.asarray(mask, dtype=np.uint8)
    height, width = array.shape[:2] if size is None else size
    pixels = np.random.default_rng(len(stem)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / "images" / f"{stem}.jpg")
    Image.fromarray(array).save(folder / "masks" / f"{stem}.png")


def halves(left, right, height=6, width=8):
    mask = np.full((height, width), left, dtype=np.uint8)
    mask[:, width // 2 :] = right
    return mask


@pytest.fixture
def indexed(tmp_path):
    for number in range(10):
        write(tmp_path, f"scene {number}", halves(7, 3 if number % 2 else 255))
    return tmp_path


def test_index_masks_become_classes_in_the_order_of_their_values(indexed):
    train, test = load_images(indexed), load_images(indexed, "test")
    assert train.classes == ("class 3", "class 7")
    assert (len(train), len(test)) == (8, 2)
    assert {train.path(i) for i in range(8)}.isdisjoint({test.path(i) for i in range(2)})
    for images in (train, test):
        for i in range(len(images)):
            odd = int(images.path(i)[-5]) % 2
            assert np.array_equal(images.mask(i), halves(1, 0 if odd else 255))


def test_classes_csv_names_values_and_may_count_255(indexed):
    (indexed / "classes.csv").write_text("name,value\nroad,7\nsky,3\nsea,255\n")
    images = load_images(indexed)
    assert images.classes == ("road", "sky", "sea")
    assert set(np.unique(images.mask(0))) <= {0, 1, 2}


def test_colours_are_listed_in_classes_csv_and_void_is_ignored(tmp_path):
    rows = "".join(f"{name},{r},{g},{b}\n" for name, (r, g, b) in COLOURS.items())
    for split in ("train", "val"):
        for number in range(3):
            mask = np.full((4, 6, 3), COLOURS["road"], dtype=np.uint8)
            mask[:, 3:] = COLOURS["sky"]
            mask[0] = COLOURS["void"]
            write(tmp_path / split, f"{number}", mask)
    (tmp_path / "classes.csv").write_text("name,r,g,b\n" + rows)
    test = load_images(tmp_path, "test")
    assert (test.classes, len(test)) == (("road", "sky"), 3)
    assert np.array_equal(test.mask(1), [[255] * 6, *[[0, 0, 0, 1, 1, 1]] * 3])


@pytest.mark.parametrize("beside", ["trainannot", "train_labels"])
def test_camvid_lies_in_folders_of_images_beside_folders_of_masks(tmp_path, beside):
    for split in ("train", "val", "test"):
        folder = tmp_path / "camvid" / split
        write(tmp_path / "parts", split, halves(3, 11))
        folder.mkdir(parents=True)
        masks = folder.with_name(beside.replace("train", split))
        masks.mkdir()
        (tmp_path / "parts/images" / f"{split}.jpg").rename(folder / f"{split}.jpg")
        (tmp_path / "parts/masks" / f"{split}.png").rename(masks / f"{split}_L.png")
    (tmp_path / "camvid/train/extra.jpg").write_bytes((tmp_path / "camvid/train/train.jpg").read_bytes())
    Image.fromarray(halves(8, 11)).save(tmp_path / "camvid" / beside / "extra.png")
    images = load_images("camvid", root=tmp_path)
    assert [images.classes[label] for label in images.labels] == ["car", "road"]
    assert set(np.unique(images.mask(1))) == {3, 255}
    assert [load_images("camvid", "test", root=tmp_path).path(0)[-8:]] == ["test.jpg"]


def test_wrong_masks_are_named_with_the_fix(tmp_path):
    def error(name, *, classes=None, **masks):
        folder = tmp_path / name
        write(folder, "good", halves(0, 1))
        for stem, (mask, size) in masks.items():
            write(folder, stem, mask, size)
        if classes is not None:
            (folder / "classes.csv").write_text(classes)
        with pytest.raises(DataError) as caught:
            load_images(folder)
        text = str(caught.value)
        assert "\n" not in text
        return text

    assert "bad.png: the mask has 8 x 6 pixels, its image" in error("size", bad=(halves(0, 1), (6, 9)))
    assert "bad.png: every pixel is ignored" in error("ignored", bad=(halves(255, 255), None))
    known = "name,value\na,0\nb,1\n"
    assert "bad.png: the value '9' has no class" in error("value", bad=(halves(0, 9), None), classes=known)
    colour = "name,r,g,b\na,0,0,0\nb,1,1,1\n"
    found = error("colour", bad=(np.full((6, 8, 3), (9, 8, 7)), None), classes=colour)
    assert "bad.png: the colour '9,8,7' (red,green,blue) is not in classes.csv" in found
    assert "bad.png: the mask holds colours; list them in classes.csv" in error(
        "unlisted", bad=(np.full((6, 8, 3), 4), None)
    )
    assert "line 3 has no name, value or colour" in error("lines", classes="name,value\na,0\nb,x\n")


def test_a_missing_mask_and_a_single_class_are_refused(tmp_path):
    write(tmp_path / "single", "one", halves(4, 255))
    write(tmp_path / "single", "two", halves(4, 4))
    with pytest.raises(DataError, match="show one class only, 'class 4'"):
        load_images(tmp_path / "single")
    write(tmp_path / "missing", "one", halves(0, 1))
    (tmp_path / "missing/masks/one.png").rename(tmp_path / "missing/masks/other.png")
    with pytest.raises(DataError, match=r"one\.jpg: no mask; expected .*masks/one\.png"):
        load_images(tmp_path / "missing")


def test_a_changed_mask_changes_the_fingerprint_and_labels_alone_keep_theirs(indexed, tmp_path_factory):
    before = load_images(indexed)
    assert load_images(indexed).fingerprint == before.fingerprint
    files = sorted((indexed / "masks").iterdir())
    Image.fromarray(halves(3, 7)).save(files[int(before.path(0)[-5])])
    assert load_images(indexed).fingerprint != before.fingerprint
    assert before.select([1, 0]).mask(0).tolist() == before.mask(1).tolist()
    assert is_segmentation(indexed)
    assert not has_masks(tmp_path_factory.mktemp("empty"))
    assert not is_segmentation("digits")


@pytest.mark.segmentation
def test_land_cover_has_271_tiles_in_bands_of_longitude():
    train, test = load_images("land_cover"), load_images("land_cover", "test")
    assert (len(train), len(test), len(train.classes)) == (203, 68, 9)
    counts = np.zeros(256, dtype=int)
    for images in (train, test):
        for i in range(len(images)):
            mask = images.mask(i)
            assert mask.shape == images.image(i).size == (108, 108)
            assert (mask == 0).mean() < 0.5
            counts += np.bincount(mask.ravel(), minlength=256)
    assert set(np.flatnonzero(counts)) == {*range(9), 255}
    assert set(train.digests).isdisjoint(test.digests)


@pytest.mark.segmentation
def test_land_cover_shows_white_ice_bright_deserts_dark_forests_and_blue_water():
    images = load_images("land_cover")
    pixels = np.concatenate([np.asarray(images.image(i), dtype=float).reshape(-1, 3) for i in range(len(images))])
    masks = np.concatenate([images.mask(i).ravel() for i in range(len(images))])
    colour = {name: pixels[masks == label].mean(axis=0) for label, name in enumerate(images.classes)}
    bright = {name: rgb.mean() for name, rgb in colour.items()}
    blue = {name: rgb[2] - rgb[0] for name, rgb in colour.items()}
    # aligned maps only: a mask that is shifted or upside down mixes these
    assert bright["snow and ice"] > bright["barren"] > bright["cropland"] > bright["broadleaf or mixed forest"]
    assert max(blue, key=blue.get) == "water"


def test_land_cover_without_its_packages_names_the_extra(monkeypatch):
    monkeypatch.setattr(land_cover, "find_spec", lambda package: None)
    land_cover._tiles.cache_clear()
    with pytest.raises(DataError, match=r"bmng\.jpg is missing\. Run the command with `uv run --extra segmentation`"):
        load_images("land_cover")
