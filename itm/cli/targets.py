"""Classes that a config may name, and values of a config.

``_target_`` in a YAML file is a call: without a limit a config from elsewhere could run any function of any installed
package. Configs may therefore name only this package's own scorers, trackers and callbacks, and the user's packages
that ``trust=[mypackage]`` lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from itm.core.errors import SettingError

ALLOWED = {
    "scorer": ("itm.scorers",),
    "tracking": ("itm.tracking",),
    "hydra.callbacks": (
        "itm.analysis",
        "itm.cli.failures",
        "itm.cli.multirun",
        "itm.cli.registered",
        "itm.cli.transfer",
    ),
}
"""Packages whose classes and functions ``_target_`` may name, by group."""

_GROUP = "|".join(re.escape(group) for group in ALLOWED)
# what `logging.config` may build: handlers and formatters of the standard library and of Hydra's colorlog plug-in
_LOGGING = re.compile(r"(logging|logging\.handlers|colorlog)\.[A-Z]\w*")
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Return a config as plain values.

    Raises:
        SettingError: If a value is missing (``???``) or refers to a value that does not exist (``${...}``).
    """
    try:
        run: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise unresolved(error) from error
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else None
    run["trust"] = trusted(run.get("trust"), words)
    return run


def unresolved(error: OmegaConfBaseException) -> SettingError:
    """Return the one-line error for a value that OmegaConf cannot resolve."""
    key = error.full_key or "config"
    return SettingError(f"{key}: cannot be resolved ({str(error).strip().splitlines()[0]}); give it a value.")


def trusted(packages: object, words: Sequence[str] | None = None) -> list[str]:
    """Check the setting ``trust``: names of packages.

    Args:
        packages: The setting.
        words: Overrides of the command line; None does not check where the setting comes from.

    Raises:
        SettingError: If it is not a list of names, or a config file sets it: a config cannot trust itself.
    """
    if not packages:
        return []
    if words is not None and not any(re.match(r"\+*trust=", word) for word in words):
        raise SettingError(f"trust={packages}: a config sets it; give it on the command line.")
    names = packages if isinstance(packages, Sequence) and not isinstance(packages, str) else [packages]
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
            raise SettingError(f"trust={packages}: expected names of packages, as in trust=[mypackage].")
    return list(names)


def build(setting: str, node: Any, trust: Sequence[str]) -> Any:
    """Build the object that a node of the config describes.

    Args:
        setting: Name of the node, such as ``"scorer.itm"``.
        node: The node, with ``_target_``.
        trust: Packages that ``_target_`` may name beside this one.

    Raises:
        SettingError: If the node has no ``_target_``, or one that is not allowed.
    """
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise SettingError(f"{setting}: expected settings with _target_, as in configs/{setting.partition('.')[0]}.")
    check_targets(setting, OmegaConf.to_container(node, resolve=True), trust)
    return instantiate(node)


def check_targets(setting: str, values: object, trust: Sequence[str]) -> None:
    """Check every ``_target_`` below a node.

    Raises:
        SettingError: If one names something that the group does not allow.
    """
    match = re.match(_GROUP, setting)
    allowed = (*ALLOWED[match[0]], *trust) if match else tuple(trust)
    for key, target in _targets(setting, values):
        if not key.endswith("_target_") or not isinstance(target, str) or not _is_below(target, allowed):
            raise _refused(key, target, allowed)
        try:
            found = get_object(target)
        except Exception as error:  # importing a user's module may raise anything
            raise SettingError(f"{key}={target}: cannot be imported ({' '.join(str(error).split())}).") from error
        # a module's attribute may be anything that it imports: `itm.tracking.os.system`
        if not callable(found) or not _is_below(str(getattr(found, "__module__", "")), allowed):
            raise _refused(key, target, allowed)


def check_logging(setting: str, values: object) -> None:
    """Check the classes that a logging config of Hydra names.

    Raises:
        SettingError: If one is not a handler, filter or formatter of a logging library.
    """
    for key, value in _leaves(setting, values):
        name = key.rpartition(".")[2]
        if name in ("class", "()", "factory") and not _LOGGING.fullmatch(str(value)):
            raise SettingError(f"{key}={value}: expected a class of logging or colorlog.")
        if str(value).startswith(("ext://", "cfg://")) and value not in _STREAMS:
            raise SettingError(f"{key}={value}: expected {' or '.join(_STREAMS)}.")


def _targets(setting: str, values: object) -> Iterator[tuple[str, object]]:
    # a list or a mapping in its place is found as well, and refused
    return ((key, value) for key, value in _leaves(setting, values) if "_target_" in key.split("."))


def _leaves(setting: str, values: object) -> Iterator[tuple[str, object]]:
    """Yield every value that is not a mapping or a list, with its full name."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _leaves(f"{setting}.{name}", value)
    elif isinstance(values, list):
        for place, value in enumerate(values):
            yield from _leaves(f"{setting}.{place}", value)
    else:
        yield setting, values


def _is_below(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _refused(key: str, target: object, allowed: Sequence[str]) -> SettingError:
    return SettingError(
        f"{key}={target}: a config may name only classes and functions of {', '.join(allowed)}; "
        "for your own package set trust=[mypackage]."
    )
