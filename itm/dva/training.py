"""Training of ITM's map for one model on one dataset, through Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning as L
import torch

from itm.core.datamodule import TransferData
from itm.core.lightning import full_precision, no_driver_probe, quiet_lightning
from itm.dva.module import ITMModule, Trace

_WORTH_SHARING = 2**23  # multiply-adds of the products E W_z of all seeds


def fit(module: ITMModule, data: TransferData, *, accelerator: str = "cpu") -> list[Trace]:
    """Train a module on cached features, scoring the held-out part after each chunk of batches.

    Args:
        module: The module to train; its ``traces`` are filled.
        data: Batches of :meth:`itm.core.datamodule.TransferData.from_features`, for the module's seeds.
        accelerator: Lightning's accelerator: ``"cpu"``, ``"cuda"``, ``"auto"``, ...

    Returns:
        The trace of each seed.

    Raises:
        FeatureError: If the training diverges, or would diverge and ``stability`` is ``"error"``.
    """
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    products = data.batch_size * module.map.numel()
    with ExitStack() as contexts:
        for context in (quiet_lightning(), no_driver_probe(), full_precision(), _few_threads(products)):
            contexts.enter_context(context)
        trainer = L.Trainer(
            accelerator=accelerator,
            devices=1,
            max_epochs=1,
            val_check_interval=1,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            **options,
        )
        trainer.fit(module, datamodule=data)
    return module.traces


@contextmanager
def _few_threads(products: int) -> Iterator[None]:
    """Use one thread where a step is too small to share: threads would wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if products < _WORTH_SHARING else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
