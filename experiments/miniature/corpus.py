"""The corpus of the pre-training: about 80,000 images of 32 x 32 pixels from Debian packages.

``python -m experiments.miniature.corpus`` builds it once and writes it to one file.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.miniature import glyphs, icons, registered, targets
from experiments.miniature.backdrops import SIZE
from experiments.miniature.packages import Package, files_of, versions
from experiments.miniature.pictures import BUILD, CORPUS_FILE, Corpus
from itm.core.console import console, plain_table
from itm.core.errors import ItmError
from itm.core.progress import show_progress
from itm.core.splits import stratified_sample
from itm.data.image_set import default_root, load_images

FASHION = Package("dataset-fashion-mnist", "MIT")

IMAGES_PER_CHARACTER = 120
"""Images per character, each in another font; with fewer fonts each font draws several."""


def default_file() -> Path:
    """Return the default path of the corpus: ``miniature/corpus.safetensors`` beside the datasets."""
    return default_root() / CORPUS_FILE


def read_corpus(file: Path | None = None) -> Corpus:
    """Read the corpus; build it first if the file is missing, which takes a minute or two.

    Args:
        file: Path of the corpus, by default :func:`default_file`.

    Raises:
        DataError: If the file is damaged, or missing and packages for building it are not installed.
    """
    file = default_file() if file is None else file
    if not file.exists():
        build_corpus().save(file)
    return Corpus.load(file)


def build_corpus(limit: int | None = None, seed: int = 0) -> Corpus:
    """Build the corpus from installed packages: Fashion-MNIST's training images, icons and characters.

    Args:
        limit: Number of images in proportion to the classes, or None for all. Icons that turn out to be copies are left
            out, so the result may be smaller.
        seed: Seed of colours, positions and backdrops, and of the sample.

    Raises:
        DataError: If packages are missing; the message lists them.
        SettingError: If ``limit`` is smaller than the number of classes.
    """
    packages = _packages()
    found = versions(packages)
    parts = [_fashion(), _icons(seed), _glyphs(seed)]
    labels = list(chain.from_iterable(part.labels for part in parts))
    origins = list(chain.from_iterable(part.origins for part in parts))
    classes = tuple(chain.from_iterable(part.classes for part in parts))
    numbers = {name: number for number, name in enumerate(classes)}
    truth = torch.tensor([numbers[label] for label in labels])
    chosen = torch.arange(len(truth)) if limit is None else stratified_sample(truth, limit, seed)
    images, kept = _draw(parts, chosen)
    counts = Counter(origins[row] for row in kept)
    sources = {}
    for package in packages:
        sources[package.name] = f"{found[package.name]}, {package.license}, {counts[package.name]} images"
    return Corpus(np.stack(images), truth[kept].numpy(), classes, sources)


def _packages() -> list[Package]:
    return [FASHION, *(theme.package for theme in icons.CORPUS_THEMES), *glyphs.CORPUS_FONTS]


@dataclass(frozen=True)
class _Part:
    """One source of images.

    Args:
        classes: Names of its classes.
        labels: Class of each image.
        origins: Package of each image.
        draw: Draws the images of some rows; None for a row to leave out.
    """

    classes: Sequence[str]
    labels: Sequence[str]
    origins: Sequence[str]
    draw: Callable[[list[int]], Iterator[NDArray[np.uint8] | None]]


def _draw(parts: Sequence[_Part], chosen: Tensor) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Draw the chosen rows of all parts, counted through; return the images and their rows."""
    images, kept = [], []
    start = 0
    with show_progress("corpus", len(chosen)) as advance:
        for part in parts:
            rows = chosen[(chosen >= start) & (chosen < start + len(part.labels))]
            for row, image in zip(rows.tolist(), part.draw((rows - start).tolist()), strict=True):
                if image is not None:
                    images.append(image)
                    kept.append(row)
                advance(1)
            start += len(part.labels)
    return images, kept


def _fashion() -> _Part:
    images = load_images("fashion_mnist", "train")
    pixels = np.asarray(images.items, dtype=np.uint8)
    margin = (SIZE - pixels.shape[1]) // 2

    def draw(rows: list[int]) -> Iterator[NDArray[np.uint8]]:
        for row in rows:
            yield np.repeat(np.pad(pixels[row], margin)[..., None], 3, axis=-1)

    classes = [f"fashion/{name}" for name in images.classes]
    labels = [classes[label] for label in images.labels.tolist()]
    return _Part(classes, labels, [FASHION.name] * len(labels), draw)


def _icons(seed: int) -> _Part:
    listed: list[icons.Icon] = []
    origins: list[str] = []
    for theme in icons.CORPUS_THEMES:
        found = icons.read_theme(icons.ICON_FOLDER / theme.folder)
        listed += found
        origins += [theme.package.name] * len(found)

    def draw(rows: list[int]) -> Iterator[NDArray[np.uint8] | None]:
        return icons.draw((listed[row] for row in rows), seed)

    classes = [f"icon/{label}" for label in icons.LABELS.values()]
    return _Part(classes, [f"icon/{icon.label}" for icon in listed], origins, draw)


class Glyph(NamedTuple):
    """One image of a character: its font, and its number among the images of this character and font."""

    package: str
    file: Path
    character: str
    variant: int


def list_glyphs(seed: int) -> list[Glyph]:
    """List the images of characters of the corpus, for a seed that chooses the fonts."""
    faces = []
    for package in glyphs.CORPUS_FONTS:
        for face in glyphs.read_faces(files_of(package, glyphs.SUFFIXES), glyphs.CORPUS_ALPHABET):
            faces.append((package.name, face))
    return _plan(faces, np.random.default_rng(seed))


def _glyphs(seed: int) -> _Part:
    listed = list_glyphs(seed)

    def draw(rows: list[int]) -> Iterator[NDArray[np.uint8]]:
        for row in rows:
            glyph = listed[row]
            yield glyphs.draw(glyph.file, glyph.character, seed, glyph.variant)

    classes = [f"glyph/{character}" for character in glyphs.CORPUS_ALPHABET]
    return _Part(classes, [f"glyph/{glyph.character}" for glyph in listed], [glyph.package for glyph in listed], draw)


def _plan(faces: Sequence[tuple[str, glyphs.Face]], generator: np.random.Generator) -> list[Glyph]:
    """Choose the fonts of each character: all in random order, over again until there are enough images."""
    listed = []
    for character in glyphs.CORPUS_ALPHABET:
        able = [(package, face.file) for package, face in faces if character in face.characters]
        order = generator.permutation(len(able)).tolist()
        for turn in range(IMAGES_PER_CHARACTER if able else 0):
            package, file = able[order[turn % len(able)]]
            listed.append(Glyph(package, file, character, turn // len(able)))
    return listed


def _main() -> None:
    parser = argparse.ArgumentParser(prog=BUILD, description="Build the corpus of small images if it is missing.")
    parser.add_argument("file", nargs="?", type=Path, default=default_file(), help="path of the corpus (%(default)s)")
    parser.add_argument("--targets", action="store_true", help="check the packages of the targets, too")
    args = parser.parse_args()
    file = args.file
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if args.targets:
            versions([*_packages(), *targets.packages(), *registered.packages()])
        corpus = read_corpus(file)
    except (ItmError, OSError) as error:
        sys.exit(str(error))
    table = plain_table(f"{len(corpus.labels)} images, {len(corpus.classes)} classes")
    for title in ("package", "version, licence, images"):
        table.add_column(title)
    for package, facts in corpus.sources.items():
        table.add_row(package, facts)
    console().print(table, file, sep="\n", soft_wrap=True)


if __name__ == "__main__":
    _main()
