"""Datasets of torchvision: opened where they are, downloaded where they are missing."""

from __future__ import annotations

import inspect
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from itm.core.errors import DataError


def from_torchvision(name: str, root: Path, *, advice: str = "", **settings: Any) -> Any:
    """Open a torchvision dataset; download it first if it is missing and torchvision can.

    Args:
        name: The class in ``torchvision.datasets``.
        root: Folder of the downloaded datasets.
        advice: How to get a dataset that cannot be downloaded.
        settings: Arguments of the class.

    Raises:
        DataError: If the dataset is damaged, or missing and cannot be fetched.
    """
    from torchvision import datasets  # imported here because it takes seconds and only these datasets need it

    build = partial(getattr(datasets, name), **settings)
    can_download = "download" in inspect.signature(build.func).parameters
    present = partial(build, download=False) if can_download else build
    try:
        return present(root=root)
    except (RuntimeError, FileNotFoundError):  # torchvision's errors for a missing dataset or part
        pass
    except (OSError, ValueError, LookupError, EOFError) as error:
        raise DataError(f"{name} in data.root={root} is damaged ({error}); delete or replace it.") from error
    if not can_download:
        raise DataError(f"{name} is not in {root}. {advice}")
    try:
        _download(build, root)
        return present(root=root)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        words = "".join(f", {key}={value!r}" for key, value in settings.items())
        reason = " ".join(str(error).split()).rstrip(".")
        command = f'python -c "from torchvision.datasets import {name} as d; d({str(root)!r}{words}, download=True)"'
        raise DataError(
            f"{name} is not in data.root={root} and could not be downloaded ({reason}). "
            + (advice or f"Fetch it on a machine with a network: {command}")
        ) from error


def _download(build: Callable[..., Any], root: Path) -> None:
    """Download into a temporary folder and move the result, so that an interrupted download leaves nothing behind."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as folder:
        build(root=folder, download=True)
        for child in Path(folder).iterdir():
            target = root / child.name
            if target.is_dir():
                shutil.copytree(child, target, dirs_exist_ok=True, copy_function=shutil.move)
            else:
                child.replace(target)
