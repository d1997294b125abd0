"""Progress of long computations: a bar in a terminal, a line in the log every half minute elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_LOG_EVERY = 30.0  # seconds
_log = logging.getLogger(__name__)


@contextmanager
def show_progress(name: str, total: int, show: bool = True, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Show progress on the standard error: done and total, speed, time left.

    Args:
        name: Title of the computation.
        total: Number of steps.
        show: Whether to draw a bar; without one, or without a terminal, the log has lines.
        unit: Plural noun of a step.

    Yields:
        A function to call with the number of steps done since the last call.
    """
    console = Console(stderr=True)
    if not (show and console.is_terminal):
        yield _Logged(name, total, unit).advance
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(unit), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        yield partial(bar.advance, bar.add_task(name, total=total))


def duration(seconds: float) -> str:
    """Write a duration for people: ``"40 s"``, ``"12 min"`` or ``"3 h 05 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.0f} {self.unit}/s", style="progress.data.speed")


class _Logged:
    def __init__(self, name: str, total: int, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done, self.logged = 0, time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self.logged >= _LOG_EVERY:
            self.logged = time.monotonic()
            _log.info("%s: %d of %d %s", self.name, self.done, self.total, self.unit)
