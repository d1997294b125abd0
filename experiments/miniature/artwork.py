"""Artwork of installed games and programs as small images; the folder or the name of a file decides the label."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.miniature.backdrops import SIZE, compose, generator_of
from experiments.miniature.icons import rasterise
from experiments.miniature.packages import Package
from experiments.miniature.targets import Drawings, at_most
from itm.core.errors import DataError
from itm.data.files import formats

STAMPS = Package("tuxpaint-stamps-default", "public domain or GPL-2, by stamp")
STAMPS_FOLDER = Path("/usr/share/tuxpaint/stamps")
WESNOTH = Package("wesnoth-1.16-data", "GPL-2+, newer artwork CC BY-SA 4.0")
WESNOTH_FOLDER = Path("/usr/share/games/wesnoth/1.16/data/core/images")
CREATURES = Package("supertux-data", "GPL-2+ or CC BY-SA 3.0")
CREATURES_FOLDER = Path("/usr/share/games/supertux2/images/creatures")
CROSSFIRE = Package("crossfire-client-images", "GPL-2+")
CROSSFIRE_FILE = Path("/usr/share/games/crossfire-client/crossfire.base")
CHESS = (Package("pychess", "GPL-3+"), Package("scid-data", "GPL-2"))
CHESS_FILES, CHESS_STRIPS = Path("/usr/share/pychess/pieces"), Path("/usr/share/scid/img/pieces")

PIECES = {"p": "pawn", "n": "knight", "b": "bishop", "r": "rook", "q": "queen", "k": "king"}
"""Chess pieces by their letter in file names, in the order of the strips of ``scid-data``."""
CHESS_CLASSES = {
    c + p: f"{colour} {piece}" for c, colour in (("w", "white"), ("b", "black")) for p, piece in PIECES.items()
}
"""Classes of the chess pieces by the names of their files, in the order of the strips."""

STAMP_CLASSES = (
    "animals",
    "clothes",
    "food",
    "household",
    "people",
    "plants",
    "seasonal",
    "symbols",
    "town",
    "vehicles",
)
"""Folders with thirty or more stamps."""
UNIT_CLASSES = (
    *("drakes", "dunefolk", "dwarves", "elves-wood", "goblins", "human-loyalists", "human-magi", "human-outlaws"),
    *("monsters", "nagas", "orcs", "saurians", "undead", "undead-necromancers", "undead-skeletal", "woses"),
)
"""Folders with 85 or more pictures."""
TERRAIN_CLASSES = (
    *(
        "bridge",
        "castle",
        "cave",
        "chasm",
        "desert_mountains",
        "flat",
        "forest",
        "frozen",
        "grass",
        "hills",
        "interior",
    ),
    *("mountains", "sand", "swamp", "unwalkable", "village", "walls", "water"),
)
"""Folders with 55 or more pictures, without those of no kind of ground (misc, embellishments, symbols)."""
CREATURE_CLASSES = (
    *("crystallo", "fish", "jumpy", "kirby", "livefire", "mole", "mr_cherry", "mr_iceblock", "mr_tree", "plant"),
    *("skullyhop", "snail", "snowball", "snowman", "spiky", "tux", "yeti"),
)
"""Folders with 19 or more pictures."""
TILE_CLASSES = (
    *("armour", "connect", "exit", "floor", "ground", "monster", "planes", "player", "road", "spell", "wall"),
    "weapon",
)
"""Folders with 95 or more square tiles, without those of no kind of thing (misc, system)."""
_BACKDROPS = 3  # of each chess piece
_LEAST_OPACITY = 0.02  # smallest mean opacity of a picture


class Picture(NamedTuple):
    """One picture before its backdrop.

    Args:
        image: RGBA, ``[32, 32]``, transparent where its shape leaves space.
        label: Name of its class.
        group: Pictures of one group are in one split.
        key: Decides the random backdrop.
        variant: Number among several backdrops of the same picture.
    """

    image: Image.Image
    label: str
    group: str
    key: str
    variant: int = 0


def read_stamps(root: Path = STAMPS_FOLDER) -> list[Picture]:
    """Read the stamps of a drawing program; the first folder is the class."""
    return _read_folders(root, STAMP_CLASSES, str)


def read_units(root: Path = WESNOTH_FOLDER / "units") -> list[Picture]:
    """Read the units of a strategy game; the race is the class, all frames of a unit are one group."""
    return _read_folders(root, UNIT_CLASSES, lambda file: f"{file.parent}/{file.stem.split('-')[0]}")


def read_terrain(root: Path = WESNOTH_FOLDER / "terrain") -> list[Picture]:
    """Read the ground of a strategy game; the folder is the class, numbered variants are one group."""
    return _read_folders(root, TERRAIN_CLASSES, lambda file: re.sub(r"\d+", "", str(file)))


def read_creatures(root: Path = CREATURES_FOLDER) -> list[Picture]:
    """Read the creatures of a platform game; the creature is the class, frames of one may be in both splits."""
    return _read_folders(root, CREATURE_CLASSES, str)


def read_tiles(file: Path = CROSSFIRE_FILE) -> list[Picture]:
    """Read the square tiles of an adventure game; the folder is the class, all frames of a thing are one group.

    An entry of the archive is a line ``IMAGE <bytes> ./arch/<folder>/.../<name>.<frame>`` and then a PNG file.

    Raises:
        DataError: If the archive cannot be read.
    """
    found = []
    try:
        for name, content in _entries(file.read_bytes()):
            image, folder = Image.open(io.BytesIO(content), formats=("PNG",)), name.split("/")[2]
            if image.size == (SIZE, SIZE) and folder in TILE_CLASSES:
                found.append(Picture(image.convert("RGBA"), folder, name.rpartition(".")[0], name))
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{file}: not readable as an archive of tiles ({error}).") from error
    return found


def read_chess(files: Path = CHESS_FILES, strips: Path = CHESS_STRIPS) -> list[Picture]:
    """Read chess pieces: files such as ``bk.svg`` in a folder per set, and strips of twelve pieces of 80 pixels.

    Every piece has three backdrops; a set is one group.
    """
    found = []
    for file in sorted(files.rglob("*")):
        is_piece = file.stem in CHESS_CLASSES and file.suffix in (".png", ".svg")
        if is_piece and (image := _read(file)) is not None:
            found += _with_backdrops(image, CHESS_CLASSES[file.stem], file.parent.name)
    for file in sorted(strips.glob("*/*80.png")):
        strip = _open(file)
        for place, label in enumerate(CHESS_CLASSES.values()):
            piece = strip.crop((place * strip.height, 0, (place + 1) * strip.height, strip.height))
            found += _with_backdrops(fit(piece), label, file.stem)
    return found


def fit(image: Image.Image) -> Image.Image:
    """Scale a picture into 32 x 32 pixels, RGBA, transparent where its shape leaves space."""
    scale = SIZE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("RGBA", (SIZE, SIZE))
    small = image.convert("RGBA").resize((width, height), Image.Resampling.BICUBIC)
    canvas.paste(small, ((SIZE - width) // 2, (SIZE - height) // 2))
    return canvas


def draw_pictures(pictures: Iterable[Picture], classes: Sequence[str], most: int, seed: int = 0) -> Drawings:
    """Draw pictures over random backdrops, without those that are nearly transparent or equal an earlier one.

    Args:
        pictures: The pictures.
        classes: Names of the classes.
        most: Largest number of pictures per class; a larger class is cut at random.
        seed: Seed of the backdrops.
    """
    kept: dict[tuple[bytes, int], Picture] = {}
    for picture in pictures:
        rgba = np.asarray(picture.image)
        if rgba[..., 3].mean() / 255 >= _LEAST_OPACITY:
            visible = np.where(rgba[..., 3:] > 0, rgba, 0)
            kept.setdefault((visible.tobytes(), picture.variant), picture)
    groups = {group: number for number, group in enumerate(sorted({picture.group for picture in kept.values()}))}
    drawings = Drawings(
        np.stack([_over_backdrop(picture, seed) for picture in kept.values()]),
        np.array([classes.index(picture.label) for picture in kept.values()]),
        np.array([groups[picture.group] for picture in kept.values()]),
    )
    return at_most(most, drawings)


def _over_backdrop(picture: Picture, seed: int) -> NDArray[np.uint8]:
    rgba = np.asarray(picture.image)
    generator = generator_of(seed, f"{picture.key} {picture.variant}")
    return compose(rgba[..., :3], rgba[..., 3] / 255, generator)


def _read_folders(root: Path, classes: Sequence[str], group_of: Callable[[Path], str]) -> list[Picture]:
    """Read the pictures below some folders of ``root``, at any depth."""
    found = []
    for label in classes:
        for file in sorted((root / label).rglob("*")):
            if file.suffix in (".png", ".svg"):
                inside = file.relative_to(root)
                if (image := _read(file)) is not None:
                    found.append(Picture(image, label, group_of(inside), str(inside)))
    return found


def _with_backdrops(image: Image.Image, label: str, group: str) -> list[Picture]:
    return [Picture(image, label, group, f"{group}/{label}", variant) for variant in range(_BACKDROPS)]


def _read(file: Path) -> Image.Image | None:
    """Read a picture file, 32 x 32 pixels; None for a drawing that states no size."""
    if file.suffix != ".svg":
        return fit(_open(file))
    try:
        return rasterise(file)
    except DataError as error:
        if "invalid size" not in str(error):
            raise
        return None


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file, formats=formats()) as image:
            return image.convert("RGBA")
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not readable as an image ({error}).") from error


def _entries(archive: bytes) -> Iterator[tuple[str, bytes]]:
    place = 0
    while place < len(archive):
        end = archive.index(b"\n", place)
        word, size, name = archive[place:end].decode().split(" ", 2)
        if word != "IMAGE":
            raise ValueError(f"expected an entry at byte {place}, found {word!r}")
        place = end + 1 + int(size)
        yield name, archive[end + 1 : place]
