"""Models named on a command line or in Python: zoos, names with wildcards, settings by name, budgets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml

from itm.cli.folders import configs_folder
from itm.core.console import console, print_frame
from itm.core.errors import SettingError, unknown
from itm.data.image_set import ImageSet, load_from_settings
from itm.models.budget import Budget, Selection, select
from itm.models.candidates import automatic, matching
from itm.models.families import find_model

AUTO = "auto"
"""Name of the zoo that stands for every pretrained id of timm."""
AUTO_MODELS, AUTO_PARAMETERS = 24, 30e6
"""Limits of the automatic zoo where none is given."""
MOST_LINES = 20
"""Removed models that are printed one by one."""
Models = str | Sequence[str] | Mapping[str, Any]


def resolve_models(
    models: Models, pretrained: bool, zoo: Mapping[str, Mapping[str, Any] | None] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the settings of each model by name, wildcards and the name of a zoo resolved.

    Args:
        models: Names of models or of a zoo, or settings by name.
        pretrained: Whether models that are named get their published weights.
        zoo: Settings by model, which its names stand for. A wildcard covers timm's ids alone.

    Raises:
        SettingError: If a name is not known.
    """
    if isinstance(models, str):
        if models == AUTO:
            return {name: {"pretrained": pretrained} for name in automatic()}
        if (configs_folder() / "zoo" / f"{models}.yaml").is_file():
            return named_zoo(models)
        models = [models]
    if isinstance(models, Mapping):
        return {str(name): _with_weights(str(name), entry, pretrained) for name, entry in models.items()}
    names: dict[str, None] = {}
    for name in models:
        wild = any(sign in name for sign in "*?")
        names.update(dict.fromkeys(matching([name]) if wild else [name]))
    if not names:
        raise SettingError("models: empty; name at least one, as in models=['resnet50'].")
    known, found = zoo or {}, {}
    for name in names:
        if name in known:
            found[name] = dict(known[name] or {})
        else:
            find_model(name, "models")
            found[name] = {"pretrained": pretrained}
    return found


@dataclass(frozen=True)
class Chosen:
    """Models of a run.

    Args:
        zoo: Settings by model, in the order of the zoo.
        removed: Reason by name, of each model that the budget removed.
        selection: Facts of all candidates, and the order in which the budget keeps them; None without limits.
    """

    zoo: dict[str, dict[str, Any]]
    removed: Mapping[str, str]
    selection: Selection | None = None


def choose_models(run: Mapping[str, Any], images: ImageSet | None = None) -> Chosen:
    """Return the models that the settings of a run name and its budget allows.

    The zoo ``auto`` stands for every pretrained id of timm. Its budget has at most 24 models where ``models`` is not
    given, and at most 30 million parameters where no limit on number or cost is given.

    Args:
        run: ``zoo``, ``models``, ``pretrained``, ``image_size``, ``budget``, ``data`` and ``seed``, as in
            ``configs/estimate.yaml``. ``budget.minutes`` depends on the number of images.
        images: The images in place of those that ``data`` names.

    Raises:
        SettingError: If a name is not known, a limit is wrong, or no model is within the budget.
    """
    zoo = {str(name): dict(entry or {}) for name, entry in run["zoo"].items()}
    auto = zoo.get(AUTO) == {}
    if auto:
        del zoo[AUTO]
    if run["models"] is not None:
        auto = auto or run["models"] == AUTO
        zoo = resolve_models(run["models"], run["pretrained"], zoo)
    elif auto:
        zoo = {**{name: {"pretrained": True} for name in automatic()}, **zoo}
    if run["image_size"] is not None:
        zoo = {name: {**entry, "image_size": run["image_size"]} for name, entry in zoo.items()}
    given = run["budget"] or {}
    limits = dict(vars(given) if isinstance(given, Budget) else given)
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    if auto:
        limits = _bounded(limits)
    if not limits:
        return Chosen(zoo, {})
    budget = Budget(**limits)
    count = 0
    if budget.minutes is not None:
        data = run["data"]
        count = len(load_from_settings(data, run["seed"], limit=data["limit"]) if images is None else images)
    selection = select(zoo, budget, count)
    kept = {name: entry for name, entry in zoo.items() if name in set(selection.kept)}
    return Chosen(kept, selection.removed, selection)


def _bounded(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits of ``zoo=auto``, which without any would be all of timm."""
    bounded = dict(limits)
    if not set(limits) & {"parameters", "gmacs", "latency_ms", "models", "minutes"}:
        bounded["parameters"] = AUTO_PARAMETERS
    bounded.setdefault("models", AUTO_MODELS)
    return bounded


def show_plan(chosen: Chosen) -> None:
    """Print the models of a run, those that differ most first, and how many each limit removed."""
    if chosen.selection is None:
        print("\n".join(chosen.zoo))
        return
    rows = [chosen.selection.facts[name] for name in chosen.selection.kept]
    table = pd.DataFrame(
        {
            "M parameters": [fact.parameters / 1e6 for fact in rows],
            "GMACs": [fact.macs / 1e9 for fact in rows],
            "pixels": [fact.pixels for fact in rows],
            "license": [fact.license for fact in rows],
            "pre-training": [fact.paradigm for fact in rows],
        },
        index=pd.Index([fact.name for fact in rows], name="model"),
    )
    print_frame(table, f"{len(rows)} models", digits=1, to=console(width=150))
    print(*removal_lines(chosen.removed), sep="\n")


def removal_lines(removed: Mapping[str, str]) -> list[str]:
    """Return a line for each model that a budget removed, or where they are many, one for each limit."""
    if len(removed) <= MOST_LINES:
        return [f"removed {name}: {reason}" for name, reason in removed.items()]
    by_limit: dict[str, list[str]] = {}
    for name, reason in removed.items():
        limit = re.search(r"budget\.\w+", reason)
        by_limit.setdefault(limit[0] if limit else reason, []).append(name)
    return [
        f"removed {len(names)} models by {limit}, such as {names[0]}: {removed[names[0]]}"
        for limit, names in by_limit.items()
    ]


def named_zoo(name: str) -> dict[str, dict[str, Any]]:
    """Return the entries of a zoo's config, with those of the zoos in its defaults list.

    Raises:
        SettingError: If the zoo is not known; the message names the closest.
    """
    known = [file.stem for file in (configs_folder() / "zoo").glob("*.yaml")]
    if name not in known:
        raise unknown("zoo", name, known)
    content = yaml.safe_load((configs_folder() / "zoo" / f"{name}.yaml").read_text(encoding="utf-8"))
    entries: dict[str, dict[str, Any]] = {}
    for base in content.pop("defaults", []):
        if base != "_self_":
            entries.update(named_zoo(base))
    entries.update({model: entry or {} for model, entry in content.items()})
    return entries


def _with_weights(name: str, entry: object, pretrained: bool) -> dict[str, Any]:
    """Return the settings of one model, with published weights unless they say where weights come from."""
    if not isinstance(entry, Mapping | None):
        raise SettingError(f"models[{name!r}]={entry}: expected settings by name, as in {{'pretrained': True}}.")
    given = {str(key): value for key, value in (entry or {}).items()}
    return given if "checkpoint" in given else {"pretrained": pretrained, **given}
