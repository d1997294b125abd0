"""Characters of installed fonts as small images; the label is the character.

A font supports a character if its character map lists it, its picture is not empty, and no other character of the
alphabet has the same picture. Equal pictures are placeholder boxes, or capitals in place of small letters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from experiments.miniature.backdrops import SIZE, compose, generator_of
from experiments.miniature.packages import Package
from itm.core.errors import DataError

CORPUS_FONTS = (
    Package("fonts-averia-serif-gwf", "OFL-1.1"),
    Package("fonts-cabin", "OFL-1.1"),
    Package("fonts-cantarell", "OFL-1.1"),
    Package("fonts-cmu", "OFL-1.1"),
    Package("fonts-comic-neue", "OFL-1.1"),
    Package("fonts-crosextra-caladea", "OFL-1.1"),
    Package("fonts-crosextra-carlito", "OFL-1.1"),
    Package("fonts-dejavu-core", "Bitstream Vera"),
    Package("fonts-ebgaramond", "OFL-1.1"),
    Package("fonts-firacode", "OFL-1.1"),
    Package("fonts-freefont-ttf", "GPL-3+ with font exception"),
    Package("fonts-hack", "Expat and Bitstream Vera"),
    Package("fonts-inconsolata", "OFL-1.0"),
    Package("fonts-junicode", "OFL-1.1"),
    Package("fonts-lato", "OFL-1.1"),
    Package("fonts-liberation", "GPL-2 with font exception"),
    Package("fonts-linuxlibertine", "GPL-2+ with font exception, or OFL-1.1"),
    Package("fonts-oldstandard", "OFL-1.0"),
    Package("fonts-open-sans", "Apache-2.0"),
    Package("fonts-paratype", "ParaType Free Font License"),
    Package("fonts-play", "OFL-1.1"),
    Package("fonts-quicksand", "OFL-1.1"),
    Package("fonts-roboto-unhinted", "Apache-2.0"),
    Package("fonts-urw-base35", "AGPL-3 with font exception"),
    Package("fonts-vollkorn", "OFL-1.1"),
)
"""Text fonts: serif, sans serif and monospaced."""

HELD_OUT_FONTS = (Package("fonts-aenigma", "free to use, change and redistribute with attribution"),)
"""Decorative fonts by Brian Kent; the corpus contains none of these families."""

SCRIPT_FONTS = (
    Package("fonts-arundina", "Bitstream Vera"),
    *(
        Package(f"fonts-tlwg-{family}-ttf", "GPL-2+ with font exception")
        for family in (
            *("garuda", "kinnari", "laksaman", "loma", "mono", "norasi", "purisa"),
            *("sawasdee", "typewriter", "typist", "typo", "umpush"),
        )
    ),
    Package("fonts-tlwg-waree-ttf", "Bitstream Vera"),
)
"""Thai fonts."""

# Pictures are scaled to one size, so C c, K k, O o 0, P p, S s, U u, V v, W w, X x, Y y, Z z and I l 1 look alike: only
# the capital of each group is a class.
LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abdefghijmnqrt" + "23456789"
# Without letters that look like Latin ones; only the capital of pairs such as Θ θ.
GREEK = "ΓΔΘΛΞΠΣΦΨΩ" + "αβγδεζηλμξπσω"
CYRILLIC = "БДЖИЛЦЧШЩЭЮЯЫЬ"
CORPUS_ALPHABET = LATIN + GREEK + CYRILLIC
"""Characters of the corpus; no two look alike in a plain font."""

LETTERS = "ABCDEFGHIJ"
"""Ten classes of capitals: decorative fonts often show capitals in place of small letters."""

THAI_DIGITS = "".join(map(chr, range(0x0E50, 0x0E5A)))

SUFFIXES = (".otf", ".ttf")
_DRAWN = 96  # pixels; drawn large and reduced afterwards for smooth strokes
_COMPARED = 24  # pixels


class Face(NamedTuple):
    """One font file.

    Args:
        file: The font file.
        family: Name of the family, from the file.
        characters: Characters of the alphabet that the font supports.
    """

    file: Path
    family: str
    characters: str


def family_of(file: Path) -> str:
    """Return the family name from the font, or the stem of the file name if the font has none.

    Raises:
        DataError: If the file is not a font.
    """
    try:
        return _font(file, _COMPARED).getname()[0] or file.stem
    except OSError as error:
        raise DataError(f"{file}: not readable as a font ({error}).") from error


def read_face(file: Path, alphabet: str) -> Face:
    """Return the face of a font file with the characters of the alphabet that it supports.

    Raises:
        DataError: If the file is not a font.
    """
    from fontTools.ttLib import TTFont, TTLibError  # half a second to import; needed for new images only

    family = family_of(file)
    try:
        with TTFont(file, lazy=True) as font:
            covered = font.getBestCmap() or {}
        pictures = {
            character: _picture(file, character, _COMPARED) for character in alphabet if ord(character) in covered
        }
    except (TTLibError, OSError, KeyError) as error:
        raise DataError(f"{file}: not readable as a font ({error}).") from error
    shown = {character: (image.size, image.tobytes()) for character, image in pictures.items() if image is not None}
    times = Counter(shown.values())
    return Face(file, family, "".join(character for character, picture in shown.items() if times[picture] == 1))


def read_faces(files: Iterable[Path], alphabet: str) -> list[Face]:
    """Return the faces that support a character of the alphabet, in the order of the files."""
    return [face for file in files if (face := read_face(file, alphabet)).characters]


def draw(file: Path, character: str, seed: int = 0, variant: int = 0) -> NDArray[np.uint8]:
    """Draw one character with random colours, size (60 to 85 % of the image), rotation (8 degrees), shift (2 pixels).

    Args:
        file: A font that supports the character.
        character: The character.
        seed: Seed of the random choices.
        variant: Number of the image among several of the same character and font.

    Returns:
        The image, uint8, ``[32, 32, 3]``, a function of the arguments and the name of the font file.

    Raises:
        DataError: If the font has no picture for the character.
    """
    picture = _picture(file, character, _DRAWN)
    if picture is None:
        raise DataError(f"{file}: no picture for {character!r}.")
    random = generator_of(seed, f"{file.name} {character} {variant}")
    picture = picture.rotate(random.uniform(-8, 8), Image.Resampling.BICUBIC, expand=True)
    scale = random.uniform(0.6, 0.85) * SIZE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    canvas = Image.new("L", (SIZE, SIZE))
    across, down = random.integers(-2, 3, 2).tolist()
    place = ((SIZE - width) // 2 + across, (SIZE - height) // 2 + down)
    canvas.paste(picture.resize((width, height), Image.Resampling.BICUBIC), place)
    return compose(random.uniform(0, 255, 3), np.asarray(canvas) / 255, random)


def _picture(file: Path, character: str, size: int) -> Image.Image | None:
    """Return the character, white on black, cropped to its bounds; None if the picture is empty."""
    font = _font(file, size)
    left, top, right, bottom = (round(side) for side in font.getbbox(character))
    if right <= left or bottom <= top:
        return None
    canvas = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(canvas).text((-left, -top), character, fill=255, font=font)
    return canvas.crop(bounds) if (bounds := canvas.getbbox()) else None


@lru_cache(maxsize=64)
def _font(file: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)
