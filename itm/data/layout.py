"""Names of split folders: which folder trains and which ones are held out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TRAIN = ("train", "training")
HELD_OUT = ("test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation", "holdout")
"""Words of held-out splits; the first that has labelled images is taken."""

# Words that say nothing about the split, as in train_images beside test_set
_NEUTRAL = frozenset(
    {"image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "jpg", "jpeg", "png", "data"}
    | {"dataset", "set", "split", "folder", "cropped", "resized"}
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
_GLUED = re.compile(rf"^({'|'.join((*TRAIN, *HELD_OUT))})(?:set|data|images|imgs|split)$")


class Splits(NamedTuple):
    """Split folders of a dataset.

    Args:
        train: The training split.
        held_out: The others, the preferred one first; may be empty.
    """

    train: Path
    held_out: tuple[Path, ...]


def find_splits(folders: Sequence[Path]) -> Splits | None:
    """Recognise split folders by their names: ``train`` and ``dev``, ``train_images`` and ``val_images``.

    Args:
        folders: The folders in a dataset's folder, sorted.

    Returns:
        The split folders, or None if none of the names means a training split. The other words of the names have to
        agree: ``cars_train`` and ``dogs_test`` are not splits of one dataset.
    """
    roles = {folder: _role(folder.name) for folder in folders}
    trains = sorted((TRAIN.index(word), rest, folder) for folder, (word, rest) in roles.items() if word in TRAIN)
    for _, rest, train in trains:
        others = sorted(
            (HELD_OUT.index(word), folder)
            for folder, (word, other) in roles.items()
            if word in HELD_OUT and other == rest
        )
        if others:
            return Splits(train, tuple(folder for _, folder in others))
    return next((Splits(train, ()) for _, rest, train in trains if not rest), None)


def _role(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the word of a split that a name holds, or an empty one, and its other words."""
    joined = re.sub("h(old|eld)[ _-]?out", "holdout", name, flags=re.IGNORECASE)
    words = [_GLUED.sub(r"\1", word.casefold()) for word in _WORD.findall(joined)]
    splits = [word for word in words if word in (*TRAIN, *HELD_OUT)]
    if len(splits) != 1:
        return "", ()
    return splits[0], tuple(word for word in words if word != splits[0] and word not in _NEUTRAL)
