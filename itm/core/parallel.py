"""Processor cores, numbers of worker processes, and computations in forked processes that share the parent's
tensors.
"""

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

_MOST_PROCESSES = 8  # each process holds its own scaled copy of a model's features
_MOST_WORKERS = 16  # more decode faster than a GPU computes
_task: tuple[Callable[[Any], Any], Sequence[Any]]


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(accelerator: str) -> int:
    """Return how many processes should decode images.

    On the CPU none: a network beside other processes waits for them more than it gains. With a GPU one per core but
    one, at most 16.
    """
    return 0 if accelerator == "cpu" else min(max(1, cores() - 1), _MOST_WORKERS)


def processes() -> int:
    """Return how many processes may compute side by side: one per core, at most 8; 1 where forking is not safe."""
    forks = sys.platform == "linux" and not multiprocessing.current_process().daemon
    if not forks or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # a forked process cannot use its parent's CUDA
        return 1
    return min(cores(), _MOST_PROCESSES)


def map_forked(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Result]:
    """Apply a function to every item, in ``jobs`` forked processes of one thread each.

    The processes inherit function and items, so neither is pickled; results and exceptions are.

    Args:
        function: The computation.
        items: Its arguments, one per call.
        jobs: Number of processes; 1 computes in this process, with its threads.
        advance: Called with 1 after each item, in the order of the items.

    Returns:
        The results, in the order of the items.

    Raises:
        SettingError: If a process was killed.
    """
    jobs = min(jobs, len(items))
    results = []
    if jobs <= 1:
        for item in items:
            results.append(function(item))
            advance(1)
        return results
    fork = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(jobs, mp_context=fork, initializer=_inherit, initargs=(function, items)) as pool:
            for result in pool.map(_compute, range(len(items))):
                results.append(result)
                advance(1)
    except BrokenProcessPool as error:
        raise SettingError(f"jobs={jobs}: a worker process was killed, probably out of memory; set jobs=1.") from error
    return results


def _inherit(function: Callable[[Any], Any], items: Sequence[Any]) -> None:
    global _task
    _task = function, items
    # a fork does not copy the parent's pool of threads, and one thread each keeps every core busy
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the parent process dies; otherwise the worker would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _compute(index: int) -> Any:
    function, items = _task
    return function(items[index])
