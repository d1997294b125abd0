"""What the entry scripts share: settings as people type them, and errors as one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from itm.cli.folders import configs_folder
from itm.core.errors import ItmError, SettingError, unknown


def run(main: Callable[[], Any], config_name: str, *, sampled: bool = False) -> None:
    """Run a Hydra entry point: ``data=<name or folder>`` becomes ``data.name=...``, errors become one line.

    Args:
        main: The function that ``hydra.main`` decorates.
        config_name: The entry config.
        sampled: Whether the entry config takes a sample of its own data, see :func:`data_overrides`. The sample that
            an experiment takes is for whatever data it is run on.

    Raises:
        SystemExit: With status 2 after an error that the user can mend, 130 after Ctrl-C.
    """
    config_dir = configs_folder()
    sampled = sampled and not _experiment_limits(config_dir, sys.argv[1:])
    sys.argv[1:] = data_overrides(sys.argv[1:], sampled)
    # Hydra then hands its errors to us instead of printing half a traceback
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except (ItmError, HydraException) as error:
        known = _in_chain(error, ItmError)
        if known is None and isinstance(error, InstantiationException):
            raise
        if known is None and isinstance(error, HydraException):
            known = explain(error, config_dir, config_name, sys.argv[1:])
        if known is not None:
            _stop(known)
    except KeyboardInterrupt:
        print("\nStopped. What was finished is kept; the same command continues from there.", file=sys.stderr)
        sys.exit(130)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Stop a job with the one line of an error that the user can mend; Hydra would print its overrides before it.

    In a multirun the error goes on to Hydra, which runs the other jobs.

    Raises:
        SystemExit: With status 2 after such an error.
    """
    try:
        yield
    except (ItmError, InstantiationException) as error:
        known = _in_chain(error, ItmError)
        if known is None or HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        _stop(known)


def check_whole(cfg: DictConfig, *keys: str, least: int, null: bool = False) -> None:
    """Refuse settings that are no whole numbers.

    Args:
        cfg: The config.
        keys: Settings, as typed: ``"data.limit"``.
        least: The smallest allowed value.
        null: Whether ``null`` is allowed, too.

    Raises:
        SettingError: If one of them is something else.
    """
    for key in keys:
        value = OmegaConf.select(cfg, key)
        if not (null and value is None) and (not isinstance(value, int) or value is True or value < least):
            raise SettingError(f"{key}={value}: expected a whole number of at least {least}{' or null' * null}.")


def check_word(cfg: DictConfig, key: str, allowed: Iterable[str]) -> None:
    """Refuse a setting that is none of the allowed words.

    Raises:
        SettingError: With the allowed words and the closest one.
    """
    value = OmegaConf.select(cfg, key)
    if str(value) not in (words := tuple(allowed)):
        raise unknown(key, value, words)


def data_overrides(words: list[str], sampled: bool) -> list[str]:
    """The command line with ``data=...`` spelt out.

    Where the entry config's ``data.limit`` is a sample of its own data (``sampled``), data that are named are taken
    whole unless the command line limits them.

    >>> data_overrides(["-m", "data=digits", "seed=1,2"], sampled=True)  # Hydra wants no override before its flags
    ['-m', 'data.limit=null', 'data.name=digits', 'seed=1,2']
    """
    whole = sampled and not any(word.startswith("data.limit=") for word in words)
    found = []
    for word in words:
        found += ["data.limit=null"] if word.startswith("data=") and whole else []
        found.append(data_override(word))
    return found


def data_override(word: str) -> str:
    """Turn ``data=<name or folder>`` into an override that Hydra reads, whatever the folder's name holds.

    >>> data_override("data=digits")
    'data.name=digits'
    >>> data_override("data.limit=100")
    'data.limit=100'
    """
    value = word.removeprefix("data=")
    if value == word or value.startswith("{"):
        return word
    if re.fullmatch(r"[^\W\d][\w,]*", value):  # a folder named 2024 is quoted: it is no number
        return f"data.name={value}"
    # Hydra takes a backslash as it is, except before a quote
    doubled = re.sub(r"(\\+)(?='|$)", lambda found: found[1] * 2, value)
    escaped = doubled.replace("'", "\\'")
    return f"data.name='{escaped}'"


def explain(error: HydraException, config_dir: Path, config_name: str, overrides: list[str]) -> SettingError:
    """Hydra's error as one line, with the allowed words and the closest one where it is about a misspelt word."""
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
    told = unknown("setting", key, allowed) if allowed else SettingError(f"setting={key}: not known.")
    # a launcher hands on settings that Hydra does not list, such as Ray's own
    return SettingError(f"{told} To add it all the same, write +{key}=...") if key.startswith("hydra.") else told


def _siblings(key: str, config_dir: Path, config_name: str, overrides: Sequence[str]) -> list[str]:
    """The settings beside a key, each with its whole name."""
    *parents, _ = key.split(".")
    groups = [word for word in overrides if re.match(r"\+?(zoo|scorer|trainer|tracking|experiment|hydra/\w+)=", word)]
    if added := _config_dir(overrides):
        groups.append(f"hydra.searchpath=['file://{added}']")
    with initialize_config_dir(str(config_dir), version_base="1.3"):
        node: Any = compose(config_name, groups, return_hydra_config=parents[:1] == ["hydra"])
    for parent in parents:
        node = node.get(parent) if isinstance(node, DictConfig) else None
    return [".".join([*parents, str(name)]) for name in node] if isinstance(node, DictConfig) else []


def _config_dir(words: Sequence[str]) -> Path | None:
    """The user's own folder of configs, as Hydra reads ``--config-dir`` from the command line."""
    for word, following in pairwise([*words, ""]):
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            return Path(value if equals else following).resolve()
    return None


def _experiment_limits(config_dir: Path, words: Sequence[str]) -> bool:
    """Whether an experiment of the command line says itself how many images it takes."""
    names = [word.partition("=")[2] for word in words if re.match(r"\+?experiment=", word)]
    folders = [folder for folder in (config_dir, _config_dir(words)) if folder]
    files = [folder / "experiment" / f"{name}.yaml" for folder in folders for name in names]
    limits = (OmegaConf.select(OmegaConf.load(file), "data.limit", default="") for file in files if file.is_file())
    return any(limit != "" for limit in limits)


def _stop(error: ItmError) -> NoReturn:
    line = " ".join(str(error).split())
    console = Console(stderr=True, soft_wrap=True)
    console.print(f"[bold red]error:[/bold red] {escape(line)}", highlight=False)
    sys.exit(2)


def _in_chain(error: BaseException | None, kind: type[ItmError]) -> ItmError | None:
    """The error of that kind that led to this one, if any: Hydra wraps what a constructor raises."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error
