"""The corpus that small models are pre-trained on: some 80,000 real images of 32 x 32 pixels, from Debian packages.

``python -m experiments.miniature.corpus`` builds it once and keeps it as one file.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from experiments.miniature import glyphs, icons, targets
from experiments.miniature.backdrops import SIZE
from experiments.miniature.packages import Package, files_of, versions
from experiments.miniature.pictures import BUILD, CORPUS_FILE, Corpus
from itm.core.errors import ItmError
from itm.core.progress import show_progress
from itm.core.splits import stratified_sample
from itm.data.image_set import default_root, load_images

FASHION = Package("dataset-fashion-mnist", "MIT")

IMAGES_PER_CHARACTER = 120
"""Each character is drawn by so many fonts, or several times by each where fewer show it."""


def default_file() -> Path:
    """Where the corpus is kept: ``miniature/corpus.safetensors`` beside the datasets."""
    return default_root() / CORPUS_FILE


def read_corpus(file: Path | None = None) -> Corpus:
    """Read the corpus; the first call builds it, which takes a minute or two.

    Args:
        file: Where it is kept, by default :func:`default_file`.

    Raises:
        DataError: If it is damaged, or is not there and cannot be built.
    """
    file = default_file() if file is None else file
    if not file.exists():
        build_corpus().save(file)
    return Corpus.load(file)


def build_corpus(limit: int | None = None, seed: int = 0) -> Corpus:
    """Build the corpus from installed packages: Fashion-MNIST's training images, icons and characters.

    Args:
        limit: Build about so many images only, in proportion to the classes; of icons, some may turn out to show the
            same picture and are left out.
        seed: Decides colours, places and backdrops, and which images ``limit`` keeps.

    Raises:
        DataError: If packages are not installed; the message names all of them.
        SettingError: If ``limit`` is smaller than the number of classes.
    """
    packages = _packages()
    found = versions(packages)
    parts = [_fashion(), _icons(seed), _glyphs(seed)]
    labels = [label for part in parts for label in part.labels]
    classes = tuple(name for part in parts for name in part.classes)
    ids = {name: place for place, name in enumerate(classes)}
    truth = torch.tensor([ids[label] for label in labels])
    chosen = torch.arange(len(truth)) if limit is None else stratified_sample(truth, limit, seed)
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
    origins = [origin for part in parts for origin in part.origins]
    counts = Counter(origins[row] for row in kept)
    sources = {
        package.name: f"{found[package.name]}, {package.license}, {counts[package.name]} images" for package in packages
    }
    return Corpus(np.stack(images), truth[kept].numpy(), classes, sources)


def _packages() -> list[Package]:
    return [FASHION, *(theme.package for theme in icons.CORPUS_THEMES), *glyphs.CORPUS_FONTS]


@dataclass(frozen=True)
class _Part:
    """A source of images: label and package of each, and how some of them are drawn, None for one to leave out."""

    classes: Sequence[str]
    labels: Sequence[str]
    origins: Sequence[str]
    draw: Callable[[list[int]], Iterator[NDArray[np.uint8] | None]]


def _fashion() -> _Part:
    images = load_images("fashion_mnist", "train")
    pixels = np.asarray(images.items, dtype=np.uint8)
    margin = (SIZE - pixels.shape[1]) // 2

    def draw(rows: list[int]) -> Iterator[NDArray[np.uint8]]:
        for row in rows:
            yield np.repeat(np.pad(pixels[row], margin)[..., None], 3, axis=-1)

    names = [f"fashion/{images.classes[label]}" for label in images.labels.tolist()]
    return _Part([f"fashion/{name}" for name in images.classes], names, [FASHION.name] * len(names), draw)


def _icons(seed: int) -> _Part:
    listed = [
        (theme.package.name, icon)
        for theme in icons.CORPUS_THEMES
        for icon in icons.read_theme(icons.ICON_FOLDER / theme.folder)
    ]
    return _Part(
        [f"icon/{label}" for label in icons.LABELS.values()],
        [f"icon/{icon.label}" for _, icon in listed],
        [package for package, _ in listed],
        lambda rows: icons.draw((listed[row][1] for row in rows), seed),
    )


def _glyphs(seed: int) -> _Part:
    faces = [
        (package.name, face)
        for package in glyphs.CORPUS_FONTS
        for face in glyphs.read_faces(files_of(package, glyphs.SUFFIXES), glyphs.CORPUS_ALPHABET)
    ]
    random = np.random.default_rng(seed)
    pictures = []
    for character in glyphs.CORPUS_ALPHABET:
        able = [(package, face.file) for package, face in faces if character in face.characters]
        order = random.permutation(len(able)).tolist()
        for turn in range(IMAGES_PER_CHARACTER if able else 0):
            package, file = able[order[turn % len(able)]]
            pictures.append((package, file, character, turn // len(able)))
    return _Part(
        [f"glyph/{character}" for character in glyphs.CORPUS_ALPHABET],
        [f"glyph/{character}" for _, _, character, _ in pictures],
        [package for package, *_ in pictures],
        lambda rows: (
            glyphs.draw(file, character, seed, variant)
            for _, file, character, variant in map(pictures.__getitem__, rows)
        ),
    )


def _main() -> None:
    parser = argparse.ArgumentParser(prog=BUILD, description="Build the corpus of small images, unless it is there.")
    parser.add_argument("file", nargs="?", type=Path, default=default_file(), help="where to keep it (%(default)s)")
    parser.add_argument("--targets", action="store_true", help="ask for the packages of the targets, too")
    args = parser.parse_args()
    file = args.file
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if args.targets:
            versions([*_packages(), *targets.packages()])
        corpus = read_corpus(file)
    except (ItmError, OSError) as error:
        sys.exit(str(error))
    table = Table(
        "package", "version, licence, images", title=f"{len(corpus.labels)} images, {len(corpus.classes)} classes"
    )
    for package, words in corpus.sources.items():
        table.add_row(package, words)
    Console().print(table, file, sep="\n", soft_wrap=True)


if __name__ == "__main__":
    _main()
