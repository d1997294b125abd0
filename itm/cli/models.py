"""Models named on a command line or in Python: zoos, names with wildcards, settings by name, budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from itm.cli.folders import configs_folder
from itm.core.errors import SettingError
from itm.data.image_set import ImageSet, load_from_settings
from itm.models.budget import Budget, select
from itm.models.candidates import matching
from itm.models.families import find_model

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
        if (configs_folder() / "zoo" / f"{models}.yaml").is_file():
            return _zoo(models)
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


def with_image_size(zoo: Mapping[str, Mapping[str, Any] | None], image_size: int | None) -> dict[str, dict[str, Any]]:
    """Return the entries with one image size for all; None keeps each entry's own."""
    entries = {name: dict(entry or {}) for name, entry in zoo.items()}
    if image_size is not None:
        for entry in entries.values():
            entry["image_size"] = image_size
    return entries


def within_budget(
    zoo: dict[str, dict[str, Any]],
    budget: Mapping[str, Any] | Budget | None,
    data: Mapping[str, Any],
    seed: int,
    images: ImageSet | None = None,
) -> tuple[dict[str, dict[str, Any]], Mapping[str, str]]:
    """Return the models within the budget, in their order, and the reason of each that is not.

    Args:
        zoo: Settings by model.
        budget: The limits; None holds none.
        data: Settings ``data`` of the run; ``budget.minutes`` depends on the number of images.
        seed: Seed of the split.
        images: The images in place of those that ``data`` names.

    Raises:
        SettingError: If a limit is wrong, or no model is within the budget.
    """
    if not budget:
        return zoo, {}
    limits = budget if isinstance(budget, Budget) else Budget(**budget)
    count = 0
    if limits.minutes is not None:
        count = len(load_from_settings(data, seed, limit=data["limit"]) if images is None else images)
    selection = select(zoo, limits, count)
    return {name: entry for name, entry in zoo.items() if name in selection.kept}, selection.removed


def _zoo(name: str) -> dict[str, dict[str, Any]]:
    """Return the entries of a zoo's config, with those of the zoos in its defaults list."""
    content = yaml.safe_load((configs_folder() / "zoo" / f"{name}.yaml").read_text(encoding="utf-8"))
    entries: dict[str, dict[str, Any]] = {}
    for base in content.pop("defaults", []):
        if base != "_self_":
            entries.update(_zoo(base))
    entries.update({model: entry or {} for model, entry in content.items()})
    return entries


def _with_weights(name: str, entry: object, pretrained: bool) -> dict[str, Any]:
    """Return the settings of one model, with published weights unless they say where weights come from."""
    if not isinstance(entry, Mapping | None):
        raise SettingError(f"models[{name!r}]={entry}: expected settings by name, as in {{'pretrained': True}}.")
    given = {str(key): value for key, value in (entry or {}).items()}
    return given if "checkpoint" in given else {"pretrained": pretrained, **given}
