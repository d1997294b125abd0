"""Symbols of installed fonts as small images: emoji by Unicode's groups, signs of music by their kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.miniature import glyphs
from experiments.miniature.artwork import Picture, fit
from experiments.miniature.packages import Package, files_of
from experiments.miniature.targets import Drawings
from itm.core.errors import DataError

EMOJI = (Package("fonts-noto-color-emoji", "OFL-1.1"), Package("unicode-data", "Unicode terms of use"))
EMOJI_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
EMOJI_GROUPS = Path("/usr/share/unicode/emoji/emoji-test.txt")
EMOJI_CLASSES = (
    *("Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places"),
    *("Activities", "Objects", "Symbols"),
)
"""Unicode's groups, without flags and components, which are sequences of characters."""

MUSIC = Package("lilypond-fonts", "GPL-3+ with font exception or OFL-1.1")
MUSIC_SIZES = (11, 18, 26)
"""Design sizes of the font of music, points; the smaller, the heavier its signs."""
MUSIC_CLASSES = ("accidentals", "clefs", "custodes", "flags", "noteheads", "rests", "scripts", "timesig")
"""Kinds of signs with twenty or more glyphs, as the glyphs' names begin."""

_BITMAP = 109  # the only size of the bitmaps in the font of emoji, pixels
_CANVAS = 160
_PRESENTATION = "\ufe0f"  # asks for the coloured picture of a character


def read_emoji(font: Path = EMOJI_FONT, groups: Path = EMOJI_GROUPS) -> list[Picture]:
    """Read the emoji of one character; the class is Unicode's group.

    Sequences such as flags and skin tones are left out: a simple layout draws their parts.

    Raises:
        DataError: If the font or the list of groups cannot be read.
    """
    try:
        face = ImageFont.truetype(font, _BITMAP, layout_engine=ImageFont.Layout.BASIC)
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{font} and {groups}: not readable as emoji and their groups ({error}).") from error
    found, group = [], ""
    for line in lines:
        if line.startswith("# group:"):
            group = line.partition(":")[2].strip()
        elif "; fully-qualified" in line:
            text = "".join(chr(int(code, 16)) for code in line.partition(";")[0].split())
            character = text.removesuffix(_PRESENTATION)
            if len(character) == 1 and group in EMOJI_CLASSES:
                found.append(Picture(_picture(face, character), group, character, character))
    return found


def draw_music(files: Sequence[Path]) -> Drawings:
    """Draw the signs of a font of music in several design sizes; a sign is one group.

    Args:
        files: The font's files, one per design size.

    Raises:
        DataError: If a file is not a font.
    """
    images, labels, names = [], [], []
    for file in files:
        for name, character in _signs(file):
            images.append(glyphs.draw(file, character))
            labels.append(MUSIC_CLASSES.index(name.split(".")[0]))
            names.append(name)
    groups = sorted(set(names))
    return Drawings(np.stack(images), np.array(labels), np.array([groups.index(name) for name in names]))


def music_files() -> list[Path]:
    """Return the installed files of the font of music, one for each of :data:`MUSIC_SIZES`."""
    wanted = {f"emmentaler-{size}" for size in MUSIC_SIZES}
    return [file for file in files_of(MUSIC, (".otf",)) if file.stem in wanted]


def _signs(file: Path) -> list[tuple[str, str]]:
    """List the names and characters of the signs of :data:`MUSIC_CLASSES` that are not empty."""
    from fontTools.ttLib import TTFont, TTLibError  # half a second to import; needed for new images only

    try:
        with TTFont(file, lazy=True) as font:
            characters = {name: chr(code) for code, name in (font.getBestCmap() or {}).items()}
    except (TTLibError, OSError) as error:
        raise DataError(f"{file}: not readable as a font ({error}).") from error
    drawn = set(glyphs.read_face(file, "".join(characters.values())).characters)
    kinds = tuple(f"{kind}." for kind in MUSIC_CLASSES)
    return [(name, c) for name, c in sorted(characters.items()) if name.startswith(kinds) and c in drawn]


def _picture(face: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    canvas = Image.new("RGBA", (_CANVAS, _CANVAS))
    ImageDraw.Draw(canvas).text((0, 0), character, font=face, embedded_color=True)
    bounds = canvas.getbbox()
    return fit(canvas.crop(bounds) if bounds else canvas)
