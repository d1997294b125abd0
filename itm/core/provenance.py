"""Provenance of a number: commit, versions, device and memory, as plain values for a record."""

from __future__ import annotations

import platform
import resource
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("itm", "torch", "torchvision", "timm", "lightning")
"""Packages whose versions decide numbers."""


def facts(accelerator: str) -> dict[str, Any]:
    """Return versions, commit, device, host, peak memory in bytes, and the time."""
    return {
        "peak_memory": peak_memory(accelerator),
        "device": device(accelerator),
        "host": socket.gethostname(),
        "versions": versions(),
        "commit": commit(),
        "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python, of the packages that are installed, and of CUDA where torch was built with it."""
    found = {"python": platform.python_version()}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


@cache
def commit() -> str | None:
    """Return the git commit of this package's sources, with ``-dirty`` if they were changed; None outside a clone."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:  # a package that was installed inside another repository is not part of that repository
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def device(accelerator: str) -> str:
    """Return the name of the GPU, or of the processor with the number of threads in use."""
    if accelerator == "cuda":
        return torch.cuda.get_device_name()
    if accelerator == "mps":
        return f"mps ({platform.processor() or platform.machine()})"
    return f"cpu ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"


def reset_peak_memory(accelerator: str) -> None:
    """Reset the counter that :func:`peak_memory` returns, where the system can (Linux, CUDA)."""
    if accelerator == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the counter of the resident set, see proc(5)


def peak_memory(accelerator: str) -> int:
    """Return the most memory in use at once since the last reset, in bytes: of the GPU, or of this process."""
    if accelerator == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
