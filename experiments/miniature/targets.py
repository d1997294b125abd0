"""Datasets of which the corpus shows nothing: two themes' icons, clip art, decorative fonts, a script; and the corpus.

All pictures of a dataset are drawn once and kept beside the other datasets; the splits choose from them.
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
"""Most images of characters in each split."""
ICONS_OF_A_CLASS = 200
"""Most icons of one purpose: half of Oxygen are actions, and nine tenths of Moka applications."""

_TRAIN_FRACTION = 3 / 4  # of the icons, and of the characters by whole families
_log = logging.getLogger(__name__)


class Pool(NamedTuple):
    """All pictures of a dataset.

    Args:
        images: uint8, ``[N, 32, 32, 3]``.
        labels: Class of each image, int64, ``[N]``.
        groups: Font family of each image, int64, ``[N]``; images of one family go to one split.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]


def fonts(root: Path, split: str, seed: int) -> Listing:
    """The letters A to J by decorative fonts, one of each family; a quarter of the families tests."""
    return _characters(root, "decorative_fonts", glyphs.HELD_OUT_FONTS, glyphs.LETTERS, False, split, seed)


def script(root: Path, split: str, seed: int) -> Listing:
    """Thai digits by fonts of several weights and slants; a quarter of the families tests."""
    return _characters(root, "thai_digits", glyphs.SCRIPT_FONTS, glyphs.THAI_DIGITS, True, split, seed)


def themes(root: Path, split: str, seed: int) -> Listing:
    """Icons of two themes, none twice, by what they are for, of no purpose many more; a stratified quarter tests."""
    classes = list(icons.LABELS.values())
    made_of = [theme.package for theme in icons.HELD_OUT_THEMES]
    pool = _pool(root, "icon_themes", made_of, lambda: _at_most(ICONS_OF_A_CLASS, _draw_icons(_themes(), classes)))
    listing = Listing(pool.images, pool.labels.tolist(), classes)
    return seeded_part(listing, split, seed, train_fraction=_TRAIN_FRACTION)


def clipart(root: Path, split: str, seed: int) -> Listing:
    """Drawings by many hands, none twice, by what they show; a stratified fifth tests."""
    classes = list(icons.CLIPART_CLASSES)
    pool = _pool(
        root, "clipart", [icons.CLIPART], lambda: _draw_icons(icons.read_clipart(icons.CLIPART_FOLDER), classes)
    )
    return seeded_part(Listing(pool.images, pool.labels.tolist(), classes), split, seed)


def packages() -> list[Package]:
    """What the datasets of this file are made of, but for the corpus itself."""
    themes = [theme.package for theme in icons.HELD_OUT_THEMES]
    return [icons.CLIPART, *themes, *glyphs.HELD_OUT_FONTS, *glyphs.SCRIPT_FONTS]


def corpus(root: Path, split: str, seed: int) -> Listing:
    """The corpus itself; the images that no model saw in its pre-training are the test split."""
    kept = Corpus.load(root / CORPUS_FILE)
    rows = held_out_rows(len(kept.labels))[split == "test"]
    return Listing(kept.images, kept.labels.tolist(), list(kept.classes)).take(rows.tolist())


def _characters(
    root: Path, name: str, packages: Sequence[Package], alphabet: str, variants: bool, split: str, seed: int
) -> Listing:
    pool = _pool(root, name, packages, lambda: _draw_characters(packages, alphabet, variants))
    labels = torch.from_numpy(pool.labels)
    train, test = split_indices(labels, _TRAIN_FRACTION, seed, torch.from_numpy(pool.groups))
    rows, size = (train, TRAIN_SIZE) if split == "train" else (test, TEST_SIZE)
    chosen = rows[stratified_sample(labels[rows], size, seed)].tolist()
    return Listing(pool.images, pool.labels.tolist(), list(alphabet)).take(chosen)


def _draw_characters(packages: Sequence[Package], alphabet: str, variants: bool) -> Pool:
    """One picture of each character by each face: by all of a family, or by the first only."""
    files = [file for package in packages for file in files_of(package, glyphs.SUFFIXES)]
    if not variants:
        files = list({_kin(glyphs.family_of(file)): file for file in reversed(files)}.values())
    faces = glyphs.read_faces(files, alphabet)
    families = sorted({_kin(face.family) for face in faces})
    pairs = [(face, character) for face in faces for character in face.characters]
    images = []
    with show_progress(f"drawing {alphabet[:5]}...", len(pairs)) as advance:
        for face, character in pairs:
            images.append(glyphs.draw(face.file, character))
            advance(1)
    return Pool(
        np.stack(images),
        np.array([alphabet.index(character) for _, character in pairs]),
        np.array([families.index(_kin(face.family)) for face, _ in pairs]),
    )


def _themes() -> list[icons.Icon]:
    return [icon for theme in icons.HELD_OUT_THEMES for icon in icons.read_theme(icons.ICON_FOLDER / theme.folder)]


def _draw_icons(listed: list[icons.Icon], classes: list[str]) -> Pool:
    drawn = [(icon, image) for icon, image in zip(listed, icons.draw(listed), strict=True) if image is not None]
    labels = np.array([classes.index(icon.label) for icon, _ in drawn])
    return Pool(np.stack([image for _, image in drawn]), labels, np.arange(len(drawn)))


def _at_most(count: int, pool: Pool) -> Pool:
    """So many pictures of each class, chosen at random, and all of the smaller classes."""
    order = np.random.default_rng(0).permutation(len(pool.labels))
    chosen = np.sort(np.concatenate([order[pool.labels[order] == label][:count] for label in np.unique(pool.labels)]))
    return Pool(pool.images[chosen], pool.labels[chosen], pool.groups[chosen])


def _kin(family: str) -> str:
    """The first word of a family's name, which its variants share."""
    return family.split()[0].casefold()


def _pool(root: Path, name: str, packages: Sequence[Package], draw: Callable[[], Pool]) -> Pool:
    """The pictures kept by an earlier call that drew the same; else they are drawn, and kept where that is possible."""
    found = versions(packages)
    sha = hashlib.sha256(json.dumps([found, PIL.__version__]).encode())
    for module in (__file__, backdrops.__file__, glyphs.__file__, icons.__file__):
        sha.update(Path(module).read_bytes())
    file = root / "miniature" / f"{name}-{sha.hexdigest()[:16]}.safetensors"
    try:
        return Pool(**load(file.read_bytes()))
    except (OSError, SafetensorError, TypeError):
        pool = draw()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, save(pool._asdict()))
    except OSError as error:
        _log.warning("%s cannot be written (%s), so the images of %s are drawn at every start.", file, error, name)
    return pool
