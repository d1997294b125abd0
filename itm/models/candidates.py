"""Facts of timm's pretrained models without their weights: size, cost, width, pixels, licence, pre-training.

``python -m itm.models.candidates`` prints the table and filters it; ``... --update`` adds what the installed timm has
more and writes the CSV file of the package. Models that a newer timm adds are computed when they are asked for.

Parameters and multiply-adds are counted on PyTorch's meta device, which allocates nothing, at the input size of the
pretrained configuration and without the source head.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import pandas as pd
import timm
import torch
from timm.models import get_pretrained_cfg, model_entrypoint
from torch import nn

from itm.core.console import console, print_frame
from itm.core.errors import SettingError, unknown
from itm.core.files import write_atomic
from itm.core.progress import show_progress
from itm.models.pretraining import data_of, paradigm_of, tier_of

TABLE = "candidates.csv"
"""The package's file with one row per pretrained id of timm."""


@dataclass(frozen=True)
class CandidateFacts:
    """Facts of one pretrained model of timm.

    Args:
        name: timm's id, ``architecture.tag``.
        parameters: Number of parameters without the source head.
        macs: Multiply-adds of one image at ``pixels``.
        width: Width ``D`` of the pooled features.
        pixels: Side of the input of the pretrained configuration.
        license: Licence of the weights as timm states it; ``"unknown"`` where it states none.
        tier: ``"permissive"``, ``"research"``, ``"custom"`` (terms of its own) or ``"unknown"``.
        family: timm's module of the architecture, such as ``"vision_transformer"``.
        paradigm: How the weights were pre-trained, see :func:`itm.models.pretraining.paradigm_of`.
        data: Data sets of the pre-training in their order, joined by ``+``; empty where the id does not say.
    """

    name: str
    parameters: int
    macs: int
    width: int
    pixels: int
    license: str
    tier: str
    family: str
    paradigm: str
    data: str


@lru_cache(maxsize=1)
def shipped() -> pd.DataFrame:
    """Return the table of the package: index timm's id, columns the fields of :class:`CandidateFacts`."""
    with (files("itm.models") / TABLE).open("r", encoding="utf-8") as file:
        return pd.read_csv(file, index_col="name", keep_default_na=False)


def facts_of(name: str) -> CandidateFacts:
    """Return the facts of one pretrained id; ids that the shipped table lacks are computed, which takes seconds.

    Raises:
        SettingError: If timm has no such pretrained id, or cannot run the network.
    """
    table = shipped()
    if name in table.index:
        row = table.loc[name].to_dict()
        return CandidateFacts(name, *(row[field.name] for field in fields(CandidateFacts)[1:]))
    return compute(name)


def compute(name: str) -> CandidateFacts:
    """Count parameters and multiply-adds of a pretrained id on the meta device.

    Raises:
        SettingError: If timm has no such pretrained id, or cannot run the network.
    """
    if name not in pretrained_ids():
        raise unknown("models", name, pretrained_ids())
    config = get_pretrained_cfg(name)
    assert config is not None  # pretrained_ids lists only ids with a configuration
    architecture = name.partition(".")[0]
    channels, pixels, _ = config.input_size
    try:
        parameters, macs, width = count(lambda: timm.create_model(architecture, num_classes=0), channels, pixels)
    except Exception as error:  # timm's networks raise what they like
        raise SettingError(f"models={name}: timm cannot run it without weights ({_first_line(error)}).") from error
    license_ = config.license or "unknown"
    return CandidateFacts(
        name=name,
        parameters=parameters,
        macs=macs,
        width=width,
        pixels=pixels,
        license=license_,
        tier=tier_of(license_),
        family=family_of(architecture),
        paradigm=paradigm_of(name),
        data="+".join(data_of(name)),
    )


def count(build: Callable[[], nn.Module], channels: int, pixels: int) -> tuple[int, int, int]:
    """Count a network that is never allocated.

    Args:
        build: Builds the network, without its source head; called on the meta device.
        channels: Channels of its input.
        pixels: Side of its input.

    Returns:
        Parameters, multiply-adds of one image, width of the features.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports sympy, which only this needs

    fused = timm.layers.config.use_fused_attn()
    timm.layers.config.set_fused_attn(False)  # the counter does not know the fused kernels of attention pooling
    try:
        with torch.device("meta"):
            network = build().eval()
            images = torch.empty(1, channels, pixels, pixels)
        network.requires_grad_(False)  # the counter hooks what needs a gradient, which class tokens break
        with FlopCounterMode(display=False) as counter:
            features = network(images)
    finally:
        timm.layers.config.set_fused_attn(bool(fused))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters, counter.get_total_flops() // 2, int(features.shape[-1])


@lru_cache(maxsize=1)
def pretrained_ids() -> tuple[str, ...]:
    """Return every pretrained id of the installed timm, sorted."""
    return tuple(timm.list_pretrained())


def automatic() -> list[str]:
    """Return the ids that ``zoo=auto`` chooses from: the shipped table without timm's networks for tests."""
    known = set(pretrained_ids())
    return [name for name in shipped().index if name in known and not name.startswith("test_")]


def matching(patterns: Iterable[str]) -> list[str]:
    """Return the pretrained ids that match any of the patterns, each once, in the order of the patterns.

    Args:
        patterns: Ids, or patterns with ``*`` and ``?``.

    Raises:
        SettingError: If a pattern matches nothing; the closest id is named.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        names = fnmatch.filter(pretrained_ids(), pattern)
        if not names:
            raise unknown("models", pattern, _near(pattern))
        found.update(dict.fromkeys(names))
    return list(found)


def family_of(architecture: str) -> str:
    """Return timm's module of an architecture, such as ``"resnet"`` for ``resnet50``."""
    return str(model_entrypoint(architecture).__module__.rpartition(".")[2])


def _near(pattern: str) -> list[str]:
    """Return ids that begin like a pattern, so that an error does not list all of timm."""
    stem = pattern.partition("*")[0].partition(".")[0]
    for length in range(len(stem), 2, -1):
        near = [name for name in pretrained_ids() if name.startswith(stem[:length])]
        if near:
            return near[:20]
    return ["resnet50.a1_in1k", "convnext_tiny.fb_in22k", "vit_small_patch14_dinov2.lvd142m"]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def update(path: Path) -> pd.DataFrame:
    """Compute the facts of every pretrained id that the file lacks, and write it; ids that timm cannot run are printed.

    Raises:
        OSError: If the file cannot be written.
    """
    known = shipped() if path.is_file() else pd.DataFrame(columns=[field.name for field in fields(CandidateFacts)])
    rows = []
    with show_progress("candidates", len(pretrained_ids()), unit="models") as advance:
        for name in pretrained_ids():
            advance(1)
            try:
                rows.append(facts_of(name) if name in known.index else compute(name))
            except SettingError as error:
                print(error, file=sys.stderr)
    table = pd.DataFrame([asdict(row) for row in rows])
    write_atomic(path, table.to_csv(index=False, lineterminator="\n").encode())
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the candidates that match, or compute the table anew."""
    parser = argparse.ArgumentParser(prog="python -m itm.models.candidates", description=__doc__)
    parser.add_argument("patterns", nargs="*", default=["*"], help="ids, or patterns such as 'convnext_tiny*'")
    parser.add_argument("--parameters", type=float, help="at most this many parameters, as in 30e6")
    parser.add_argument("--gmacs", type=float, help="at most this many billion multiply-adds per image")
    parser.add_argument("--license", nargs="+", help="as budget.license: permissive, noncommercial, or licences")
    parser.add_argument("--models", type=int, help="at most this many, as different as possible, as budget.models")
    parser.add_argument("--tier", choices=("permissive", "research", "custom", "unknown"), help="tier of the licence")
    parser.add_argument("--paradigm", help="how the weights were pre-trained, such as dinov2 or supervised")
    parser.add_argument("--csv", action="store_true", help="print CSV")
    parser.add_argument("--update", action="store_true", help="compute the table of the package anew")
    chosen = parser.parse_args(arguments)
    if chosen.update:
        update(Path(__file__).with_name(TABLE))
        return
    try:
        table = _select(chosen)
    except SettingError as error:
        sys.exit(f"error: {error}")
    if chosen.csv:
        print(table.to_csv(), end="")
        return
    table = table.assign(parameters=table["parameters"] / 1e6, macs=table["macs"] / 1e9)
    table = table.rename(columns={"parameters": "M parameters", "macs": "GMACs"}).drop(columns=["tier", "family"])
    print_frame(table, f"{len(table)} pretrained models of timm {timm.__version__}", digits=1, to=console(width=150))


def _select(chosen: argparse.Namespace) -> pd.DataFrame:
    """Return the rows of the table that the command line asks for."""
    from itm.models.budget import Budget, select  # which imports this module

    names = matching(chosen.patterns)
    names = [name for name in names if name in shipped().index or len(names) <= 20]
    words = chosen.license[0] if chosen.license and len(chosen.license) == 1 else chosen.license
    limits = Budget(parameters=chosen.parameters, gmacs=chosen.gmacs, license=words, models=chosen.models)
    kept = select({name: {"model": name, "pretrained": True} for name in names}, limits).kept
    table = pd.DataFrame([asdict(facts_of(name)) for name in kept]).set_index("name")
    if chosen.tier is not None:
        table = table[table["tier"] == chosen.tier]
    if chosen.paradigm is not None:
        if chosen.paradigm not in set(shipped()["paradigm"]):
            raise unknown("--paradigm", chosen.paradigm, sorted(set(shipped()["paradigm"])))
        table = table[table["paradigm"] == chosen.paradigm]
    return table.sort_values("parameters")


if __name__ == "__main__":
    main()
