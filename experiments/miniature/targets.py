"""The drawn targets of the benchmark, which share nothing with the corpus, and the corpus itself as a dataset.

All pictures of a dataset are drawn once and cached beside the other datasets; the splits choose among the pictures.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from experiments.miniature import backdrops, glyphs, icons
from experiments.miniature.packages import Package, files_of, versions
from experiments.miniature.pictures import CORPUS_FILE, Corpus, held_out_rows
from itm.core.files import write_atomic
from itm.core.progress import show_progress
from itm.core.splits import split_indices, stratified_sample
from itm.data.folders import Listing, seeded_part

TRAIN_SIZE, TEST_SIZE = 2000, 1000
"""Largest number of character images in each split."""
ICONS_OF_A_CLASS = 200
"""Largest number of icons per class: half of Oxygen's are actions, nine tenths of Moka's applications."""

_TRAIN_FRACTION = 3 / 4  # share of the icons, and of the font families
_log = logging.getLogger(__name__)


class Drawings(NamedTuple):
    """All pictures of a dataset, before the split.

    Args:
        images: uint8, ``[N, 32, 32, 3]``.
        labels: Class of each image, int64, ``[N]``.
        groups: Font family of each image, int64, ``[N]``; a family is in one split only.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]


def fonts(root: Path, split: str, seed: int) -> Listing:
    """List the letters A to J in decorative fonts, one face per family; a quarter of the families is the test split."""
    return _characters(root, "decorative_fonts", glyphs.HELD_OUT_FONTS, glyphs.LETTERS, False, split, seed)


def script(root: Path, split: str, seed: int) -> Listing:
    """List Thai digits in fonts of several weights and slants; a quarter of the families is the test split."""
    return _characters(root, "thai_digits", glyphs.SCRIPT_FONTS, glyphs.THAI_DIGITS, True, split, seed)


def themes(root: Path, split: str, seed: int) -> Listing:
    """List the icons of two themes by purpose, at most 200 per class; a stratified quarter is the test split."""
    classes = list(icons.LABELS.values())
    made_of = [theme.package for theme in icons.HELD_OUT_THEMES]

    def draw() -> Drawings:
        return at_most(ICONS_OF_A_CLASS, draw_icons(_themes(), classes))

    drawings = cached(root, "icon_themes", made_of, draw)
    listing = Listing(drawings.images, drawings.labels.tolist(), classes)
    return seeded_part(listing, split, seed, train_fraction=_TRAIN_FRACTION)


def clipart(root: Path, split: str, seed: int) -> Listing:
    """List drawings by the object drawn; a stratified fifth is the test split."""
    classes = list(icons.CLIPART_CLASSES)

    def draw() -> Drawings:
        return draw_icons(icons.read_clipart(icons.CLIPART_FOLDER), classes)

    drawings = cached(root, "clipart", [icons.CLIPART], draw)
    return seeded_part(Listing(drawings.images, drawings.labels.tolist(), classes), split, seed)


def packages() -> list[Package]:
    """Return the packages of the targets; those of the corpus are not included."""
    themes = [theme.package for theme in icons.HELD_OUT_THEMES]
    return [icons.CLIPART, *themes, *glyphs.HELD_OUT_FONTS, *glyphs.SCRIPT_FONTS]


def corpus(root: Path, split: str, seed: int) -> Listing:
    """List the corpus; the images that are held out from pre-training are the test split."""
    kept = Corpus.load(root / CORPUS_FILE)
    rows = held_out_rows(len(kept.labels))[split == "test"]
    return Listing(kept.images, kept.labels.tolist(), list(kept.classes)).take(rows.tolist())


def _characters(
    root: Path, name: str, packages: Sequence[Package], alphabet: str, variants: bool, split: str, seed: int
) -> Listing:
    drawings = cached(root, name, packages, lambda: draw_characters(packages, alphabet, variants))
    labels = torch.from_numpy(drawings.labels)
    train, test = split_indices(labels, _TRAIN_FRACTION, seed, torch.from_numpy(drawings.groups))
    rows, size = (train, TRAIN_SIZE) if split == "train" else (test, TEST_SIZE)
    chosen = rows[stratified_sample(labels[rows], size, seed)].tolist()
    return Listing(drawings.images, drawings.labels.tolist(), list(alphabet)).take(chosen)


def draw_characters(packages: Sequence[Package], alphabet: str, variants: bool) -> Drawings:
    """Draw each character in each face; without ``variants``, only in the first face of each family."""
    files = [file for package in packages for file in files_of(package, glyphs.SUFFIXES)]
    if not variants:
        files = list({_family_key(glyphs.family_of(file)): file for file in reversed(files)}.values())
    faces = glyphs.read_faces(files, alphabet)
    families = sorted({_family_key(face.family) for face in faces})
    pairs = [(face, character) for face in faces for character in face.characters]
    images = []
    with show_progress(f"drawing {alphabet[:5]}...", len(pairs)) as advance:
        for face, character in pairs:
            images.append(glyphs.draw(face.file, character))
            advance(1)
    return Drawings(
        np.stack(images),
        np.array([alphabet.index(character) for _, character in pairs]),
        np.array([families.index(_family_key(face.family)) for face, _ in pairs]),
    )


def _themes() -> list[icons.Icon]:
    return [icon for theme in icons.HELD_OUT_THEMES for icon in icons.read_theme(icons.ICON_FOLDER / theme.folder)]


def draw_icons(listed: Sequence[icons.Icon], classes: Sequence[str]) -> Drawings:
    """Draw icons, without those that are nearly transparent or equal an earlier one."""
    drawn = [(icon, image) for icon, image in zip(listed, icons.draw(listed), strict=True) if image is not None]
    labels = np.array([classes.index(icon.label) for icon, _ in drawn])
    return Drawings(np.stack([image for _, image in drawn]), labels, np.arange(len(drawn)))


def at_most(count: int, drawings: Drawings) -> Drawings:
    """Keep ``count`` random pictures of each class, or all of a smaller class."""
    order = np.random.default_rng(0).permutation(len(drawings.labels))
    shuffled = drawings.labels[order]
    kept = [order[shuffled == label][:count] for label in np.unique(drawings.labels)]
    chosen = np.sort(np.concatenate(kept))
    return Drawings(drawings.images[chosen], drawings.labels[chosen], drawings.groups[chosen])


def _family_key(family: str) -> str:
    """Return the first word of a family name, which the variants of a family share."""
    return family.split()[0].casefold()


def cached(
    root: Path, name: str, packages: Sequence[Package], draw: Callable[[], Drawings], code: Sequence[str] = ()
) -> Drawings:
    """Read the cached pictures of the same packages and code, or draw and cache them.

    Args:
        root: Folder of all datasets.
        name: Name of the dataset.
        packages: Packages that it is drawn from.
        draw: Draws it.
        code: Files of code that decide the pictures, beside this package's common ones.
    """
    found = versions(packages)
    sha = hashlib.sha256(json.dumps([found, PIL.__version__]).encode())
    for module in (__file__, backdrops.__file__, glyphs.__file__, icons.__file__, *code):
        sha.update(Path(module).read_bytes())
    file = root / "miniature" / f"{name}-{sha.hexdigest()[:16]}.safetensors"
    try:
        return Drawings(**load(file.read_bytes()))
    except (OSError, SafetensorError, TypeError):
        drawings = draw()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, save(drawings._asdict()))
    except OSError as error:
        _log.warning("%s cannot be written (%s): the images of %s are drawn again in each run.", file, error, name)
    return drawings
