"""A small vocabulary for open_clip's tokenizer, learned from the names of the pairs.

The tokenizer of CLIP has 49,408 tokens, whose embeddings alone would outweigh a small model many times. The same
tokenizer takes any list of merges; this one is learned by byte-pair encoding (Sennrich et al., ACL 2016).
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from itm.core.files import write_atomic

MERGES = 512
"""Number of merges; the vocabulary has as many tokens, two for each byte, and two marks."""
VOCABULARY = MERGES + 2 * 256 + 2
CONTEXT = 20
"""Tokens of the longest text; longer ones are cut."""

_END = "</w>"  # marks the last piece of a word, as the tokenizer does


def learn_merges(names: Iterable[str], count: int = MERGES) -> list[tuple[str, str]]:
    """Learn merges: the most frequent pair of neighbouring pieces is joined, again and again.

    Args:
        names: Lower-case names of ASCII words.
        count: Number of merges.

    Returns:
        Pairs of pieces in the order of the merges; ties are broken by the alphabet.
    """
    words = Counter(word for name in names for word in name.split())
    pieces = {word: (*word[:-1], word[-1] + _END) for word in words}
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {word: _joined(parts, best) for word, parts in pieces.items()}
    return merges


def _joined(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    found: list[str] = []
    position = 0
    while position < len(parts):
        if parts[position : position + 2] == pair:
            found.append(parts[position] + parts[position + 1])
            position += 2
        else:
            found.append(parts[position])
            position += 1
    return tuple(found)


def write_merges(merges: Iterable[tuple[str, str]], file: Path) -> None:
    """Write merges in the format of CLIP's vocabulary: a line of description, then one merge per line."""
    lines = ["merges learned from names of icons and characters", *(" ".join(pair) for pair in merges)]
    file.parent.mkdir(parents=True, exist_ok=True)
    # without a time, so that equal merges give equal files
    write_atomic(file, gzip.compress("\n".join(lines).encode(), mtime=0))
