"""Limits on candidates, checked without weights: size, cost, latency, licence, number, minutes of extraction."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any

import timm
import torch
from pydantic import Field

from itm.core.errors import SettingError, unknown
from itm.core.settings import settings
from itm.models import candidates
from itm.models.candidates import CandidateFacts
from itm.models.families import find_model
from itm.models.pretraining import TIERS, paradigm_of, tier_of

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
    models: Annotated[int, Field(ge=1)] | None = None
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
        SettingError: If a model is unknown, or no entry is within the budget; the nearest is named.
    """
    allowed = _allowed(budget)
    at_size = budget.gmacs is not None or budget.minutes is not None  # no other limit depends on the size
    facts = {name: entry_facts(name, entry, at_size) for name, entry in zoo.items()}
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
        elif budget.latency_ms is not None and (found := latency_ms(zoo[name] or {}, name)) > budget.latency_ms:
            removed[name] = f"{found:.0f} ms per image, more than budget.latency_ms={budget.latency_ms:g}"
        else:
            kept.append(name)
            minutes += minutes_needed
    if not kept:
        raise SettingError(_nothing(facts, removed, budget, allowed))
    return Selection(tuple(kept), removed, facts)


def entry_facts(name: str, entry: Mapping[str, Any] | None, at_size: bool = True) -> CandidateFacts:
    """Return the facts of one entry of a zoo: timm's by id, others counted on the meta device.

    Args:
        name: The entry's name.
        entry: Its settings.
        at_size: Whether to count a shipped id anew, which takes seconds, where only its ``image_size`` differs.

    Raises:
        SettingError: If the model is unknown or cannot be built.
    """
    entry = entry or {}
    model = str(entry.get("model") or name)
    size, arguments = entry.get("image_size"), dict(entry.get("model_args") or {})
    shipped = model in candidates.shipped().index
    facts = candidates.facts_of(model) if shipped else _count_entry(model, None, arguments, f"zoo.{name}.model")
    if shipped and (arguments or (at_size and size not in (None, facts.pixels))):
        counted = _count_entry(model, size, arguments, f"zoo.{name}.model")
        facts = replace(facts, parameters=counted.parameters, macs=counted.macs, pixels=counted.pixels)
    elif not shipped and size is not None:
        facts = _count_entry(model, size, arguments, f"zoo.{name}.model")
    license_ = str(entry.get("license") or (facts.license if entry.get("pretrained") else "unknown"))
    untrained = not (entry.get("pretrained") or entry.get("checkpoint"))
    if untrained:  # a control: nothing that a licence could forbid
        return replace(facts, name=name, license="none (no weights)", tier="permissive", paradigm="untrained")
    return replace(facts, name=name, license=license_, tier=tier_of(license_))


def _count_entry(model: str, size: int | None, arguments: dict[str, Any], setting: str) -> CandidateFacts:
    family = find_model(model, setting)
    channels, pixels, _ = family.preprocessing["input_size"]
    resized = {"img_size": size} if size is not None and family.resizable else {}
    parameters, macs, width = candidates.count(
        lambda: family.finish(family.build(0, **arguments, **resized), has_head=False), channels, size or pixels
    )
    architecture = family.name.partition(".")[0]
    known = architecture in timm.list_models()
    return CandidateFacts(
        name=model,
        parameters=parameters,
        macs=macs,
        width=width,
        pixels=size or pixels,
        license=family.license,
        tier=tier_of(family.license),
        family=candidates.family_of(architecture) if known else architecture,
        paradigm=paradigm_of(model) if known else "supervised",
        data="",
    )


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


def latency_ms(entry: Mapping[str, Any], name: str = "model") -> float:
    """Measure milliseconds of one image on this machine's CPU: batch 1, random weights, median of seven runs."""
    family = find_model(str(entry.get("model") or name), f"zoo.{name}.model")
    channels, pixels, _ = family.preprocessing["input_size"]
    size = entry.get("image_size") or pixels
    resized = {"img_size": size} if family.resizable else {}
    network = family.finish(family.build(0, **dict(entry.get("model_args") or {}), **resized), has_head=False).eval()
    return statistics.median(_seconds(network, torch.rand(1, channels, size, size), runs=7)) * 1e3


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
    """Licences or tiers that the budget allows, in lower case; None for all."""
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
    """Why a candidate is beyond the limits that need no measurement, or None."""
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
