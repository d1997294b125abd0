"""Limits on candidates, checked without weights: size, cost, latency, licence, number, minutes of extraction."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import timm
import torch

from itm.core.errors import SettingError, unknown
from itm.core.settings import Count, Positive, settings
from itm.models import candidates, vlm
from itm.models.candidates import CandidateFacts
from itm.models.entry import ZooEntry
from itm.models.families import Family
from itm.models.pretraining import NO_WEIGHTS, TIERS, paradigm_of, tier_of


@settings("budget")
class Budget:
    """Limits on the cost of a candidate; a limit that is None is off.

    Args:
        parameters: Most parameters without the source head.
        gmacs: Most billion multiply-adds of one image.
        latency_ms: Most milliseconds of one image on this machine's CPU, batch 1, measured with random weights.
        license: ``"permissive"``, ``"noncommercial"`` (permissive and research-only licences), or names of licences.
            A licence that is unknown, or has terms of its own, is in neither and must be named.
        models: Most candidates; those kept differ in architecture and pre-training as far as they can.
        minutes: Most minutes of extraction on this machine's CPU, estimated from multiply-adds.
    """

    parameters: Positive | None = None
    gmacs: Positive | None = None
    latency_ms: Positive | None = None
    license: str | Sequence[str] | None = None
    models: Count | None = None
    minutes: Positive | None = None


@dataclass(frozen=True)
class Selection:
    """Result of a selection.

    Args:
        kept: Names of candidates, those that differ most first.
        removed: Reason by name, for each candidate that was left out.
        facts: Facts by name, of all candidates.
    """

    kept: tuple[str, ...]
    removed: Mapping[str, str]
    facts: Mapping[str, CandidateFacts]


def select(zoo: Mapping[str, Mapping[str, Any] | None], budget: Budget, images: int = 0) -> Selection:
    """Keep the entries of a zoo that are within a budget.

    Args:
        zoo: Settings of each entry by its name, as for :func:`itm.models.load_backbone`.
        budget: The limits.
        images: Number of images to extract; decides what ``budget.minutes`` allows.

    Raises:
        SettingError: If a setting of an entry is wrong, a model is unknown, or no entry is within the budget; the
            nearest is named.
    """
    allowed = _allowed(budget)
    entries = {name: ZooEntry.read(name, given) for name, given in zoo.items()}
    at_size = budget.gmacs is not None or budget.minutes is not None  # no other limit depends on the size
    facts = {name: entry_facts(entry, at_size) for name, entry in entries.items()}
    removed: dict[str, str] = {}
    for name, fact in facts.items():
        reason = _excess(fact, budget, allowed)
        if reason is not None:
            removed[name] = reason
    kept: list[str] = []
    minutes = 0.0
    for name in diverse(fact for name, fact in facts.items() if name not in removed):
        minutes_needed = 0.0 if budget.minutes is None else images * facts[name].macs / macs_per_second() / 60
        if budget.models is not None and len(kept) >= budget.models:
            removed[name] = f"more than budget.models={budget.models}"
        elif budget.minutes is not None and minutes + minutes_needed > budget.minutes:
            removed[name] = f"needs about {minutes_needed:.1f} more of budget.minutes={budget.minutes:g}"
        elif budget.latency_ms is not None and (found := latency_ms(entries[name])) > budget.latency_ms:
            removed[name] = f"{found:.0f} ms per image, more than budget.latency_ms={budget.latency_ms:g}"
        else:
            kept.append(name)
            minutes += minutes_needed
    if not kept:
        raise SettingError(_nothing(facts, removed, budget, allowed))
    return Selection(tuple(kept), removed, facts)


def entry_facts(entry: ZooEntry, at_size: bool = True) -> CandidateFacts:
    """Return the facts of one entry of a zoo: timm's by id, others counted on the meta device.

    Args:
        entry: The entry.
        at_size: Whether to count a shipped id anew, which takes seconds, where only its ``image_size`` differs.

    Raises:
        SettingError: If the model is unknown or cannot be built.
    """
    if entry.model_name in candidates.shipped().index:
        facts = candidates.facts_of(entry.model_name)
        if entry.model_args or (at_size and entry.image_size not in (None, facts.pixels)):
            counted = _count(entry)
            facts = replace(facts, parameters=counted.parameters, macs=counted.macs, pixels=counted.pixels)
    else:
        facts = _count(entry)
    if not entry.has_weights:  # a control: nothing that a licence could forbid
        return replace(facts, name=entry.name, license=NO_WEIGHTS, tier="permissive", paradigm="untrained")
    license_ = entry.license or (facts.license if entry.pretrained else "unknown")
    return replace(facts, name=entry.name, license=license_, tier=tier_of(license_))


def _count(entry: ZooEntry) -> CandidateFacts:
    """Count parameters and multiply-adds of an entry at its image size, on the meta device."""
    model, family = entry.model_name, entry.find_model()
    channels, own_pixels, _ = family.preprocessing["input_size"]
    pixels = entry.image_size or own_pixels
    parameters, macs, width = candidates.count(lambda: _network(entry, family, pixels), channels, pixels)
    architecture = family.name.partition(".")[0]
    known = architecture in timm.list_models()
    return CandidateFacts(
        name=model,
        parameters=parameters,
        macs=macs,
        width=width,
        pixels=pixels,
        license=family.license,
        tier=tier_of(family.license),
        family=candidates.family_of(architecture) if known else architecture,
        paradigm=_paradigm(model, known),
        data="",
    )


def _paradigm(model: str, known: bool) -> str:
    """Return how a model was pre-trained: by its id where timm knows it; models of open_clip by image and text."""
    if model.startswith(vlm.PREFIX):
        return "siglip" if "siglip" in model.lower() else "clip"
    return paradigm_of(model) if known else "supervised"


def diverse(facts: Iterable[CandidateFacts]) -> Iterator[str]:
    """Yield names so that architecture families and pre-training paradigms alternate, each one's largest model first.

    The first round has one model per pair of family and paradigm, the second another architecture of each, and so on;
    within a round paradigms take turns.
    """
    groups: dict[tuple[str, str], list[CandidateFacts]] = defaultdict(list)
    for fact in facts:
        groups[fact.paradigm, fact.family].append(fact)
    for group in groups.values():
        group.sort(key=lambda fact: (-fact.parameters, fact.name))
    while groups:
        by_paradigm: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for key in sorted(groups, key=lambda key: (-groups[key][0].parameters, key)):
            by_paradigm[key[0]].append(key)
        while by_paradigm:
            for paradigm in list(by_paradigm):
                key = by_paradigm[paradigm].pop(0)
                yield groups[key].pop(0).name
                if not by_paradigm[paradigm]:
                    del by_paradigm[paradigm]
        groups = defaultdict(list, {key: group for key, group in groups.items() if group})


def latency_ms(entry: ZooEntry) -> float:
    """Measure milliseconds of one image on this machine's CPU: batch 1, random weights, median of seven runs."""
    family = entry.find_model()
    channels, own_pixels, _ = family.preprocessing["input_size"]
    pixels = entry.image_size or own_pixels
    network = _network(entry, family, pixels).eval()
    return statistics.median(_seconds(network, torch.rand(1, channels, pixels, pixels), runs=7)) * 1e3


def _network(entry: ZooEntry, family: Family, pixels: int) -> torch.nn.Module:
    """Build the network without its head and without weights, for images of some size."""
    size = {family.size_argument: pixels} if family.resizable else {}
    return family.finish(family.build(0, **{**(entry.model_args or {}), **size}), has_head=False)


@lru_cache(maxsize=1)
def macs_per_second() -> float:
    """Measure how many multiply-adds this machine's CPU does per second in a ResNet-18 on batches of 16 images."""
    images = torch.rand(16, 3, 128, 128)
    network = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    _, macs, _ = candidates.count(lambda: timm.create_model("resnet18", pretrained=False, num_classes=0), 3, 128)
    return macs * len(images) / statistics.median(_seconds(network, images, runs=5))


def _seconds(network: torch.nn.Module, images: torch.Tensor, runs: int) -> list[float]:
    seconds = []
    with torch.inference_mode():
        network(images)  # the first run allocates
        for _ in range(runs):
            start = time.perf_counter()
            network(images)
            seconds.append(time.perf_counter() - start)
    return seconds


def _allowed(budget: Budget) -> set[str] | None:
    """Return the licences or tiers that the budget allows, in lower case; None for all."""
    if budget.license is None:
        return None
    words = [budget.license] if isinstance(budget.license, str) else list(budget.license)
    known = {str(word).casefold() for word in candidates.shipped()["license"]} | set(TIERS) | {"noncommercial"}
    allowed: set[str] = set()
    for word in map(str.casefold, words):
        if word not in known:
            raise unknown("budget.license", word, ["permissive", "noncommercial", *sorted(known - set(TIERS))])
        allowed |= {"permissive", "research"} if word == "noncommercial" else {word}
    return allowed


def _excess(fact: CandidateFacts, budget: Budget, allowed: set[str] | None) -> str | None:
    """Return why a candidate is beyond the limits that need no measurement, or None."""
    if budget.parameters is not None and fact.parameters > budget.parameters:
        return f"{fact.parameters / 1e6:.1f} M parameters, more than budget.parameters={budget.parameters:g}"
    if budget.gmacs is not None and fact.macs / 1e9 > budget.gmacs:
        return f"{fact.macs / 1e9:.1f} billion multiply-adds, more than budget.gmacs={budget.gmacs:g}"
    if allowed is not None and not {fact.tier, fact.license.casefold()} & allowed:
        return f"licence {fact.license} ({fact.tier}) is not in budget.license"
    return None


def _nothing(
    facts: Mapping[str, CandidateFacts], removed: Mapping[str, str], budget: Budget, allowed: set[str] | None
) -> str:
    def distance(fact: CandidateFacts) -> tuple[bool, float, int, str]:
        forbidden = allowed is not None and not {fact.tier, fact.license.casefold()} & allowed
        shares = [
            fact.parameters / (budget.parameters or float("inf")),
            fact.macs / 1e9 / (budget.gmacs or float("inf")),
        ]
        return forbidden, max(*shares, 1.0), fact.parameters, fact.name

    nearest = min(facts.values(), key=distance)
    return (
        f"budget: none of {len(facts)} candidates is within it. The nearest, {nearest.name}: {removed[nearest.name]}. "
        "Raise the limit, or name other candidates."
    )
