"""Run an entry point of Hydra: settings as people type them, help from the configs, errors as one line."""

from __future__ import annotations

import argparse
import logging.config
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from itm.cli.folders import configs_folder
from itm.cli.overrides import data_overrides, explain, has_own_limit
from itm.cli.targets import check_logging, check_targets, trusted, unresolved
from itm.core.errors import ItmError, SettingError

_ADDED = {"estimate": "experiment", "train_groundtruth": "truth"}  # groups that no defaults list has
_LONGEST = 600  # characters of an error's line: room for a zoo's names, no room for all of a config


def run(main: Callable[[], Any], config_name: str, usage: str | None = None, *, sampled: bool = False) -> None:
    """Run a Hydra entry point: ``data=<name or folder>`` becomes ``data.name=...``, errors become one line.

    Args:
        main: The function that ``hydra.main`` decorates.
        config_name: The entry config.
        usage: Purpose and examples, which ``--help`` prints before the settings; None keeps Hydra's own help.
        sampled: Whether the entry config takes a sample of its own data, see
            :func:`~itm.cli.overrides.data_overrides`. The sample that an experiment takes is for all data.

    Raises:
        SystemExit: With status 2 after an error that the user can fix, 130 after Ctrl-C.
    """
    if not os.environ.get("ITM_HOME", "unset").strip():
        del os.environ["ITM_HOME"]  # empty is unset, as in the XDG specification
    # Hydra then raises its errors instead of printing half a traceback
    os.environ["HYDRA_FULL_ERROR"] = "1"
    folder = configs_folder()
    try:
        flags, overrides = split_words(sys.argv[1:])
        if usage is not None and {"-h", "--help"} & set(flags):
            print(help_text(usage, folder, config_name), flush=True)
            return
        sampled = sampled and not has_own_limit(folder, sys.argv[1:])
        sys.argv[1:] = [*flags, *data_overrides(overrides, sampled)]
        check_config(folder, config_name, flags, sys.argv[1 + len(flags) :])
        main()
    except BrokenPipeError:  # `estimate.py --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        _stop_for(error, folder, config_name)
    except KeyboardInterrupt:
        print("\nStopped. Finished work is kept; the same command continues from there.", file=sys.stderr)
        sys.exit(130)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Stop a job with the one line of an error that the user can fix; Hydra would print its overrides before it.

    In a multirun the error goes on to Hydra, which runs the other jobs. Relative paths count from the folder in which
    the command was given, with ``hydra.job.chdir=true`` too.

    Raises:
        SystemExit: With status 2 after such an error.
    """
    if HydraConfig.get().job.chdir:
        os.chdir(HydraConfig.get().runtime.cwd)
    try:
        yield
    except (ItmError, InstantiationException) as error:
        known = _in_chain(error, ItmError)
        if known is None or HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        _stop(known)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate Hydra's flags from overrides: Hydra itself takes flags only before the first override.

    Returns:
        Flags with their values, and overrides, each in their order.

    Raises:
        SettingError: If a flag is not known or lacks its value.

    >>> split_words(["seed=1", "--config-dir", "own", "zoo=mine"])
    (['--config-dir', 'own'], ['seed=1', 'zoo=mine'])
    """
    overrides = list(_parse(words).overrides)
    flags = []
    left = list(overrides)
    for word in words:
        if word in left:
            left.remove(word)
        else:
            flags.append(word)
    return flags, overrides


def check_config(folder: Path, config_name: str, flags: Sequence[str], overrides: Sequence[str]) -> None:
    """Compose the config once before Hydra does, and check the classes that Hydra builds before a job starts.

    Raises:
        SettingError: If a ``_target_`` is not allowed or Hydra's own settings cannot be resolved.
        HydraException: If the config cannot be composed.
    """
    parsed = _parse([*flags, *overrides])
    # as Hydra composes a multirun's own config: without the swept settings
    given = OverridesParser.create().parse_overrides(list(overrides))
    for override in given:
        _check_choice(folder, override)
        _check_removal(folder, override)
    words = [str(override.input_line) for override in given if not override.is_sweep_override()]
    if parsed.config_dir is not None:
        words.append(f"hydra.searchpath=['file://{Path(parsed.config_dir).resolve()}']")
    directory = Path(parsed.config_path).resolve() if parsed.config_path else folder
    try:
        with initialize_config_dir(str(directory), version_base="1.3"):
            cfg = compose(parsed.config_name or config_name, words, return_hydra_config=True)
    except (ItmError, HydraException, OmegaConfBaseException):
        raise
    except Exception as error:  # Hydra raises what Python raises for some values, such as `trust.x=1`
        raise SettingError(f"{' '.join(overrides)}: cannot be composed ({type(error).__name__}: {error}).") from error
    trust = trusted(OmegaConf.select(cfg, "trust"), overrides)
    for group in ("hydra.callbacks", "scorer", "tracking"):
        node = OmegaConf.select(cfg, group)
        check_targets(group, OmegaConf.to_container(node) if OmegaConf.is_config(node) else node, trust)
    for group in ("hydra.hydra_logging", "hydra.job_logging"):
        check_logging(group, OmegaConf.to_container(OmegaConf.select(cfg, group)))
    verbose = OmegaConf.select(cfg, "hydra.verbose")
    _check_verbose(OmegaConf.to_container(verbose) if OmegaConf.is_config(verbose) else verbose)


def _check_verbose(value: object) -> None:
    """Refuse a value that Hydra would take for the name of a logger."""
    names = value if isinstance(value, list) else [value]
    if not isinstance(value, bool) and not all(isinstance(name, str) for name in names):
        raise SettingError(f"hydra.verbose={value}: expected true, false, or names of loggers, as in [itm,timm].")


def _check_choice(folder: Path, override: Override) -> None:
    """Refuse a group that is chosen by a number: Hydra itself ends in a traceback."""
    key, value = override.key_or_group, override.value()
    if override.is_sweep_override() or override.is_delete() or not ("/" in key or (folder / key).is_dir()):
        return
    if isinstance(value, dict):
        return  # not a choice: the settings themselves
    for name in value if isinstance(value, list) else [value]:
        if not isinstance(name, str):
            raise SettingError(f"{key}={value}: expected the name of a config, as in configs/{key}.")


def _check_removal(folder: Path, override: Override) -> None:
    """Refuse to remove a setting that the code reads; models, scorers and Hydra's own settings may be removed."""
    key = override.key_or_group
    free = "/" in key or (folder / key).is_dir() or key.startswith(("zoo.", "scorer.", "tracking.", "hydra"))
    if override.is_delete() and not free:
        raise SettingError(f"~{key}: cannot be removed; give it a value, such as {key}=null.")


def help_text(usage: str, folder: Path, config_name: str) -> str:
    """Return the help of a command: purpose, examples, groups with their choices, settings with their comments."""
    text = (folder / f"{config_name}.yaml").read_text(encoding="utf-8")
    settings, _, _ = text.partition("\nhydra:")
    groups = [path.name for path in sorted(folder.iterdir()) if path.is_dir()]
    chosen = [group for group in groups if f"- {group}:" in settings or group == _ADDED.get(config_name)]
    choices = []
    for group in chosen:
        names = ", ".join(path.stem for path in sorted((folder / group).glob("*.yaml")))
        choices.append(f"  {group + '=':<13}{names}")
    body = "\n".join(line for line in settings.splitlines() if not line.startswith(("defaults:", "  - ")))
    more = "--config-dir FOLDER adds your own configs; -m runs one job per value of a,b,c; --hydra-help has the rest."
    heading = f"Groups (+{_ADDED.get(config_name)}=... adds one):"
    return "\n".join([usage.strip(), "", heading, *choices, "", "Settings:", body.strip(), "", more])


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise SettingError(f"command line: {message}; --help has the settings.")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(list(words))


def _stop_for(error: Exception, folder: Path, config_name: str) -> None:
    """Stop with one line where the user can fix the error; raise it where the code is wrong."""
    known = _in_chain(error, ItmError)
    if known is None and isinstance(error, InstantiationException):
        raise error
    if known is None and isinstance(error, OmegaConfBaseException):
        known = unresolved(error)
    if known is None and isinstance(error, HydraException):
        known = explain(error, folder, config_name, sys.argv[1:])
    if known is None and isinstance(error, ValueError) and _is_from_logging(error):
        known = SettingError(f"hydra.job_logging or hydra.hydra_logging: {error} ({error.__cause__}).")
    if known is None and isinstance(error, OSError) and error.filename is not None:
        known = SettingError(f"{error.filename}: cannot be read or written ({error.strerror}).")
    if known is None:
        raise error
    _stop(known)


def _is_from_logging(error: Exception) -> bool:
    """Return whether ``logging.config`` raised the error: Hydra passes it the user's values unchecked."""
    return any(frame.filename == logging.config.__file__ for frame in traceback.extract_tb(error.__traceback__))


def _stop(error: ItmError) -> NoReturn:
    from rich.console import Console
    from rich.markup import escape

    line = " ".join(str(error).split())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST - 120]} ... {line[-110:]}"
    console = Console(stderr=True, soft_wrap=True)
    console.print(f"[bold red]error:[/bold red] {escape(line)}", highlight=False)
    sys.exit(2)


def _in_chain(error: BaseException | None, kind: type[ItmError]) -> ItmError | None:
    """Return the error of that kind that led to this one, if any: Hydra wraps the errors of constructors."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error
