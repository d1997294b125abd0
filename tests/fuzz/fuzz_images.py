"""Decode generated and damaged images; report every hang, traceback and growth of memory.

Run by hand: ``python tests/fuzz/fuzz_images.py --count 5000 --seed 0``. Each image is decoded in a child process. A
case fails if it takes more than ten seconds, ends in anything but an image or a DataError, or grows memory by 500 MB.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import resource
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

SECONDS, MEGABYTES = 10, 500
_CEILING = 3 << 30  # bytes of address space that a case may take beyond the child's own, to protect the machine
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")
_FORMATS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": _MODES,
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "PPM": ("1", "L", "RGB", "I;16"),
    "ICO": ("RGB", "RGBA"),
    "EPS": ("L", "RGB"),
    "TGA": ("L", "RGB"),
}
_SUFFIXES = (".png", ".jpg", ".gif", ".bmp", ".tif", ".webp", ".avif", ".jp2", ".ppm", ".pgm", ".jpeg")
_WORDS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Case(NamedTuple):
    """One file to decode.

    Args:
        kind: How it was made.
        content: Its bytes.
        suffix: The ending of its name.
        bands: Bands to pick, or None.
    """

    kind: str
    content: bytes
    suffix: str
    bands: tuple[int, ...] | None


class Outcome(NamedTuple):
    """Result of a case: ``image``, ``refused``, or a failure with its text."""

    word: str
    text: str = ""


def cases(count: int, seed: int) -> Iterator[Case]:
    """Generate cases; a case depends on the seed and its number alone."""
    makers: tuple[Callable[[np.random.Generator], tuple[str, bytes]], ...] = (_usual, _usual, _tiff, _png, _stretched)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        name, content = makers[rng.integers(len(makers))](rng)
        if rng.random() < 0.8:
            change = _CHANGES[rng.integers(len(_CHANGES))]
            name, content = f"{name}, {change.__name__.strip('_')}", change(content, rng)
        bands = (None, None, None, (1,), (3, 2, 1), (5, 4, 2))[rng.integers(6)]
        yield Case(name, content, _SUFFIXES[rng.integers(len(_SUFFIXES))], bands)


def check(case_list: Iterator[Case], *, report_every: int = 0) -> tuple[Counter[str], list[str]]:
    """Decode every case in a child process.

    Returns:
        The number of cases by outcome, and one text per failure.
    """
    counts: Counter[str] = Counter()
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        child = _Child(Path(folder))
        for number, case in enumerate(case_list):
            outcome = child.decode(case)
            counts[outcome.word] += 1
            if outcome.word not in ("image", "refused"):
                failures.append(f"case {number} ({case.kind}, {case.suffix}, {case.bands}): {outcome}")
            if report_every and (number + 1) % report_every == 0:
                print(f"{number + 1}: {dict(counts)}", flush=True)
        child.stop()
    return counts, failures


class _Child:
    """A process that decodes; a new one replaces it when it hangs, dies or has grown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._start()

    def _start(self) -> None:
        self.pipe, other = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(other, self.folder), daemon=True
        )
        self.process.start()
        other.close()

    def decode(self, case: Case) -> Outcome:
        self.pipe.send(case)
        try:
            outcome = self.pipe.recv() if self.pipe.poll(SECONDS) else Outcome("hang", f"more than {SECONDS} s")
        except EOFError:
            outcome = Outcome("died", f"exit code {self.process.exitcode}")
        if outcome.word not in ("image", "refused"):
            self.stop()
            self._start()
        return outcome

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, folder: Path) -> None:
    from itm.core.errors import DataError
    from itm.data.decode import decode
    from itm.data.stored import is_wide
    from itm.data.value_range import PixelSettings

    decode(_warm(folder))  # plug-ins are loaded now, so that they do not count as growth
    base = _peak()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _CEILING, size + _CEILING))
    while True:
        case: Case = pipe.recv()
        path = folder / f"case{case.suffix}"
        path.write_bytes(case.content)
        try:
            is_wide(path)
            image = decode(path, PixelSettings(None, case.bands))
            scale = 64 / min(image.size)  # as a network's transform resizes the short side
            image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
            assert image.mode == "RGB"
            del image  # or it would count as the next case's memory
            outcome = Outcome("image")
        except DataError as error:
            outcome = Outcome("several lines", str(error)) if "\n" in str(error) else Outcome("refused")
        except BaseException:
            outcome = Outcome("traceback", traceback.format_exc())
        grown = (_peak() - base) >> 20
        pipe.send(Outcome("memory", f"{grown} MB more") if grown > MEGABYTES else outcome)


def _warm(folder: Path) -> Path:
    tifffile.imwrite(folder / "warm.tif", np.zeros((8, 8, 3), np.float32), photometric="rgb")
    return folder / "warm.tif"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _noise(rng: np.random.Generator, mode: str, size: tuple[int, int]) -> Image.Image:
    """An image of noise, constant areas and a gradient."""
    width, height = size
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2] = rng.integers(0, 256, 3)
    if mode in ("I;16", "I", "F"):
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        values = pixels[..., 0].astype(np.float64) * rng.choice([1e-3, 1, 16, 257])
        values[rng.random(values.shape) < 0.05] = rng.choice([-9999, 65535, 0])
        return Image.fromarray(values.clip(0 if mode == "I;16" else None, 65535).astype(dtype))
    image = Image.fromarray(pixels)
    return image.convert("RGBA").convert(mode) if mode in ("RGBA", "LA") else image.convert(mode)


def _size(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(1, 90)), int(rng.integers(1, 90))


def _usual(rng: np.random.Generator) -> tuple[str, bytes]:
    """A file as Pillow writes it."""
    kind = list(_FORMATS)[rng.integers(len(_FORMATS))]
    mode = _FORMATS[kind][rng.integers(len(_FORMATS[kind]))]
    buffer = io.BytesIO()
    settings: dict[str, object] = {}
    if rng.random() < 0.3 and kind in ("JPEG", "PNG", "WEBP"):
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(0, 12))
        settings["exif"] = exif
    if kind == "TIFF" and mode not in ("I", "F"):
        settings["compression"] = rng.choice(["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
    if kind == "PNG" and rng.random() < 0.3:
        texts = PngImagePlugin.PngInfo()
        texts.add_text("comment", "x" * int(rng.integers(1, 2_000_000)), zip=True)
        settings["pnginfo"] = texts
    _noise(rng, mode, _size(rng)).save(buffer, kind, **settings)
    return f"{kind} {mode}", buffer.getvalue()


def _tiff(rng: np.random.Generator) -> tuple[str, bytes]:
    """A TIFF of any numbers, bands and layout."""
    height, width = _size(rng)
    dtype = str(
        rng.choice(["uint8", "int8", "uint16", "int16", "uint32", "float16", "float32", "float64", "complex64"])
    )
    bands = int(rng.choice([1, 2, 3, 4, 5, 13]))
    planar = str(rng.choice(["contig", "separate"])) if bands > 1 else None
    shape = (bands, height, width) if planar == "separate" else (height, width, bands)
    values = (rng.random(shape) * rng.choice([1, 255, 4095, 60_000])).astype(dtype)
    if values.dtype.kind == "f" and rng.random() < 0.3:
        values.ravel()[:: int(rng.integers(1, 9))] = rng.choice([np.nan, np.inf, -9999, -3e38])
    settings: dict[str, object] = {"photometric": "rgb" if bands in (3, 4) else "minisblack", "planarconfig": planar}
    settings |= {"compression": rng.choice([None, "zlib"])} if dtype != "complex64" else {}
    settings |= {"byteorder": str(rng.choice(["<", ">"])), "bigtiff": bool(rng.random() < 0.2)}
    if rng.random() < 0.3:
        settings["tile"] = (16, 32)
    if rng.random() < 0.3:
        settings["extratags"] = [(42113, 2, 5, str(rng.choice(["-9999", "nan", "0", "x"])), True)]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values if bands > 1 else values[..., 0], **settings)
    return f"TIFF {dtype} x {bands}", buffer.getvalue()


def _png(rng: np.random.Generator) -> tuple[str, bytes]:
    """A PNG of any header, with chunks that Pillow does not write; some claim to be huge."""
    width, height = _size(rng)
    depth, kind = int(rng.choice([1, 2, 4, 8, 16, 3])), int(rng.choice([0, 2, 3, 4, 6, 5]))
    if rng.random() < 0.2:
        width, height = int(rng.choice([9_000, 30_000, 2**31 - 1])), int(rng.choice([1, 9_000, 60_000]))
    rows = zlib.compress(
        rng.integers(0, 5, 4_000, dtype=np.uint8).tobytes() + bytes(int(rng.choice([0, 10**5, 10**7])))
    )
    extra = bytes(rng.choice([b"zTXt", b"iTXt", b"tEXt", b"iCCP", b"tRNS", b"eXIf", b"gAMA", b"acTL", b"fdAT"]))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(rng.integers(2))))]
    chunks += [(extra.ljust(4, b"x"), rng.bytes(int(rng.integers(0, 60))))]
    chunks += [(b"PLTE", rng.bytes(768))] if kind == 3 else []
    chunks += [(b"IDAT", rows), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return f"PNG {depth} bits, colour type {kind}, {width} x {height}", b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _stretched(rng: np.random.Generator) -> tuple[str, bytes]:
    """An image that is extremely long, or large and empty."""
    long = int(rng.choice([500, 8_000, 60_000, 200_000]))
    size = (long, 1) if rng.random() < 0.5 else (1, long)
    mode = str(rng.choice(["1", "L", "P", "RGB", "RGBA", "I;16", "F"]))
    if rng.random() < 0.3:
        size, mode = (int(rng.choice([3_000, 8_000])),) * 2, str(rng.choice(["1", "L", "P"]))
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "TIFF" if mode == "F" else "PNG")
    return f"{mode} {size[0]} x {size[1]}", buffer.getvalue()


def _altered(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    for place in rng.integers(0, len(data), int(rng.integers(1, 12))):
        data[place] = rng.integers(256)
    return bytes(data)


def _altered_header(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    for place in rng.integers(0, min(len(data), 400), int(rng.integers(1, 5))):
        order = rng.choice(["<", ">"]) + rng.choice(["H", "I"])
        word = int(rng.choice(_WORDS))
        packed = struct.pack(order, word & 0xFFFF if order.endswith("H") else word)
        data[place : place + len(packed)] = packed
    return bytes(data)


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(0, len(content) + 1))]


def _joined(content: bytes, rng: np.random.Generator) -> bytes:
    start, stop = sorted(rng.integers(0, len(content) + 1, 2))
    return content[:stop] + content[start:]


def _zeroed(content: bytes, rng: np.random.Generator) -> bytes:
    start, stop = sorted(rng.integers(0, len(content) + 1, 2))
    return content[:start] + bytes(int(stop - start)) + content[stop:]


_CHANGES = (_altered, _altered, _altered_header, _altered_header, _cut, _joined, _zeroed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="number of images")
    parser.add_argument("--seed", type=int, default=0, help="another seed generates other images")
    arguments = parser.parse_args()
    start = time.monotonic()
    counts, failures = check(cases(arguments.count, arguments.seed), report_every=500)
    print(*failures, sep="\n")
    print(f"{arguments.count} images in {time.monotonic() - start:.0f} s: {dict(counts)}, {len(failures)} failures.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
