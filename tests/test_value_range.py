from __future__ import annotations

import logging
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from itm.core.errors import DataError, SettingError
from itm.data import decode_image
from itm.data.decode import decode
from itm.data.image_set import ImageSet, load_images
from itm.data.value_range import PixelSettings, choose_range, to_bytes

RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


def png16(path: Path, values: NDArray[Any]) -> None:
    """Write a PNG of 16 bits with one to four channels, which Pillow cannot; rows are filtered by their left pixel."""
    height, width, count = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    rows = values.astype(">u2").view(np.uint8).reshape(height, -1)
    filtered = rows.copy()
    filtered[:, 2 * count :] -= rows[:, : -2 * count]

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    pixels = zlib.compress(b"".join(b"\1" + row.tobytes() for row in filtered))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def write(path: Path, values: NDArray[Any], **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        png16(path, values.reshape(*values.shape[:2], -1))
    else:
        tifffile.imwrite(path, values, **settings)


def dataset(root: Path, images: list[NDArray[Any]], suffix: str = ".png", **settings: Any) -> Path:
    """The same images in two classes of both splits."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            for i, values in enumerate(images):
                write(root / split / name / f"{i}{suffix}", values, **settings)
    return root


def shown(images: ImageSet, index: int) -> NDArray[np.int64]:
    return np.asarray(images.image(index)).astype(int)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RAMP, (0, 1)),
        (RAMP * 1.02, (0, 1)),
        (RAMP * 255, (0, 255)),
        (RAMP * 1023, (0, 1023)),
        (RAMP * 4095, (0, 4095)),
        (RAMP * 3000, (0, 4095)),
        (RAMP * 10_000, (0, 16383)),
        (RAMP * 16383, (0, 16383)),
        (RAMP * 65535, (0, 65535)),
        (np.array([0, 1]), (0, 1)),
    ],
)
def test_usual_ranges_are_recognised(values: NDArray[Any], expected: tuple[float, float]) -> None:
    assert choose_range(values) == expected


@pytest.mark.parametrize("low", [-1000.0, 29_000.0])
def test_other_ranges_go_from_the_smallest_to_the_largest_value(low: float) -> None:
    black, white = choose_range(low + RAMP * 2000)
    assert low <= black <= low + 4
    assert low + 1996 <= white <= low + 2000


@pytest.mark.parametrize("odd", [-9999.0, -32768.0, -999.0, -3.4028235e38, 1e20, np.nan, np.inf, -np.inf, 70_000.0])
@pytest.mark.parametrize("share", [1e-3, 0.5])
@pytest.mark.parametrize("white", [1, 4095])
def test_missing_pixels_do_not_decide(odd: float, share: float, white: int) -> None:
    values = RAMP.ravel() * white
    values[np.random.default_rng(0).permutation(len(values))[: int(share * len(values))]] = odd
    assert choose_range(values) == (0, white)


def test_one_hot_pixel_does_not_decide() -> None:
    values = RAMP.copy()
    values[3, 5] = 40
    assert choose_range(values) == (0, 1)


def test_values_without_a_finite_one_have_no_range() -> None:
    with pytest.raises(ValueError, match="no finite value"):
        choose_range(np.array([np.nan, np.inf]))


def test_scaling_clips_and_shows_missing_pixels_as_black() -> None:
    values = np.array([-5, 0, 50, 100, 300, np.nan, np.inf, -np.inf, 1e35, 77])
    assert to_bytes(values, (0, 100), nodata=77).tolist() == [0, 0, 128, 255, 255, 0, 255, 0, 0, 0]


GREY_AND_COLOUR: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "grey": lambda ramp: ramp,
    "colour": lambda ramp: np.stack([ramp, ramp.T, ramp[::-1]], axis=-1),
}


@pytest.mark.parametrize("form", GREY_AND_COLOUR)
@pytest.mark.parametrize(
    ("suffix", "dtype", "white"),
    [(".png", "uint16", 4095), (".tif", "uint16", 1023), (".tif", "float32", 1.02), (".tif", "float64", 1.0)],
)
def test_all_grey_levels_survive(tmp_path: Path, form: str, suffix: str, dtype: str, white: float) -> None:
    values = (GREY_AND_COLOUR[form](RAMP) * white).astype(dtype)
    colours = {"photometric": "rgb"} if form == "colour" and suffix == ".tif" else {}
    root = dataset(tmp_path / "set", [values], suffix, **colours)
    expected = np.rint(np.clip(values / {1.02: 1}.get(white, white), 0, 1) * 255).reshape(64, 64, -1)
    for split in ("train", "test"):
        assert np.abs(shown(load_images(root, split), 0) - expected).max() <= 1
    assert np.abs(np.asarray(decode_image(root / f"train/a/0{suffix}")).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("layout", [{"byteorder": ">"}, {"planarconfig": "separate"}, {"compression": "zlib"}])
def test_layouts_of_colour_tiffs(tmp_path: Path, layout: dict[str, Any]) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (40, 50, 3)).astype("uint16")
    stored = values.transpose(2, 0, 1) if "planarconfig" in layout else values
    write(tmp_path / "a.tif", np.ascontiguousarray(stored), photometric="rgb", **layout)
    assert np.abs(np.asarray(decode_image(tmp_path / "a.tif")) - values * (255 / 4095)).max() <= 0.51


@pytest.mark.parametrize("count", [2, 4])
def test_transparent_pixels_of_16_bits_are_white(tmp_path: Path, count: int) -> None:
    values = np.full((4, 4, count), 1000)
    values[..., -1] = 0
    values[0, 0] = [4095] * (count - 1) + [65535]
    values[0, 1] = [0] * (count - 1) + [65535]
    png16(tmp_path / "a.png", values)
    found = np.asarray(decode_image(tmp_path / "a.png"))
    assert found[1:].min() == 255
    assert found[0, :2].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_negatives_are_shown_bright_where_their_values_are_small(tmp_path: Path, dtype: str) -> None:
    values = (RAMP * (255 if dtype == "uint8" else 1 if dtype.startswith("f") else 4095)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    found = np.asarray(decode_image(tmp_path / "a.tif"))[..., 0]
    assert np.abs(found - (1 - RAMP) * 255).max() <= 1


def test_orientation_of_colours_of_16_bits(tmp_path: Path) -> None:
    values = np.zeros((2, 3, 3), "uint16")
    values[0, 0] = 4095
    write(tmp_path / "a.tif", values, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    found = np.asarray(decode_image(tmp_path / "a.tif"))[..., 0]
    assert found.tolist() == [[0, 255], [0, 0], [0, 0]]  # a quarter turn clockwise


def test_one_range_holds_for_the_whole_dataset(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    dark = (RAMP * 800).astype("uint16")
    root = dataset(tmp_path / "set", [(RAMP * 4095).astype("uint16"), dark])
    for name in ("a", "b"):  # the held-out split alone is darker
        write(root / "val" / name / "0.png", dark)
    for split in ("train", "test"):
        images = load_images(root, split)
        assert images.pixels.range == (0, 4095)
        assert shown(images, 1).max() == round(800 / 4095 * 255)
    assert pickle.loads(pickle.dumps(images)).image(1).tobytes() == images.image(1).tobytes()
    assert len([line for line in caplog.messages if "0 appears as black and 4095 as white" in line]) == 1


def test_missing_pixels_of_the_file_s_own_mark_are_black(tmp_path: Path) -> None:
    values = (RAMP * 4000).astype("float32")
    values[:30] = 5000
    mark = (42113, 2, 5, "5000", True)  # GDAL's tag
    root = dataset(tmp_path / "set", [values], ".tif", extratags=[mark])
    found = shown(load_images(root), 0)
    assert found[:30].max() == 0
    assert found[-1, -1, 0] == round(4000 / 4095 * 255)


def test_range_can_be_set(tmp_path: Path) -> None:
    root = dataset(tmp_path / "set", [(RAMP * 4095).astype("uint16")])
    chosen, wider, narrow = (load_images(root, range=span) for span in (None, [0, 8190], (0, 2047.5)))
    assert shown(wider, 0).max() == 128
    assert (shown(narrow, 0)[40:] == 255).all()
    assert len({images.fingerprint for images in (chosen, wider, narrow)}) == 3
    assert load_images(root, range=[0, 4095]).fingerprint == chosen.fingerprint


def test_plain_images_and_their_fingerprints_know_no_range(
    image_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, ranged = load_images(image_folder), load_images(image_folder, range=[0, 100])
    assert images.pixels.range is ranged.pixels.range is None
    assert images.fingerprint == ranged.fingerprint
    assert images.image(0).tobytes() == ranged.image(0).tobytes()
    assert "data.range has no effect" in caplog.text


def test_a_range_is_chosen_from_files_that_can_be_read(tmp_path: Path) -> None:
    root = dataset(tmp_path / "set", [(RAMP * 4095).astype("uint16")])
    (root / "train/a/bad.png").write_bytes((root / "train/a/0.png").read_bytes()[:60])
    (root / "train/a/bad.tif").write_bytes(b"II*\0" + bytes(9))
    assert load_images(root).pixels.range == (0, 4095)


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255), ("uint16", 4095), ("float32", 1)])
def test_bands_are_picked_and_counted_from_one(tmp_path: Path, dtype: str, white: int) -> None:
    values = (np.random.default_rng(0).random((20, 30, 13)) * white).astype(dtype)
    root = dataset(tmp_path / "set", [values], ".tif", photometric="minisblack", planarconfig="contig")
    with pytest.raises(DataError, match=r"it has 13 bands; set data\.bands"):
        load_images(root).image(0)
    images = load_images(root, bands=[4, 3, 13])
    expected = values[..., [3, 2, 12]].astype(float) * (255 / white)
    assert np.abs(shown(images, 0) - expected).max() <= 0.51
    grey = load_images(root, bands=[7])
    assert (shown(grey, 0) == shown(grey, 0)[..., :1]).all()
    assert np.abs(shown(grey, 0)[..., 0] - values[..., 6].astype(float) * (255 / white)).max() <= 0.51
    assert len({images.fingerprint, grey.fingerprint, load_images(root).fingerprint}) == 3
    with pytest.raises(DataError, match=r"it has 13 band\(s\), and data\.bands=\[1, 2, 14\] picks band 14"):
        load_images(root, bands=[1, 2, 14]).image(0)


def test_bands_of_plain_pictures_change_places(image_folder: Path) -> None:
    first = shown(load_images(image_folder), 0)
    assert (shown(load_images(image_folder, bands=[3, 2, 1]), 0) == first[..., ::-1]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"range": [0]}, r"data\.range=\[0\]: expected a list of 2 or more values"),
        ({"range": [5, 5]}, r"data\.range=\[5,5\]: expected the value of black below"),
        ({"range": ["a", 5]}, r"data\.range=a: expected a number"),
        ({"range": [0, np.inf]}, r"data\.range=inf: expected a finite number"),
        ({"bands": [3, 2]}, r"data\.bands=\[3, 2\]: expected three bands"),
        ({"bands": [0, 1, 2]}, r"data\.bands=0: expected a number of at least 1"),
        ({"bands": [1.5]}, r"data\.bands=1\.5: expected a whole number"),
        ({"range": "wide"}, r"data\.range=wide: expected a list"),
        ({"bands": 3}, r"data\.bands=3: "),
    ],
)
def test_mistaken_settings_are_named(image_folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        load_images(image_folder, **settings)
    assert "\n" not in str(caught.value)


def test_datasets_of_the_catalogue_take_no_range() -> None:
    with pytest.raises(SettingError, match="data=digits need neither"):
        load_images("digits", range=[0, 1])


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (np.zeros((4, 4, 5), "complex64"), {}, "real"),
        (
            np.zeros((3, 8, 8, 5), "uint16"),
            {"volumetric": True, "tile": (1, 16, 16), "planarconfig": "contig"},
            "volume",
        ),
    ],
)
def test_tiffs_that_are_not_pictures_are_refused(
    tmp_path: Path, values: NDArray[Any], settings: dict[str, Any], message: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", **settings)
    with pytest.raises(DataError, match=message):
        decode(tmp_path / "a.tif", PixelSettings(None, [3, 2, 1]))


def test_tiff_blocks_that_unpack_to_gigabytes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, np.zeros((64, 64, 5), "float32"), photometric="minisblack", planarconfig=1, compression=8)
    bomb = zlib.compress(bytes(20_000_000))
    length = file.stat().st_size
    with tifffile.TiffFile(file, mode="r+b") as opened:
        tags = opened.pages[0].tags
        tags["StripOffsets"].overwrite(length)
        tags["StripByteCounts"].overwrite(len(bomb))
    file.write_bytes(file.read_bytes()[:length] + bomb)
    with pytest.raises(DataError, match="unpacks to more pixels"):
        decode(file, PixelSettings(None, [3, 2, 1]))


def test_settings_are_values() -> None:
    assert PixelSettings([0, 1], None) == PixelSettings([0, 1], None)
