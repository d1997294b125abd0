from __future__ import annotations

import importlib
import os
import socket
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from itm.core.errors import DataError
from itm.data import decode as images
from itm.data.decode import as_rgb, decode
from itm.data.files import content_digest, display

RED = (255, 0, 0)
WHITE = (255, 255, 255)


def corner(image: Image.Image) -> tuple[int, ...]:
    assert image.mode == "RGB"
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


def palette(clear: int | bytes | None = None) -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    if clear is not None:
        image.info["transparency"] = clear
    return image


def transparent(mode: str, colour: tuple[int, ...], clear: object) -> Image.Image:
    image = Image.new(mode, (4, 4), colour if len(colour) > 1 else colour[0])
    image.info["transparency"] = clear
    return image


def numbers(values: object, dtype: str) -> Image.Image:
    return Image.fromarray(np.array(values, dtype))


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (palette(), "png", RED),
        (palette(clear=1), "png", WHITE),
        (palette(clear=1), "gif", WHITE),
        (palette(clear=b"\xff\x80"), "png", (255, 127, 127)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "png", WHITE),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 51)), "png", (255, 204, 204)),  # 0.2 red on 0.8 white
        (Image.new("RGBA", (4, 4), (255, 0, 0, 255)), "webp", RED),
        (Image.new("LA", (4, 4), (0, 0)), "png", WHITE),
        (Image.new("LA", (4, 4), (100, 255)), "png", (100, 100, 100)),
        (transparent("RGB", RED, RED), "png", WHITE),
        (transparent("L", (40,), 40), "png", WHITE),
        (Image.new("L", (4, 4), 77), "png", (77, 77, 77)),
        (Image.new("1", (4, 4), 1), "png", WHITE),
        (Image.new("1", (4, 4), 0), "tiff", (0, 0, 0)),
        (numbers([[32896, 65535]], "uint16"), "png", (128, 128, 128)),  # 32896 = 128 * 257
        (numbers([[2056, 4095]], "uint16"), "tiff", (128, 128, 128)),  # 12 bits in a file of 16
        (numbers([[32896, 65535]], "int32"), "tiff", (128, 128, 128)),
        (numbers([[200000, -200000, 0]], "int32"), "tiff", WHITE),
        (numbers([[0.5, 1, 0]], "float32"), "tiff", (128, 128, 128)),
        (numbers([[177, 3]], "float32"), "tiff", (177, 177, 177)),
        (numbers([[-1, 3, 1]], "float32"), "tiff", (0, 0, 0)),
        (numbers([[np.nan, 2, -2]], "float32"), "tiff", (0, 0, 0)),
        (numbers([[np.inf, 2, -2]], "float32"), "tiff", WHITE),
        (numbers([[5e5, 5e5]], "float32"), "tiff", (0, 0, 0)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "tiff", RED),
    ],
)
def test_modes(tmp_path: Path, image: Image.Image, suffix: str, expected: tuple[int, ...]) -> None:
    path = tmp_path / f"image.{suffix}"
    image.save(path, lossless=True) if suffix == "webp" else image.save(path)
    assert corner(decode(path)) == expected


def test_cmyk_jpeg(tmp_path: Path) -> None:
    """Adobe's CMYK files hold inverted values, and Pillow writes them so."""
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(np.subtract(corner(decode(tmp_path / "a.jpg")), RED)).max() < 8


def test_transparent_16_bit_grey(tmp_path: Path) -> None:
    numbers([[300, 300]], "uint16").save(tmp_path / "a.png", transparency=300)
    assert corner(decode(tmp_path / "a.png")) == WHITE


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa", "YCbCr", "HSV"])
def test_modes_that_few_files_have(mode: str) -> None:
    source = Image.new({"La": "LA", "RGBa": "RGBA", "PA": "PA"}.get(mode, mode), (4, 4))
    expected = WHITE if mode in ("PA", "La", "RGBa") else (0, 0, 0)
    if mode == "YCbCr":
        source.paste((0, 128, 128), (0, 0, 4, 4))
    assert corner(as_rgb(source.convert(mode))) == expected


# What a viewer does with the stored pixels for each EXIF orientation.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(("dtype", "suffix"), [("uint8", "png"), ("uint16", "png"), ("uint8", "webp")])
def test_orientation(tmp_path: Path, orientation: int, dtype: str, suffix: str) -> None:
    stored = np.arange(6, dtype=dtype).reshape(2, 3) * (40 if dtype == "uint8" else 40 * 257)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif, lossless=True)
    shown = np.asarray(decode(tmp_path / f"a.{suffix}"))[..., 0]
    assert shown.tolist() == UPRIGHT[orientation](np.arange(6).reshape(2, 3) * 40).tolist()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_passed_over(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), WHITE).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert corner(decode(tmp_path / "a.jpg")) == WHITE


def broken(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    {
        "html.jpg": lambda: path.write_text("<html>404 Not Found</html>"),
        "empty.png": lambda: path.touch(),
        "gone.png": lambda: None,
        "folder.png": lambda: path.mkdir(),
        "nan.tiff": lambda: numbers([[np.nan]], "float32").save(path),
    }.get(path.name, lambda: Image.fromarray(noise).save(path))()
    if path.stem == "truncated":
        path.write_bytes(path.read_bytes()[:-900])
    if path.stem == "altered":
        data = bytearray(path.read_bytes())
        data[5000:5100] = bytes(100)
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("html.jpg", "no known image format"),
        ("empty.png", "no known image format"),
        ("gone.png", "no such file"),
        ("folder.png", "directory"),
        ("truncated.jpg", "truncated"),
        ("truncated.png", "truncated"),
        ("truncated.bmp", "truncated"),
        ("truncated.tif", "not readable"),
        ("truncated.webp", "not readable"),
        ("altered.png", "not readable"),
        ("nan.tiff", "no finite value"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / "größer als 1" / name
    path.parent.mkdir()
    broken(path)
    with pytest.raises(DataError, match=reason) as caught:
        decode(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", ["a.jpg", "progressive.jpg"])
def test_huge_jpeg_is_shrunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Image.new("RGB", (200, 100), (20, 200, 30)).save(tmp_path / name, progressive=name.startswith("p"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15_000)
    image = decode(tmp_path / name)
    assert image.size == (100, 50)
    assert np.abs(np.subtract(corner(image), (20, 200, 30))).max() < 4


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("name", "limit"), [("a.png", 15_000), ("a.png", 5_000), ("a.jpg", 5_000)])
def test_huge_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=rf"{name}: .*pixels"):
        decode(tmp_path / name)


def test_huge_images_do_not_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15_000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Image.open(tmp_path / "a.jpg"):
            assert len(caught) == 1  # Pillow alone does
        importlib.reload(images).decode(tmp_path / "a.jpg")
        assert len(caught) == 1


def test_programs_with_the_name_of_a_picture_do_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "written"
    (tmp_path / "a.jpg").write_text(f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({mark}) (w) file closefile\n")
    with pytest.raises(DataError, match="no known image format"):
        decode(tmp_path / "a.jpg")
    assert not mark.exists()


@pytest.mark.parametrize("suffix", ["eps", "ico", "psd", "pcx", "tga", "icns"])
def test_formats_beyond_plain_pictures_are_not_opened(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (16, 16), RED).save(tmp_path / f"a.{suffix}") if suffix != "psd" else None
    file = tmp_path / "a.png"
    (tmp_path / f"a.{suffix}").rename(file) if suffix != "psd" else file.write_bytes(b"8BPS\0\1" + bytes(20))
    with pytest.raises(DataError, match="no known image format"):
        decode(file)


def test_pipes_devices_and_sockets_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket.jpg"))
        for name in ("pipe.jpg", "device.jpg", "socket.jpg"):
            with pytest.raises(DataError, match=rf"{name}: .*not a regular file"):
                decode(tmp_path / name)
            assert content_digest(tmp_path / name) == b"unreadable"


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_extremely_long_images_are_cut_to_their_middle(tmp_path: Path, turned: bool, dtype: str) -> None:
    stripe = np.zeros((1, 60_000), dtype)
    stripe[:, 29_975:30_025] = np.iinfo(dtype).max
    stripe[:, :20_000] = np.iinfo(dtype).max // 2
    Image.fromarray(stripe.T if turned else stripe).save(tmp_path / "a.png")
    shown = np.asarray(decode(tmp_path / "a.png"))
    assert shown.shape == ((50, 1, 3) if turned else (1, 50, 3))
    assert (shown == 255).all()


def test_images_of_usual_proportions_stay_whole(tmp_path: Path) -> None:
    Image.new("RGB", (200, 4)).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png").size == (200, 4)


def test_images_beyond_any_proportion_are_refused(tmp_path: Path) -> None:
    Image.new("1", (100_001, 1)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="100001 x 1 pixels are longer than 100,000 times"):
        decode(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "tEXt", "iCCP"])
def test_texts_and_profiles_that_cannot_be_read_do_not_hide_the_picture(tmp_path: Path, kind: str) -> None:
    """A text of three megabytes, of which Pillow takes one; and a chunk of garbage."""
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.png")
    plain = (tmp_path / "a.png").read_bytes()
    long = {
        "zTXt": b"prompt\0\0" + zlib.compress(b"x" * 3_000_000),
        "iTXt": b"prompt\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000),
        "tEXt": b"prompt\0" + b"x" * 3_000_000,
        "iCCP": b"profile\0\0" + zlib.compress(b"x" * 3_000_000),
    }[kind]
    for body in (long, b"\xff\xfe\0\7garbage", b""):
        chunk = struct.pack(">I", len(body)) + kind.encode() + body
        whole = plain[:33] + chunk + struct.pack(">I", zlib.crc32(kind.encode() + body)) + plain[33:]
        (tmp_path / "b.png").write_bytes(whole)
        assert corner(decode(tmp_path / "b.png")) == RED


def test_transparency_of_tall_images_is_the_same_everywhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (700, 20, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    whole = Image.alpha_composite(Image.new("RGBA", (20, 700), "white"), Image.fromarray(pixels)).convert("RGB")
    assert decode(tmp_path / "a.png").tobytes() == whole.tobytes()


def test_names_of_any_bytes_can_be_printed() -> None:
    path = Path("caf\udce9/größe.png")  # a Latin-1 name, as Python keeps it
    assert display(path).encode() == "caf\\xe9/größe.png".encode()
