"""Pairs of a picture and its name: icons with their file names, characters with their Unicode names.

``python -m experiments.vlm_miniature.pairs`` draws them once and writes them to one file.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from experiments.miniature import corpus, glyphs, icons
from itm.core.errors import DataError, ItmError
from itm.core.files import json_digest, write_atomic
from itm.core.progress import show_progress
from itm.data.image_set import default_root

PAIRS_FILE = Path("miniature", "pairs.safetensors")
"""Path of the pairs below the folder of the datasets."""
BUILD = "python -m experiments.vlm_miniature.pairs"

KINDS = ("icons", "glyphs")
"""Kinds of pairs; the share of each is what the models differ in."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures with their names.

    Args:
        images: uint8, ``[N, 32, 32, 3]``.
        names: Name of each picture, lower case words.
        kinds: Kind of each picture, an index into :data:`KINDS`, int64, ``[N]``.
    """

    images: NDArray[np.uint8]
    names: tuple[str, ...]
    kinds: NDArray[np.int64]

    @property
    def digest(self) -> str:
        """The sha256 of the names and of the pictures' sums, in hexadecimal."""
        return json_digest([self.names, self.images.sum((1, 2, 3), dtype=np.int64).tolist()])

    def save(self, file: Path) -> None:
        """Write the pairs atomically as one safetensors file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, NDArray[Any]] = {"images": self.images, "kinds": self.kinds}
        write_atomic(file, save(tensors, metadata={"names": json.dumps(self.names), "digest": self.digest}))

    @classmethod
    def load(cls, file: Path) -> Pairs:
        """Read a file that :meth:`save` wrote.

        Raises:
            DataError: If it is damaged or does not hold pairs.
        """
        try:
            with safe_open(file, framework="numpy") as content:
                metadata = content.metadata() or {}
                names = tuple(json.loads(metadata["names"]))
                pairs = cls(content.get_tensor("images"), names, content.get_tensor("kinds"))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"{file}: not readable as pairs ({error}); delete it and run `{BUILD}`.") from error
        if pairs.digest != metadata.get("digest"):
            raise DataError(f"{file}: damaged, the checksum does not match; delete it and run `{BUILD}`.")
        return pairs


def words_of(name: str) -> list[str]:
    """Return the lower-case words of an icon's file name: ``"folder-openNew2"`` gives folder, open, new."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return [word for word in re.split(r"[^a-z]+", spaced.lower()) if len(word) > 1]


def character_name(character: str) -> str:
    """Return the Unicode name of a character in lower case, such as ``"latin capital letter a"``."""
    return unicodedata.name(character).lower()


def read_pairs(file: Path | None = None) -> Pairs:
    """Read the pairs; draw them first if the file is missing, which takes a minute.

    Raises:
        DataError: If the file is damaged, or Debian packages for drawing are not installed.
    """
    file = default_root() / PAIRS_FILE if file is None else file
    if not file.exists():
        draw_pairs().save(file)
    return Pairs.load(file)


def draw_pairs(limit: int | None = None, seed: int = 0) -> Pairs:
    """Draw the pairs from the icon themes and fonts of the miniature's corpus.

    Args:
        limit: Number of pairs of each kind, or None for all.
        seed: Seed of colours, positions and backdrops.

    Raises:
        DataError: If Debian packages are missing.
    """
    listed = [icon for theme in icons.CORPUS_THEMES for icon in icons.read_theme(icons.ICON_FOLDER / theme.folder)]
    named = [icon for icon in listed if words_of(icon.file.stem)][:limit]
    characters = corpus.list_glyphs(seed)[:limit]
    images, names, kinds = [], [], []
    with show_progress("pairs", len(named) + len(characters)) as advance:
        for icon, image in zip(named, icons.draw(named, seed), strict=True):
            if image is not None:
                images.append(image)
                names.append(" ".join(words_of(icon.file.stem)))
                kinds.append(0)
            advance(1)
        for glyph in characters:
            images.append(glyphs.draw(glyph.file, glyph.character, seed, glyph.variant))
            names.append(character_name(glyph.character))
            kinds.append(1)
            advance(1)
    return Pairs(np.stack(images), tuple(names), np.array(kinds))


def _main() -> None:
    parser = argparse.ArgumentParser(prog=BUILD, description="Draw the pairs of pictures and names if missing.")
    parser.add_argument("file", nargs="?", type=Path, help="path of the pairs (below the folder of the datasets)")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        pairs = read_pairs(parser.parse_args().file)
    except (ItmError, OSError) as error:
        sys.exit(str(error))
    counts = Counter(KINDS[kind] for kind in pairs.kinds.tolist())
    print(f"{len(pairs.names)} pairs, {len(set(pairs.names))} names: {dict(counts)}")


if __name__ == "__main__":
    _main()
