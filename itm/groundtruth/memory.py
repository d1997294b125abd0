"""Memory of a trial: how many images pass the network at once, and when fewer images help."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace

import torch

from itm.groundtruth.hardware import Hardware


@dataclass(frozen=True)
class Batching:
    """The images of one optimiser step, in equal parts.

    Args:
        size: Images of one step; all training images where there are fewer than a batch.
        parts: Forward passes whose gradients are accumulated, a power of two.
        steps: Optimiser steps of an epoch; the remainder of the shuffled images is dropped.
    """

    size: int
    parts: int
    steps: int

    @classmethod
    def fitting(cls, images: int, batch_size: int, at_once: int) -> Batching:
        """Build with as few parts as ``at_once`` images per forward pass allow."""
        size = min(images, batch_size)
        parts = 1
        while size // parts > at_once:
            parts *= 2
        return cls(size, parts, images // size)

    @property
    def micro(self) -> int:
        """Images of one forward pass."""
        return self.size // self.parts

    def halved(self) -> Batching:
        """Return a copy with half the images per forward pass."""
        return replace(self, parts=self.parts * 2)


def free_memory(hardware: Hardware) -> None:
    """Free the memory of a trained network for the next one."""
    if hardware.compile:
        torch.compiler.reset()  # otherwise the compiler gives up after a few networks of the same code
    gc.collect()  # the tensors are in reference cycles
    if hardware.accelerator == "cuda":
        torch.cuda.empty_cache()
    elif hardware.accelerator == "mps":
        torch.mps.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether fewer images at once may help."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # the CPU's allocator, cuBLAS and cuDNN have no exception class of their own for this
    signs = ("out of memory", "DefaultCPUAllocator: can't allocate memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
