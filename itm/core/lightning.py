"""Lightning without its side effects on the process: logs, driver probes, autocast."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def no_driver_probe() -> Iterator[None]:
    """Keep a machine without a GPU from seeking the driver's library on disk at every step of an optimiser.

    Lightning asks torch to probe through NVML, and AdamW probes each time: up to a millisecond of every step.
    """
    key = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.get(key)
    if before is None or torch.cuda.is_available():
        yield
        return
    os.environ[key] = "0"
    try:
        yield
    finally:
        os.environ[key] = before


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hold back Lightning's banner and its advice on loaders: a pool of models would print it once each."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in float32 within a caller's ``torch.autocast``, whose rounding would hide the evolution."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
