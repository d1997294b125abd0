"""Where a number comes from: code, versions and machine, as plain values for a record."""

from __future__ import annotations

import platform
import resource
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("itm", "torch", "torchvision", "timm", "lightning")


def facts(accelerator: str) -> dict[str, Any]:
    """All of it, with the most memory in use and the time."""
    return {
        "peak_memory": peak_memory(accelerator),
        "device": device(accelerator),
        "host": socket.gethostname(),
        "versions": versions(),
        "commit": commit(),
        "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }


def versions() -> dict[str, str]:
    """Version of Python and of each package that decides numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


@cache
def commit() -> str | None:
    """Git commit of this package's sources, ``-dirty`` behind it where they were altered; None where git has none."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:  # a package that was installed below somebody else's repository is no part of it
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def device(accelerator: str) -> str:
    """The GPU's name, or the processor's with the number of threads in use."""
    if accelerator == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"


def reset_peak_memory(accelerator: str) -> None:
    """Begin to count anew what :func:`peak_memory` tells, where the system can (Linux, CUDA)."""
    if accelerator == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the counter of the resident set, see proc(5)


def peak_memory(accelerator: str) -> int:
    """Most memory in use at once since the last reset, bytes: the GPU's, or that of this whole process."""
    if accelerator == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
