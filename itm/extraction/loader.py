"""Batches of decoded images, in order: from processes while the network runs, or from threads between its passes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from itm.core.errors import DataError, WorkerError
from itm.core.parallel import cores

if TYPE_CHECKING:
    from itm.data.image_set import ImageSet


class DecodedBatch(NamedTuple):
    """One batch of images.

    Args:
        indices: Images that were decoded.
        images: Their pixels, uint8, ``[n, 3, H, W]``.
        errors: Image to reason, for those that could not be decoded.
    """

    indices: list[int]
    images: Tensor
    errors: dict[int, str]


def decode_batches(
    images: ImageSet,
    transform: Callable[[Image.Image], Tensor],
    batches: Sequence[Sequence[int]],
    *,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[DecodedBatch]:
    """Decode and transform images a batch at a time; the workers start with the call.

    On Linux the workers are forked: they start in milliseconds, while a new interpreter would import for seconds. They
    decode and resize only, on a single torch thread each, so they use neither the parent's thread pool nor its CUDA
    context, which would be unsafe after a fork. Other platforms start workers in their default way.

    Args:
        images: Images to decode.
        transform: Turns an image into uint8 ``[3, H, W]``.
        batches: Indices of the images of each batch.
        workers: Number of processes; 0 decodes each batch on demand, on one thread per core.
        pin_memory: Whether to place the batches in pinned memory, from which a GPU copies fastest.

    Yields:
        The batches in the order given. Images that cannot be read are in ``errors``.

    Raises:
        RuntimeError: If a worker died, at any point of the main process: see :func:`worker_errors`.
    """
    map_ = map if workers else ThreadPoolExecutor(cores()).map  # Pillow decodes and resizes without the GIL
    loader = DataLoader(
        _Decoding(images, transform, map_),
        sampler=batches,
        batch_size=None,  # an item is a whole batch
        num_workers=workers,
        pin_memory=pin_memory,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # else the loader draws from the global random state
    )
    return iter(loader)


class _Decoding(Dataset[DecodedBatch]):
    """Dataset with a whole batch per item, so that a worker hands over one tensor; errors are values of the batch.

    Args:
        images: Images to decode.
        transform: Turns an image into uint8 ``[3, H, W]``.
        map_: The built-in ``map`` or that of a pool of threads.
    """

    def __init__(self, images: ImageSet, transform: Callable[[Image.Image], Tensor], map_: Callable[..., Any]) -> None:
        self.images, self.transform, self.map = images, transform, map_

    def __getitem__(self, indices: Sequence[int]) -> DecodedBatch:
        results = list(zip(indices, self.map(self._decode, indices), strict=True))
        decoded = {index: result for index, result in results if isinstance(result, Tensor)}
        errors = {index: result for index, result in results if isinstance(result, str)}
        return DecodedBatch(list(decoded), torch.stack([*decoded.values()]) if decoded else torch.empty(0), errors)

    def _decode(self, index: int) -> Tensor | str:
        try:
            return self.transform(self.images.image(index))
        except DataError as error:
            return str(error)
        except Exception as error:  # such as an image that the transform refuses: the message must name its file
            return f"{self.images.path(index)}: {type(error).__name__}: {error}."


def _ignore_interrupts(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C and ends its workers


@contextmanager
def worker_errors(workers: int) -> Iterator[None]:
    """Turn the death of a decoding process in the block into one error.

    Torch receives a signal, whose handler raises at any place of the main process: in a forward pass,
    for example. The block has to hold everything that runs while workers live.

    Raises:
        WorkerError: If a worker died; the message names ``workers``.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        reason = " ".join(str(error).partition("\n")[0].split()) or type(error).__name__
        # a dead worker also breaks the pipe or the shared memory that a batch is read from
        broken = isinstance(error, (ConnectionError, FileNotFoundError, EOFError)) or "ancdata" in reason
        if not workers or not (broken or reason.startswith("DataLoader worker")):
            raise
        raise WorkerError(
            f"workers={workers}: a decoding process ended early ({reason}). It may have run out of memory or shared "
            "memory: lower workers or batch_size; workers=0 decodes without processes."
        ) from error
