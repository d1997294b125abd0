"""The targets of ``registration.md`` as datasets, which the catalogue reads by name; their pictures are drawn once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.miniature import artwork, icons, measured, symbols
from experiments.miniature.packages import Package
from experiments.miniature.targets import Drawings, at_most, cached, draw_icons
from itm.core.splits import split_indices
from itm.data import land_cover
from itm.data.folders import Listing, seeded_part

_TRAIN_FRACTION = 3 / 4  # of the pictures, or of their groups
_CODE = tuple(module.__file__ or "" for module in (artwork, measured, symbols))


def oxygen_icons(root: Path, split: str, seed: int) -> Listing:
    """List all icons of one glossy theme by purpose."""
    (theme,) = (theme for theme in icons.HELD_OUT_THEMES if theme.folder == "oxygen")
    classes = list(icons.LABELS.values())

    def draw() -> Drawings:
        return draw_icons(icons.read_theme(icons.ICON_FOLDER / theme.folder), classes)

    return _at_random(cached(root, "oxygen_icons", [theme.package], draw), classes, split, seed)


def stamps(root: Path, split: str, seed: int) -> Listing:
    """List the stamps of a drawing program by what they show."""
    drawings = _drawn(root, "stamps", [artwork.STAMPS], artwork.read_stamps, artwork.STAMP_CLASSES, 150)
    return _at_random(drawings, artwork.STAMP_CLASSES, split, seed)


def game_units(root: Path, split: str, seed: int) -> Listing:
    """List the units of a strategy game by race; a unit with all its frames is in one split."""
    drawings = _drawn(root, "game_units", [artwork.WESNOTH], artwork.read_units, artwork.UNIT_CLASSES, 80)
    return _by_group(drawings, artwork.UNIT_CLASSES, split, seed)


def game_terrain(root: Path, split: str, seed: int) -> Listing:
    """List pieces of the ground of a strategy game by kind; numbered variants are in one split."""
    drawings = _drawn(root, "game_terrain", [artwork.WESNOTH], artwork.read_terrain, artwork.TERRAIN_CLASSES, 80)
    return _by_group(drawings, artwork.TERRAIN_CLASSES, split, seed)


def game_creatures(root: Path, split: str, seed: int) -> Listing:
    """List the frames of the creatures of a platform game."""
    classes = artwork.CREATURE_CLASSES
    drawings = _drawn(root, "game_creatures", [artwork.CREATURES], artwork.read_creatures, classes, 200)
    return _at_random(drawings, classes, split, seed)


def game_tiles(root: Path, split: str, seed: int) -> Listing:
    """List the tiles of an adventure game by kind of thing; a thing with all its frames is in one split."""
    drawings = _drawn(root, "game_tiles", [artwork.CROSSFIRE], artwork.read_tiles, artwork.TILE_CLASSES, 95)
    return _by_group(drawings, artwork.TILE_CLASSES, split, seed)


def chess_pieces(root: Path, split: str, seed: int) -> Listing:
    """List chess pieces of both colours; a set is in one split."""
    classes = list(artwork.CHESS_CLASSES.values())
    drawings = _drawn(root, "chess_pieces", artwork.CHESS, artwork.read_chess, classes, 100)
    return _by_group(drawings, classes, split, seed)


def emoji(root: Path, split: str, seed: int) -> Listing:
    """List emoji of one character by Unicode's group."""
    drawings = _drawn(root, "emoji", symbols.EMOJI, symbols.read_emoji, symbols.EMOJI_CLASSES, 150)
    return _at_random(drawings, symbols.EMOJI_CLASSES, split, seed)


def music_signs(root: Path, split: str, seed: int) -> Listing:
    """List signs of music by kind; a sign in all its sizes is in one split."""

    def draw() -> Drawings:
        return at_most(120, symbols.draw_music(symbols.music_files()))

    drawings = cached(root, "music_signs", [symbols.MUSIC], draw, _CODE)
    return _by_group(drawings, symbols.MUSIC_CLASSES, split, seed)


def animal_outlines(root: Path, split: str, seed: int) -> Listing:
    """List silhouettes of animals."""
    return _at_random(measured.animal_outlines(), measured.ANIMALS, split, seed)


def solar_cells(root: Path, split: str, seed: int) -> Listing:
    """List photographs of solar cells by kind of crystal and probability of a defect."""
    return _at_random(measured.solar_cells(), measured.SOLAR_CLASSES, split, seed)


def land_tiles(root: Path, split: str, seed: int) -> Listing:
    """List tiles of a satellite image by their dominant land cover; bands of longitude are in one split."""
    return _by_group(measured.land_tiles(), land_cover.CLASSES, split, seed)


def brain_regions(root: Path, split: str, seed: int) -> Listing:
    """List patches of a brain by the region at their centre; blocks of slices are in one split."""
    drawings = cached(root, "brain_regions", [measured.BRAIN], measured.brain_regions, _CODE)
    return _by_group(drawings, list(measured.BRAIN_CLASSES), split, seed)


def packages() -> list[Package]:
    """Return the packages that the targets are drawn from."""
    drawn = [artwork.STAMPS, artwork.WESNOTH, artwork.CREATURES, artwork.CROSSFIRE, *artwork.CHESS]
    return [*drawn, *symbols.EMOJI, symbols.MUSIC, measured.BRAIN]


def _drawn(
    root: Path,
    name: str,
    packages: Sequence[Package],
    read: Callable[[], Sequence[artwork.Picture]],
    classes: Sequence[str],
    most: int,
) -> Drawings:
    return cached(root, name, packages, lambda: artwork.draw_pictures(read(), classes, most), _CODE)


def _at_random(drawings: Drawings, classes: Sequence[str], split: str, seed: int) -> Listing:
    listing = Listing(drawings.images, drawings.labels.tolist(), list(classes))
    return seeded_part(listing, split, seed, train_fraction=_TRAIN_FRACTION)


def _by_group(drawings: Drawings, classes: Sequence[str], split: str, seed: int) -> Listing:
    groups = torch.from_numpy(drawings.groups.astype(np.int64))
    train, test = split_indices(torch.from_numpy(drawings.labels), _TRAIN_FRACTION, seed, groups)
    listing = Listing(drawings.images, drawings.labels.tolist(), list(classes))
    return listing.take((train if split == "train" else test).tolist())
