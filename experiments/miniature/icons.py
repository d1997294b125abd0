"""Icons of installed themes and clip art as small images; the folder decides the label."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterable, Iterator
from configparser import ConfigParser, SectionProxy
from configparser import Error as ConfigError
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from experiments.miniature.backdrops import SIZE, compose, generator_of
from experiments.miniature.packages import Package
from itm.core.errors import DataError
from itm.data.files import formats

ICON_FOLDER = Path("/usr/share/icons")
"""Folder of the installed themes."""


class Theme(NamedTuple):
    """An icon theme: its package and the name of its folder."""

    package: Package
    folder: str


CORPUS_THEMES = (
    Theme(Package("breeze-icon-theme", "LGPL-3+"), "breeze"),
    Theme(Package("elementary-xfce-icon-theme", "GPL-2+, an emblem CC-BY-SA-2.0"), "elementary-xfce"),
    Theme(Package("gnome-icon-theme", "GPL-2+"), "gnome"),
    Theme(Package("mate-icon-theme", "LGPL-3+ or CC-BY-SA"), "mate"),
    Theme(Package("papirus-icon-theme", "GPL-3"), "Papirus"),
    Theme(Package("tango-icon-theme", "public domain"), "Tango"),
)

HELD_OUT_THEMES = (
    Theme(Package("moka-icon-theme", "CC-BY-SA-4.0 or GPL-3+"), "Moka"),
    Theme(Package("oxygen-icon-theme", "LGPL-3+"), "oxygen"),
)
"""Glossy icons with light and shade; the themes of the corpus are flat or drawn with outlines."""

LABELS = {
    "Actions": "actions",
    "Applications": "applications",
    "Categories": "categories",
    "Devices": "devices",
    "Emblems": "emblems",
    "Emotes": "emotes",
    "MimeTypes": "mimetypes",
    "Places": "places",
    "Status": "status",
}
"""Class by context of the Icon Theme Specification; few themes have its other contexts (animations, flags)."""

CLIPART = Package("openclipart-png", "public domain")
CLIPART_FOLDER = Path("/usr/share/openclipart/png")
"""Folder of the installed collection."""
CLIPART_CLASSES = ("animals", "buildings", "food", "people", "plants", "tools", "transportation")
"""Folders that name the object drawn; the others hold icons, shapes, flags and patterns."""

_MOST_PIXELS = 2**22
_LEAST_OPACITY = 0.02  # smallest mean opacity of an icon


class Icon(NamedTuple):
    """One icon file and its class."""

    file: Path
    label: str


def read_theme(root: Path) -> list[Icon]:
    """List a theme's icons, each with the file whose size is nearest to 32 pixels.

    Symbolic links, copies, one-coloured "symbolic" icons, icons for high-resolution screens and icons with several
    labels are skipped.

    Raises:
        DataError: If the theme's ``index.theme`` cannot be read.
    """
    nearest: dict[tuple[str, str], tuple[tuple[int, bool, str], Path]] = {}
    for name, section in _folders(root):
        label = LABELS.get(section.get("Context", ""))
        if label is None or section.get("Scale", "1") != "1" or "symbolic" in name:
            continue
        size = section.getint("Size", fallback=SIZE)
        for file in _files(root.resolve() / name):
            key, order = (label, file.stem), (abs(size - SIZE), size < SIZE, str(file))
            if key not in nearest or order < nearest[key][0]:
                nearest[key] = (order, file)
    icons = (Icon(file, label) for (label, _), (_, file) in sorted(nearest.items()))
    return _without_copies(icons)


def read_clipart(root: Path) -> list[Icon]:
    """List the drawings of :data:`CLIPART_CLASSES`, without copies and drawings above four megapixels."""
    listed = (Icon(file, label) for label in CLIPART_CLASSES for file in sorted((root / label).rglob("*.png")))
    return _without_copies(icon for icon in listed if _is_small(icon.file))


def rasterise(file: Path) -> Image.Image:
    """Rasterise an icon file, SVG or PNG, to 32 x 32 pixels, transparent where the aspect ratio leaves space.

    Raises:
        DataError: If the file cannot be read.
        ModuleNotFoundError: If the file is an SVG and the extra ``miniature`` is not installed.
    """
    try:
        if file.suffix == ".svg":
            import resvg_py  # of the extra `miniature`, which the targets do not need

            drawn = resvg_py.svg_to_bytes(svg_path=str(file), width=SIZE, skip_system_fonts=True)
            image = Image.open(io.BytesIO(bytes(drawn)), formats=("PNG",))
        else:
            image = Image.open(file, formats=formats())
        # Pillow weights colours by opacity when it scales, so invisible pixels do not bleed in.
        fitted = ImageOps.contain(image.convert("RGBA"), (SIZE, SIZE), Image.Resampling.BICUBIC)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not readable as an icon ({error}).") from error
    return ImageOps.pad(fitted, (SIZE, SIZE), color=(0, 0, 0, 0))


def draw(icons: Iterable[Icon], seed: int = 0) -> Iterator[NDArray[np.uint8] | None]:
    """Draw icons over random backdrops.

    Args:
        icons: Icons to draw.
        seed: Seed of the backdrops.

    Yields:
        The image of each icon, uint8, ``[32, 32, 3]``, a function of the icon's path below the themes and of the seed;
        None for an icon that is nearly transparent or equals an earlier one.
    """
    seen = set()
    for icon in icons:
        rgba = np.asarray(rasterise(icon.file))
        opacity = rgba[..., 3] / 255
        picture = np.where(rgba[..., 3:] > 0, rgba, 0).tobytes()
        if opacity.mean() < _LEAST_OPACITY or picture in seen:
            yield None
            continue
        seen.add(picture)
        yield compose(rgba[..., :3], opacity, generator_of(seed, "/".join(icon.file.parts[-4:])))


def _is_small(file: Path) -> bool:
    """Return whether the header states at most four megapixels; Pillow refuses the very largest."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=formats()) as image:
                return image.width * image.height <= _MOST_PIXELS
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            return False


def _folders(root: Path) -> list[tuple[str, SectionProxy]]:
    index = ConfigParser(interpolation=None, strict=False)
    try:
        with (root / "index.theme").open(encoding="utf-8") as file:
            index.read_file(file)
        names = index["Icon Theme"]["Directories"].split(",")
    except (OSError, KeyError, UnicodeDecodeError, ConfigError) as error:
        raise DataError(f"{root}: not readable as an icon theme ({error}).") from error
    return [(name.strip(), index[name.strip()]) for name in names if name.strip() in index]


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir() and folder.resolve() == folder:  # some themes link applications as categories
        for file in folder.iterdir():
            if file.suffix in (".png", ".svg") and not file.is_symlink() and "symbolic" not in file.name:
                yield file


def _without_copies(icons: Iterable[Icon]) -> list[Icon]:
    """Keep the first of identical icons; drop icons that occur under different labels."""
    copies: dict[bytes, list[Icon]] = {}
    for icon in icons:
        copies.setdefault(hashlib.sha256(icon.file.read_bytes()).digest(), []).append(icon)
    return [same[0] for same in copies.values() if len({icon.label for icon in same}) == 1]
