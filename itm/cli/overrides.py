"""Settings as people type them on a command line, and Hydra's errors as one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from itm.core.errors import SettingError, unknown


def data_overrides(words: list[str], sampled: bool) -> list[str]:
    """Write ``data=...`` of a command line as ``data.name=...``.

    Args:
        words: Words of the command line.
        sampled: Whether the entry config's ``data.limit`` is a sample of its own data. Other data are then taken whole
            unless the command line limits them.

    >>> data_overrides(["-m", "data=digits", "seed=1,2"], sampled=True)  # Hydra takes flags before overrides only
    ['-m', 'data.limit=null', 'data.name=digits', 'seed=1,2']
    """
    whole = sampled and not any(word.startswith("data.limit=") for word in words)
    found = []
    for word in words:
        if whole and word.startswith("data="):
            found.append("data.limit=null")
        found.append(quote_if_needed(race_override(data_override(word))))
    return found


def race_override(word: str) -> str:
    """Turn ``race=true`` into an override that Hydra reads beside ``race.start=50``.

    >>> race_override("race=true"), race_override("race={start: 50}")
    ('race.enabled=true', 'race={start: 50}')
    """
    value = word.removeprefix("race=")
    return word if value == word or value.startswith("{") else f"race.enabled={value}"


def data_override(word: str) -> str:
    """Turn ``data=<name or folder>`` into an override that Hydra reads, with any character in the folder's name.

    >>> data_override("data=digits")
    'data.name=digits'
    >>> data_override("data.limit=100")
    'data.limit=100'
    """
    value = word.removeprefix("data=")
    if value == word or value.startswith("{"):
        return word
    if re.fullmatch(r"[^\W\d][\w,]*", value):  # a folder named 2024 is quoted: Hydra would read a number
        return f"data.name={value}"
    return f"data.name={quoted(value)}"


def quoted(value: str) -> str:
    r"""Quote a text for Hydra, which unescapes backslashes only before a quote.

    >>> print(quoted("a's folder"))
    'a\'s folder'
    """
    escaped = re.sub(r"(\\*)(?='|$)", r"\1\1", value).replace("'", "\\'")
    return f"'{escaped}'"


def quote_if_needed(word: str) -> str:
    """Quote the value of an override that Hydra cannot read, such as a path with ``=`` or parentheses.

    >>> quote_if_needed("zoo.a.checkpoint=epoch=9.ckpt")
    "zoo.a.checkpoint='epoch=9.ckpt'"
    """
    key, equals, value = word.partition("=")
    if not equals or re.match(r"['\"\[{]|.*\$\{", value):
        return word
    parser = OverridesParser.create()
    try:
        parser.parse_override(word)
    except HydraException:
        changed = f"{key}={quoted(value)}"
        try:
            parser.parse_override(changed)
        except HydraException:
            return word
        return changed
    return word


def explain(error: HydraException, config_dir: Path, config_name: str, overrides: list[str]) -> SettingError:
    """Return Hydra's error as one line; for a misspelt word with the allowed words and the closest one."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, word = str(error.missing_cfg_file).rpartition("/")
        return unknown(group, word, error.options or [path.stem for path in (config_dir / group).glob("*.yaml")])
    misspelt = re.search(r"Could not override '([^']+)'", str(error))
    if misspelt is None:
        override = getattr(error, "override", None)
        where = "" if override is None else f"{override}: "
        text = str(error) or str(error.__cause__ or error.__context__)
        return SettingError(where + " ".join(text.partition("See https")[0].split()))
    key = misspelt[1]
    if "No match in the defaults list" in str(error):
        typed = next((word for word in overrides if word.startswith(f"{key}=")), key)
        return SettingError(f"{typed}: not chosen by default; write +{typed} to add it.")
    allowed = _siblings(key, config_dir, config_name, overrides)
    known = unknown("setting", key, allowed) if allowed else SettingError(f"setting={key}: not known.")
    # a launcher passes on settings that Hydra does not list, such as Ray's own
    return SettingError(f"{known} To add it all the same, write +{key}=...") if key.startswith("hydra.") else known


def _siblings(key: str, config_dir: Path, config_name: str, overrides: Sequence[str]) -> list[str]:
    """Return the settings beside a key, each with its full name."""
    *parents, _ = key.split(".")
    groups = [word for word in overrides if re.match(r"\+?(zoo|scorer|trainer|tracking|experiment|hydra/\w+)=", word)]
    if added := _config_dir(overrides):
        groups.append(f"hydra.searchpath=['file://{added}']")
    try:
        with initialize_config_dir(str(config_dir), version_base="1.3"):
            node: Any = compose(config_name, groups, return_hydra_config=parents[:1] == ["hydra"])
    except HydraException:  # a group is wrong as well
        return []
    for parent in parents:
        node = node.get(parent) if isinstance(node, DictConfig) else None
    return [".".join([*parents, str(name)]) for name in node] if isinstance(node, DictConfig) else []


def _config_dir(words: Sequence[str]) -> Path | None:
    """Return the user's own folder of configs, as Hydra reads ``--config-dir`` from the command line."""
    for word, following in pairwise([*words, ""]):
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            return Path(value if equals else following).resolve()
    return None


def has_own_limit(config_dir: Path, words: Sequence[str]) -> bool:
    """Return whether an experiment of the command line sets ``data.limit`` itself."""
    names = [word.partition("=")[2] for word in words if re.match(r"\+?experiment=", word)]
    folders = [folder for folder in (config_dir, _config_dir(words)) if folder]
    files = [folder / "experiment" / f"{name}.yaml" for folder in folders for name in names]
    limits = (OmegaConf.select(OmegaConf.load(file), "data.limit", default="") for file in files if file.is_file())
    return any(limit != "" for limit in limits)
