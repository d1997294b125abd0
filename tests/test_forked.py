"""Computations side by side in forked processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from synthetic import clusters, noise

from itm.core.errors import FeatureError, SettingError
from itm.core.parallel import map_forked, processes
from itm.ranking.ranking import rank
from itm.scorers import ITM


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_the_items_and_nothing_is_pickled(jobs):
    weights = torch.arange(4.0)
    assert map_forked(lambda i: float(weights[i]) * 2, [3, 0, 2], jobs) == [6.0, 0.0, 4.0]


def test_several_processes_of_one_thread_compute():
    found = map_forked(lambda _: (os.getpid(), torch.get_num_threads()), range(8), 2)
    assert os.getpid() not in {pid for pid, _ in found}
    assert {threads for _, threads in found} == {1}


def test_one_item_or_one_job_stays_here():
    assert map_forked(lambda _: os.getpid(), [0, 1], 1) == [os.getpid()] * 2
    assert map_forked(lambda _: os.getpid(), [0], 4) == [os.getpid()]


def fail(item: int) -> None:
    raise FeatureError(f"model {item}")


def test_errors_come_back_and_a_killed_process_is_noticed():
    with pytest.raises(FeatureError, match="model 1"):
        map_forked(fail, [1, 2], 2)
    with pytest.raises(SettingError, match="jobs=2: a worker process was killed"):
        map_forked(lambda _: os._exit(9), [1, 2], 2)


SLEEPERS = """
import os, time
from itm.core.parallel import map_forked
# one write per line: print() writes the number and the end of line apart, and two processes may interleave them
map_forked(lambda _: (os.write(1, f"{os.getpid()}\\n".encode()), time.sleep(600)), range(2), 2)
"""


def test_processes_end_with_a_parent_that_was_killed():
    command = [sys.executable, "-c", SLEEPERS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        try:
            children = [int(parent.stdout.readline()) for _ in range(2)]
        finally:  # leaving the block waits for the parent
            parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 300
    while (left := [child for child in children if alive(child)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for child in left:
        os.kill(child, signal.SIGKILL)
    assert left == []


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_at_least_one_process_is_allowed():
    assert 1 <= processes() <= 8


def test_a_ranking_does_not_depend_on_the_processes():
    pool = {"noise": noise(80, 6, 3), "clusters": clusters(80, 6, 3)}
    scorer = ITM(batch_size=32, iterations=40, evaluate_every=20)
    alone, shared = (rank(pool, scorer, seed=1, seeds=2, jobs=jobs) for jobs in (1, 2))
    assert shared.order == alone.order
    assert shared.scores == pytest.approx(alone.scores, abs=0.02)  # one thread adds in another order than two
