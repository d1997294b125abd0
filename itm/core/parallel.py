"""Small independent computations side by side, in forked processes that share the parent's tensors."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from itm.core.errors import SettingError

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 8  # each process holds its own scaled copy of a model's features
_task: tuple[Callable[[Any], Any], Sequence[Any]]


def processes() -> int:
    """How many processes may compute side by side: one per core, at most 8; 1 where forking is not safe."""
    forks = sys.platform == "linux" and not multiprocessing.current_process().daemon
    if not forks or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # a forked process cannot use its parent's CUDA
        return 1
    return min(len(os.sched_getaffinity(0)), _MOST)


def map_forked(function: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> list[Result]:
    """Apply a function to every item, in ``jobs`` forked processes of one thread each.

    Neither function nor items are pickled: the processes inherit them. What the function returns or raises is.

    Args:
        function: What to compute.
        items: For what.
        jobs: Number of processes; 1 computes here, with this process's threads.

    Returns:
        The results, in the order of the items.

    Raises:
        SettingError: If a process was killed.
    """
    jobs = min(jobs, len(items))
    if jobs <= 1:
        return [function(item) for item in items]
    fork = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(jobs, mp_context=fork, initializer=_inherit, initargs=(function, items)) as pool:
            return list(pool.map(_compute, range(len(items))))
    except BrokenProcessPool as error:
        raise SettingError(f"jobs={jobs}: a process was killed, for want of memory perhaps; set jobs=1.") from error


def _inherit(function: Callable[[Any], Any], items: Sequence[Any]) -> None:
    global _task
    _task = function, items
    # the parent's pool of threads did not come along, and one thread each leaves no core idle
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed sends no more work, and its processes would wait for it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _compute(index: int) -> Any:
    function, items = _task
    return function(items[index])
