"""Several workers of one estimate: each model is extracted once, and a killed worker's model is taken over."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from itm.extraction import pool
from itm.extraction.extract import extract
from itm.extraction.pool import ExtractionSettings, extract_pool

FORK = multiprocessing.get_context("fork")
ZOO = {name: {"model": name, "image_size": 32} for name in ("test_resnet", "test_efficientnet", "test_efficientnet_ln")}


@pytest.fixture(autouse=True)
def _quick(one_thread, monkeypatch):
    monkeypatch.setattr(pool, "PATIENCE", 0.05)
    extract_pool.cache_clear()


def settings(tmp_path: Path, worker: int, limit: int = 60) -> ExtractionSettings:
    data = {"name": "digits", "root": None, "limit": limit, "on_error": "stop"}
    trainer = {"accelerator": "cpu", "precision": "32", "batch_size": 64, "workers": 0}
    return ExtractionSettings(data, ZOO, trainer, str(tmp_path / "store"), 0, worker)


def work(number: int, tmp_path: Path, start, found) -> None:
    torch.set_num_threads(1)
    start.wait()
    done = extract_pool(settings(tmp_path, number))
    found.put((list(done.features), {name: candidate.cached for name, candidate in done.candidates.items()}))


def test_two_workers_extract_each_model_once_and_have_the_same_pool(tmp_path):
    start, found = FORK.Barrier(2), FORK.Queue()
    workers = [FORK.Process(target=work, args=(number, tmp_path, start, found)) for number in (1, 2)]
    for worker in workers:
        worker.start()
    results = [found.get(timeout=900) for _ in workers]
    for worker in workers:
        worker.join()
    assert [names for names, _ in results] == [list(ZOO)] * 2, "in the order of the zoo"
    for name in ZOO:
        assert sorted(cached[name] for _, cached in results) == [False, True]


def hang_in_second_shard(tmp_path: Path, held) -> None:
    """Extract the first model; hang when its first 512 images are stored."""
    torch.set_num_threads(1)
    forward = extract.__globals__["forward"]

    def hanging(*arguments):
        if list((tmp_path / "store").glob("*/00000000-*.safetensors")):
            held.set()
            time.sleep(600)
        return forward(*arguments)

    extract.__globals__["forward"] = hanging
    extract_pool(settings(tmp_path, 1, limit=700))


def test_a_killed_workers_model_is_taken_over(tmp_path, monkeypatch, caplog):
    held = FORK.Event()
    other = FORK.Process(target=hang_in_second_shard, args=(tmp_path, held))
    other.start()
    assert held.wait(60)
    order, forward = [], extract.__globals__["forward"]

    def counted(read, images, *rest):
        order.extend([read.args[0].name] * len(images))
        return forward(read, images, *rest)

    def wait(seconds):
        assert set(order) == set(ZOO) - {"test_resnet"}, "the models that nobody holds come first"
        os.kill(other.pid, signal.SIGKILL)
        other.join()

    monkeypatch.setitem(extract.__globals__, "forward", counted)
    monkeypatch.setattr(pool.time, "sleep", wait)
    with caplog.at_level(logging.INFO):
        done = extract_pool(settings(tmp_path, 2, limit=700))
    assert other.exitcode == -signal.SIGKILL
    assert list(done.features) == list(ZOO)
    assert order.count("test_resnet") == 700 - 512, "the killed worker's shard is kept"
    assert order.count("test_efficientnet") == 700
    assert "Other workers hold 1 of the models." in caplog.text


def test_the_worker_does_not_decide_the_features(tmp_path):
    assert settings(tmp_path, 1) == settings(tmp_path, 2)
