from __future__ import annotations

import gzip
import re
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from experiments.miniature import corpus, glyphs, icons, targets
from experiments.miniature.corpus import build_corpus, read_corpus
from experiments.miniature.icons import Theme
from experiments.miniature.packages import Package, files_of, versions
from experiments.miniature.pictures import Corpus, Pictures
from itm.core.errors import DataError, SettingError
from itm.data import catalog
from itm.data.image_set import load_images

FONTS = Path(matplotlib.get_data_path(), "fonts/ttf")
DPKG_QUERY = """#!/bin/sh
# Knows the packages that have files of their own here, and one whose settings alone are left.
here="{folder}"
if [ "$1" = --listfiles ]; then cat "$here/$2.list"; exit; fi
shift 2
for name; do
    if [ -f "$here/$name.list" ]; then echo "installed $name 1.0-1"
    elif [ "$name" = removed ]; then echo "config-files removed 1.0-1"
    else echo "dpkg-query: no packages found matching $name" >&2; missing=1; fi
done
exit ${{missing:-0}}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Package]:
    """Makes packages of files, on a machine whose ``dpkg-query`` knows no others."""
    folder, programs = tmp_path / "dpkg", tmp_path / "bin"
    for each in (folder, programs):
        each.mkdir()
    (programs / "dpkg-query").write_text(DPKG_QUERY.format(folder=folder))
    (programs / "dpkg-query").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("ITM_HOME", str(tmp_path / "home"))

    def write(name: str, *files: Path) -> Package:
        (folder / f"{name}.list").write_text("".join(f"{file}\n" for file in files))
        return Package(name, "made up")

    return write


def gzipped(file: Path, header: bytes, values: np.ndarray) -> None:
    file.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Callable[..., Package]) -> None:
    """A corpus of 20 garments, 6 icons and 5 pictures of each of three characters."""
    garments, random = tmp_path / "garments", np.random.default_rng(0)
    garments.mkdir()
    for part, count in (("train", 20), ("t10k", 10)):
        pixels = random.integers(0, 256, (count, 28, 28))
        gzipped(garments / f"{part}-images-idx3-ubyte.gz", struct.pack(">4i", 2051, count, 28, 28), pixels)
        gzipped(garments / f"{part}-labels-idx1-ubyte.gz", struct.pack(">2i", 2049, count), np.arange(count) % 10)
    monkeypatch.setattr(catalog, "SYSTEM_FASHION_MNIST", garments)
    theme = tmp_path / "icons/tiny"
    text = "[Icon Theme]\nDirectories=apps,places\n"
    for folder, context, colours in (("apps", "Applications", "red blue lime cyan"), ("places", "Places", "navy gold")):
        (theme / folder).mkdir(parents=True)
        text += f"[{folder}]\nSize=32\nContext={context}\n"
        for colour in colours.split():
            Image.new("RGBA", (24, 32), colour).save(theme / folder / f"{colour}.png")
    (theme / "index.theme").write_text(text)
    monkeypatch.setattr(icons, "ICON_FOLDER", tmp_path / "icons")
    monkeypatch.setattr(icons, "LABELS", {"Applications": "applications", "Places": "places"})
    monkeypatch.setattr(icons, "CORPUS_THEMES", (Theme(install("tiny-icons"), "tiny"),))
    monkeypatch.setattr(icons, "HELD_OUT_THEMES", (Theme(install("tiny-icons"), "tiny"),))
    faces = install("tiny-sans", FONTS / "DejaVuSans.ttf"), install("tiny-serif", FONTS / "DejaVuSerif.ttf")
    monkeypatch.setattr(glyphs, "CORPUS_FONTS", faces)
    monkeypatch.setattr(glyphs, "CORPUS_ALPHABET", "AЖ2")
    monkeypatch.setattr(corpus, "IMAGES_PER_CHARACTER", 5)
    install("dataset-fashion-mnist")


@pytest.mark.usefixtures("tiny")
def test_the_corpus_holds_every_source_under_its_labels() -> None:
    built = build_corpus()
    assert (built.images.shape, built.images.dtype, built.labels.dtype) == ((41, 32, 32, 3), np.uint8, np.int64)
    names = Counter(built.classes[label] for label in built.labels)
    assert list(built.classes[10:]) == ["icon/applications", "icon/places", "glyph/A", "glyph/Ж", "glyph/2"]
    assert names["fashion/Sandal"] == 2
    assert [names[name] for name in built.classes[10:]] == [4, 2, 5, 5, 5]
    assert built.sources["tiny-icons"] == "1.0-1, made up, 6 images"
    assert sum(int(words.split()[-2]) for words in built.sources.values()) == 41
    garment = load_images("fashion_mnist")
    np.testing.assert_array_equal(built.images[0, 2:30, 2:30, 1], garment.items[0])
    assert not built.images[0, :2].any()
    assert len({image.tobytes() for image in built.images}) == 41


@pytest.mark.usefixtures("tiny")
def test_the_seed_decides_all_pictures_and_the_sample() -> None:
    built, again, other = build_corpus(), build_corpus(), build_corpus(seed=1)
    assert built.digest == again.digest != other.digest
    np.testing.assert_array_equal(built.images[:20], other.images[:20])  # garments are as they are
    assert not (built.images[20:] == other.images[20:]).all((1, 2, 3)).any()
    small = build_corpus(limit=30)
    assert small.classes == built.classes
    assert len(small.labels) == 30
    assert set(small.labels) == set(built.labels)
    assert {image.tobytes() for image in small.images} < {image.tobytes() for image in built.images}
    with pytest.raises(SettingError, match="15 classes"):
        build_corpus(limit=14)


@pytest.mark.usefixtures("tiny")
def test_the_corpus_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = read_corpus()
    assert corpus.default_file() == tmp_path / "home/data/miniature/corpus.safetensors"
    assert [file.name for file in corpus.default_file().parent.iterdir()] == ["corpus.safetensors"]
    monkeypatch.setattr(corpus, "build_corpus", lambda: pytest.fail("built again"))
    again = read_corpus()
    assert (again.digest, again.classes, again.sources) == (built.digest, built.classes, built.sources)
    np.testing.assert_array_equal(again.images, built.images)


def small_corpus() -> Corpus:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    return Corpus(images, np.arange(6) % 2, ("a/Ж", "b"), {"package": "1.0, MIT, 6 images"})


@pytest.mark.parametrize("place", [10, 200, 5000, -1, None])
def test_a_damaged_file_is_detected(tmp_path: Path, place: int | None) -> None:
    file = tmp_path / "corpus.safetensors"
    small_corpus().save(file)
    assert Corpus.load(file).digest == small_corpus().digest
    content = bytearray(file.read_bytes())
    if place is None:
        del content[-1000:]
    else:
        content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"corpus\.safetensors: .*delete it and run `python -m .*\.corpus`"):
        Corpus.load(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.safetensors: no such file; `python -m .*\.corpus` builds"):
        Corpus.load(tmp_path / "none.safetensors")


@pytest.mark.usefixtures("tiny")
def test_the_command_prints_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "elsewhere/corpus.safetensors"
    monkeypatch.setattr("sys.argv", ["corpus", str(file)])
    corpus._main()
    shown = capsys.readouterr().out
    assert "41 images, 15 classes" in shown
    assert re.search(r"tiny-icons\W+1\.0-1, made up, 6 images", shown)
    assert str(file) in shown.replace("\n", "")
    assert len(Corpus.load(file).labels) == 41


def test_missing_packages_are_named_together(install: Callable[..., Package], monkeypatch: pytest.MonkeyPatch) -> None:
    here, removed = install("here"), Package("removed", "MIT")
    assert versions([here]) == {"here": "1.0-1"}
    with pytest.raises(DataError, match=r"2 are not installed: gone, removed\. .*apt-get install .* gone removed$"):
        versions([Package("gone", "MIT"), here, removed])
    monkeypatch.setattr("sys.argv", ["corpus"])
    with pytest.raises(
        SystemExit, match=r"dataset-fashion-mnist, breeze-icon-theme.*fonts-vollkorn\. .*apt-get install"
    ):
        corpus._main()
    assert not corpus.default_file().exists()


@pytest.mark.usefixtures("tiny")
def test_the_packages_of_the_targets_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["corpus", "--targets"])
    monkeypatch.setattr(icons, "CLIPART", Package("tiny-clipart", "made up"))
    with pytest.raises(SystemExit, match=r"not installed: tiny-clipart, .*apt-get install"):
        corpus._main()
    assert not corpus.default_file().exists()


def test_without_debian_the_error_names_the_missing_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="dpkg-query is not installed: run this on Debian or Ubuntu"):
        versions([Package("any", "MIT")])


def test_files_of_a_package_are_regular_and_of_the_kind(tmp_path: Path, install: Callable[..., Package]) -> None:
    for name in ("b.ttf", "a.otf", "c.txt"):
        (tmp_path / name).touch()
    (tmp_path / "link.ttf").symlink_to("b.ttf")
    names = ("b.ttf", "a.otf", "c.txt", "link.ttf", "gone.ttf")
    package = install("some", *(tmp_path / name for name in names))
    assert files_of(package, (".ttf", ".otf")) == [tmp_path / "a.otf", tmp_path / "b.ttf"]


@pytest.fixture
def families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Callable[..., Package]) -> None:
    """Held-out fonts: six families of one face each."""
    names = ("DejaVuSans", "STIXGeneral", "cmr10", "cmss10", "cmtt10", "cmb10")
    monkeypatch.setattr(glyphs, "HELD_OUT_FONTS", (install("odd", *(FONTS / f"{name}.ttf" for name in names)),))
    monkeypatch.setattr(glyphs, "LETTERS", "AB2")


@pytest.mark.parametrize("name", ["clipart", "miniature_corpus"])
def test_outside_a_clone_a_drawn_dataset_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(catalog, "DRAWN_BY", "not_in_this_clone.miniature.targets")
    with pytest.raises(DataError, match=rf"data={name}: its images are drawn by experiments/miniature.* in a clone"):
        load_images(name)


def test_a_missing_library_of_the_drawing_code_is_not_taken_for_a_missing_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "drawing.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(catalog, "DRAWN_BY", "drawing")
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        load_images("clipart")


@pytest.mark.usefixtures("families")
def test_no_font_is_in_both_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = (load_images("decorative_fonts", split, seed=3) for split in ("train", "test"))
    assert train.classes == test.classes == ("A", "B", "2")
    assert torch.bincount(train.labels).tolist() == [5, 5, 5]
    assert torch.bincount(test.labels).tolist() == [1, 1, 1]
    drawn = {
        glyphs.draw(file, character).tobytes(): (file.name, character)
        for file in files_of(glyphs.HELD_OUT_FONTS[0], glyphs.SUFFIXES)
        for character in "AB2"
    }
    shown = [[drawn[image.tobytes()] for image in images.items] for images in (train, test)]
    assert not {file for file, _ in shown[0]} & {file for file, _ in shown[1]}
    for images, pairs in zip((train, test), shown, strict=True):
        assert [character for _, character in pairs] == [images.classes[label] for label in images.labels]
    splits = {load_images("decorative_fonts", seed=seed).fingerprint for seed in range(6)}
    assert len(splits) > 1, "the seed chooses the families"
    monkeypatch.setattr(targets, "TRAIN_SIZE", 6)
    assert torch.bincount(load_images("decorative_fonts", seed=3).labels).tolist() == [2, 2, 2]


@pytest.mark.usefixtures("families")
def test_pictures_are_kept_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_images("decorative_fonts")
    (kept,) = (tmp_path / "home/data/miniature").iterdir()
    draw = glyphs.draw
    monkeypatch.setattr(glyphs, "draw", lambda *_: pytest.fail("drawn again"))
    assert load_images("decorative_fonts").fingerprint == first.fingerprint
    kept.write_bytes(kept.read_bytes()[:-1])
    monkeypatch.setattr(glyphs, "draw", draw)
    assert load_images("decorative_fonts").fingerprint == first.fingerprint, "a damaged file is written anew"
    monkeypatch.setattr(targets.PIL, "__version__", "0")
    load_images("decorative_fonts")
    assert len(list(kept.parent.iterdir())) == 2


@pytest.mark.usefixtures("families")
def test_pictures_that_cannot_be_kept_are_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/data").write_text("a file where a folder should be")
    assert len(load_images("decorative_fonts")) == 15
    assert "cannot be written" in caplog.text


@pytest.mark.usefixtures("tiny")
def test_the_test_split_of_the_corpus_is_the_held_out_part() -> None:
    with pytest.raises(DataError, match=r"data=miniature_corpus: .*no such file; `python -m .*\.corpus`"):
        load_images("miniature_corpus")
    corpus = read_corpus()
    parts = Pictures(corpus.images, corpus.labels).split()
    for split, part in zip(("train", "test"), parts, strict=True):
        images = load_images("miniature_corpus", split)
        assert images.classes == corpus.classes
        assert torch.equal(images.labels, part.labels)
        assert np.array_equal(images.items.transpose(0, 3, 1, 2), part.images)
    assert len(parts[1]) == len(corpus.labels) // 10


@pytest.mark.usefixtures("tiny")
def test_icons_are_split_without_a_copy() -> None:
    train, test = load_images("icon_themes"), load_images("icon_themes", "test")
    assert (len(train), len(test)) == (4, 2)
    assert train.classes == ("applications", "places")
    assert len({image.tobytes() for images in (train, test) for image in images.items}) == 6


@pytest.mark.usefixtures("tiny")
def test_no_purpose_has_many_more_icons_than_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "ICONS_OF_A_CLASS", 3)
    splits = [load_images("icon_themes", split) for split in ("train", "test")]
    labels = torch.cat([images.labels for images in splits])
    assert torch.bincount(labels).tolist() == [3, 2]


def test_clipart_is_labelled_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Callable[..., Package]
) -> None:
    folder = tmp_path / "clipart"
    monkeypatch.setattr(icons, "CLIPART_FOLDER", folder)
    monkeypatch.setattr(icons, "CLIPART_CLASSES", ("animals", "people"))
    monkeypatch.setattr(icons, "CLIPART", install("tiny-clipart"))
    colours = {"animals/birds": "red blue lime", "people": "cyan navy gold", "shapes/stars": "black white grey"}
    for name, each in colours.items():
        (folder / name).mkdir(parents=True)
        for colour in each.split():
            Image.new("RGBA", (40, 40), colour).save(folder / name / f"{colour}.png")
    Image.new("1", (2**11, 2**11 + 1)).save(folder / "people/over_the_limit.png")
    (folder / "people/over_pillows_limit.png").write_bytes(header_of_png(2**15, 2**15))
    train, test = load_images("clipart"), load_images("clipart", "test")
    assert train.classes == ("animals", "people")
    assert (len(train), len(test)) == (5, 1)
    for label, name in enumerate(("animals/birds", "people")):
        drawn = icons.draw([icons.Icon(folder / name / f"{colour}.png", "") for colour in colours[name].split()])
        pairs = (
            (image, int(of)) for images in (train, test) for image, of in zip(images.items, images.labels, strict=True)
        )
        shown = {image.tobytes() for image, of in pairs if of == label}
        assert shown == {image.tobytes() for image in drawn if image is not None}


def header_of_png(width: int, height: int) -> bytes:
    """A picture's size, and nothing behind it."""
    chunks = (b"IHDR", struct.pack(">2I5B", width, height, 8, 6, 0, 0, 0)), (b"IDAT", b"")
    written = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@pytest.mark.usefixtures("install")
@pytest.mark.parametrize("name", ["clipart", "decorative_fonts", "icon_themes", "thai_digits"])
def test_a_target_names_its_missing_packages(name: str) -> None:
    with pytest.raises(DataError, match=rf"data={name}: .*not installed.*apt-get install"):
        load_images(name)


def test_held_out_packages_are_not_in_the_corpus() -> None:
    seen = {package.name for package in glyphs.CORPUS_FONTS}
    assert len(seen) == len(glyphs.CORPUS_FONTS)
    assert not seen & {package.name for package in (*glyphs.HELD_OUT_FONTS, *glyphs.SCRIPT_FONTS)}


def installed(*packages: Package) -> None:
    """Skip where the packages are not there."""
    if shutil.which("dpkg-query") is None:
        pytest.skip("needs Debian packages")
    try:
        versions(packages)
    except DataError as error:
        pytest.skip(f"needs Debian packages: {error}")


def test_held_out_families_are_not_in_the_corpus() -> None:
    parts = glyphs.CORPUS_FONTS, (*glyphs.HELD_OUT_FONTS, *glyphs.SCRIPT_FONTS)
    installed(*parts[0], *parts[1])
    seen, held_out = (
        {glyphs.family_of(file) for package in part for file in files_of(package, glyphs.SUFFIXES)} for part in parts
    )
    assert len(seen) > 50
    assert len(held_out) > 100
    assert not seen & held_out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "packages", "classes"),
    [
        ("clipart", [icons.CLIPART], 7),
        ("decorative_fonts", glyphs.HELD_OUT_FONTS, 10),
        ("thai_digits", glyphs.SCRIPT_FONTS, 10),
        ("icon_themes", [theme.package for theme in icons.HELD_OUT_THEMES], 9),
    ],
)
def test_the_targets_have_enough_images(tmp_path: Path, name: str, packages: list[Package], classes: int) -> None:
    installed(*packages)
    train, test = (load_images(name, split, root=tmp_path) for split in ("train", "test"))
    assert 500 <= len(train) <= 3000
    assert len(test) >= 150
    for images in (train, test):
        assert (torch.bincount(images.labels, minlength=classes) >= 5).all()
        assert len(images.classes) == classes
    pictures = [image.tobytes() for images in (train, test) for image in images.items]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.slow
@pytest.mark.miniature
def test_no_held_out_icon_is_in_the_corpus() -> None:
    """Compared before the backdrop, which would make any two pictures differ."""
    themes = (*icons.HELD_OUT_THEMES, *icons.CORPUS_THEMES)
    installed(icons.CLIPART, *(theme.package for theme in themes))
    listed = [icons.read_theme(icons.ICON_FOLDER / theme.folder) for theme in themes]
    listed.insert(0, icons.read_clipart(icons.CLIPART_FOLDER))
    clipart, moka, oxygen, *seen = ({icons.rasterise(icon.file).tobytes() for icon in each} for each in listed)
    assert min(len(clipart), len(moka), len(oxygen)) > 700
    assert not (clipart | moka | oxygen) & set().union(*seen)
