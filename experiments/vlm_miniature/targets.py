"""The drawn tasks of the small vision-language models: icons of held-out themes by a word, letters of held-out fonts.

A class of icons is a word of their file names, and each class is named as the corpus names such pictures. The
words, the themes and the fonts were fixed before any model was evaluated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from experiments.miniature import icons
from experiments.miniature.packages import Package
from experiments.miniature.targets import Drawings, at_most, cached, draw_characters, draw_icons
from experiments.vlm_miniature.pairs import character_name, words_of
from itm.core.splits import split_indices
from itm.data.folders import Listing, seeded_part

WORDS = (
    *("folder", "mail", "network", "battery", "weather", "face", "media", "edit", "view", "drive"),
    *("image", "audio", "video", "text", "document", "user", "calendar", "zoom", "go", "format"),
)
"""Frequent words of the corpus' icon names that name a thing or an action."""
THEMES = {
    "numix_words": icons.Theme(Package("numix-icon-theme", "GPL-3+"), "Numix"),
    "oxygen_words": icons.Theme(Package("oxygen-icon-theme", "LGPL-3+"), "oxygen"),
    "faba_words": icons.Theme(Package("faba-icon-theme", "GPL-3 or CC-BY-SA-4.0"), "Faba"),
    "paper_words": icons.Theme(Package("paper-icon-theme", "CC-BY-SA-4.0"), "Paper"),
    "obsidian_words": icons.Theme(Package("obsidian-icon-theme", "GPL-3"), "Obsidian"),
}
"""Theme of each task; the corpus has no icon of these themes."""
GREEK = "ΓΔΘΛΞΠΣΦΨΩ"
CYRILLIC = "БДЖИЛЦЧШЩЭЮЯЫЬ"
_GFS = ("artemisia", "baskerville", "bodoni-classic", "complutum", "didot", "neohellenic", "olga", "porson")
GREEK_FONTS = (
    *(Package(f"fonts-gfs-{family}", "OFL-1.1") for family in _GFS),
    *(Package(f"fonts-sil-{family}", "OFL-1.1") for family in ("galatia", "gentium", "gentiumplus")),
)
CYRILLIC_FONTS = (
    *(Package(f"fonts-sil-{family}", "OFL-1.1") for family in ("andika", "charis", "doulos", "gentiumplus")),
    Package("fonts-jura", "OFL-1.1"),
    Package("fonts-noto-core", "OFL-1.1"),
)
"""Fonts with letters of the script; the corpus has no font of the script."""

_TRAIN_FRACTION = 0.25  # nothing trains on it: it gives the images whose conductance is measured
LEAST = 8
"""Fewest icons of a class; words with fewer are left out."""
MOST = 60
"""Most icons of a class."""


def words(name: str, root: Path, split: str, seed: int) -> Listing:
    """List the icons of a theme that have exactly one of :data:`WORDS` in their names; most are the test split."""
    theme = THEMES[name]
    drawings = cached(root, name, [theme.package], partial(_draw_words, theme))
    present = np.unique(drawings.labels).tolist()
    labels = [present.index(label) for label in drawings.labels.tolist()]
    listing = Listing(drawings.images, labels, [WORDS[label] for label in present])
    return seeded_part(listing, split, seed, train_fraction=_TRAIN_FRACTION)


def letters(name: str, root: Path, split: str, seed: int) -> Listing:
    """List the capitals of a script by their Unicode names; the families of three quarters are the test split."""
    packages, alphabet = (GREEK_FONTS, GREEK) if name == "greek_letters" else (CYRILLIC_FONTS, CYRILLIC)
    drawings = cached(root, name, packages, partial(draw_characters, packages, alphabet, True))
    labels, families = torch.from_numpy(drawings.labels), torch.from_numpy(drawings.groups)
    train, test = split_indices(labels, _TRAIN_FRACTION, seed, families)
    listing = Listing(drawings.images, drawings.labels.tolist(), [character_name(letter) for letter in alphabet])
    return listing.take((train if split == "train" else test).tolist())


numix_words = partial(words, "numix_words")
oxygen_words = partial(words, "oxygen_words")
faba_words = partial(words, "faba_words")
paper_words = partial(words, "paper_words")
obsidian_words = partial(words, "obsidian_words")
greek_letters = partial(letters, "greek_letters")
cyrillic_letters = partial(letters, "cyrillic_letters")


def packages() -> list[Package]:
    """Return the packages of all tasks."""
    return list(dict.fromkeys([*(theme.package for theme in THEMES.values()), *GREEK_FONTS, *CYRILLIC_FONTS]))


def _draw_words(theme: icons.Theme) -> Drawings:
    known = _corpus_files()
    listed = []
    for icon in icons.read_theme(icons.ICON_FOLDER / theme.folder):
        found = {word for word in words_of(icon.file.stem) if word in WORDS}
        if len(found) == 1 and _digest(icon.file) not in known:
            listed.append(icons.Icon(icon.file, found.pop()))
    drawings = at_most(MOST, draw_icons(listed, WORDS))
    counts = np.bincount(drawings.labels, minlength=len(WORDS))
    kept = np.flatnonzero(counts[drawings.labels] >= LEAST)
    return Drawings(drawings.images[kept], drawings.labels[kept], drawings.groups[kept])


def _corpus_files() -> set[bytes]:
    themes: Sequence[icons.Theme] = icons.CORPUS_THEMES
    return {_digest(icon.file) for theme in themes for icon in icons.read_theme(icons.ICON_FOLDER / theme.folder)}


def _digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()
