from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont

from experiments.miniature import glyphs
from experiments.miniature.backdrops import CONTRAST, compose
from itm.core.errors import DataError

FONTS = Path(matplotlib.get_data_path(), "fonts/ttf")
SANS = FONTS / "DejaVuSans.ttf"
LUMINANCE = (0.299, 0.587, 0.114)


def remapped(file: Path, target: Path, pictures: dict[str, str]) -> Path:
    """Copy a font in which some characters show the pictures of others."""
    font = TTFont(file)
    names = font.getBestCmap()
    for table in font["cmap"].tables:
        if table.isUnicode():
            table.cmap.update({ord(character): names[ord(other)] for character, other in pictures.items()})
    font.save(target)
    return target


def test_a_face_shows_what_its_font_has() -> None:
    face = glyphs.read_face(SANS, "Ab2ΩЖก")
    assert face == (SANS, "DejaVu Sans", "Ab2ΩЖ"), "DejaVu has no Thai"
    assert glyphs.read_faces([SANS, FONTS / "DejaVuSerif.ttf"], "กข") == []


def test_empty_and_equal_pictures_are_no_classes(tmp_path: Path) -> None:
    file = remapped(SANS, tmp_path / "odd.ttf", {"A": " ", "B": "C", "D": "D"})
    assert glyphs.read_face(file, "ABCDE").characters == "DE"


@pytest.mark.parametrize("content", [b"", b"no font at all"])
def test_a_damaged_font_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.ttf"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.ttf: not readable as a font"):
        glyphs.read_face(file, "A")


def test_every_character_of_the_corpus_stands_once_and_in_an_ordinary_font() -> None:
    alphabet = glyphs.CORPUS_ALPHABET
    assert len(set(alphabet)) == len(alphabet) == 85
    assert glyphs.read_face(SANS, alphabet).characters == alphabet
    assert set(glyphs.LETTERS) <= set(alphabet)
    assert [unicodedata.digit(character) for character in glyphs.THAI_DIGITS] == list(range(10))
    assert not set(glyphs.THAI_DIGITS) & set(alphabet)
    same = ("cC", "kK", "oO0", "pP", "sS", "uU", "vV", "wW", "xX", "yY", "zZ", "Il1", "ГΓ", "ПΠ", "θΘ", "фΦφ", "ψΨ")
    assert [group for group in same if len(set(group) & set(alphabet)) != 1] == []


def test_a_drawing_depends_on_font_character_seed_and_variant_alone(tmp_path: Path) -> None:
    first = glyphs.draw(SANS, "A")
    assert (first.shape, first.dtype) == ((32, 32, 3), np.uint8)
    elsewhere = shutil.copy(SANS, tmp_path / SANS.name)
    glyphs.draw(SANS, "B")
    np.testing.assert_array_equal(first, glyphs.draw(Path(elsewhere), "A"))
    others = [
        glyphs.draw(SANS, "A", 1),
        glyphs.draw(SANS, "A", 0, 1),
        glyphs.draw(SANS, "B"),
        glyphs.draw(FONTS / "DejaVuSerif.ttf", "A"),
    ]
    assert len({image.tobytes() for image in (first, *others)}) == 5


def test_drawings_lie_inside_and_vary_in_size() -> None:
    """Against the font's own proportions: the capital I is a bar, higher than wide, 60 to 85 % of the image."""
    heights = []
    for variant in range(40):
        image = glyphs.draw(SANS, "I", 0, variant).astype(float)
        edge = np.concatenate([image[0], image[-1]]).mean(0)
        row = np.abs(image[:, 8:24] - edge).max(axis=(1, 2))
        heights.append(int((row > 90).sum()))
    assert 15 <= min(heights) < max(heights) <= 32
    assert len(set(heights)) > 4


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(DataError, match=r"DejaVuSans\.ttf: no picture for ' '"):
        glyphs.draw(SANS, " ")


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 40, 90), (127, 127, 127), (0, 255, 0)])
def test_a_drawing_stands_out_from_its_backdrop(colour: tuple[int, int, int]) -> None:
    opacity = np.zeros((32, 32))
    opacity[:, :16] = 1
    for seed in range(20):
        image = compose(colour, opacity, np.random.default_rng(seed))
        np.testing.assert_array_equal(image[:, :16], np.broadcast_to(colour, (32, 16, 3)))
        difference = np.abs((image[:, 16:] - np.array(colour, float)) @ LUMINANCE)
        assert np.quantile(difference, 0.05) > CONTRAST - 8, "noise may take a little away"
        assert image[:, 16:].std() > 1
