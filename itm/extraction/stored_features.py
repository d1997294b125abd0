"""The features of many models, of which only some are in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from itm.core.features import Features
from itm.extraction.extract import Extraction, read_features
from itm.extraction.store import FeatureKey, FeatureStore

if TYPE_CHECKING:
    from itm.data.image_set import ImageSet

FEATURES_IN_MEMORY = 1 << 30
"""Bytes of features that a pool keeps in memory; it reads the others from the store at each access."""


class StoredFeatures(Mapping[str, Features]):
    """Features by model; what exceeds the memory allowed is read from the store at each access.

    Args:
        images: The images of every model.
        store: The store that has the features.
        memory: Bytes of features to keep in memory.
    """

    def __init__(self, images: ImageSet, store: FeatureStore, memory: int = FEATURES_IN_MEMORY) -> None:
        self.images, self.store, self.memory = images, store, memory
        self._keys: dict[str, FeatureKey] = {}
        self._kept: dict[str, Features] = {}
        self._images: dict[str, Tensor] = {}  # of each row
        self._left_out = torch.empty(0, dtype=torch.int64)

    def add(self, model: str, extraction: Extraction) -> None:
        """Add the features of a model, which the store holds."""
        self._keys[model] = extraction.key
        self._images[model] = extraction.rows
        tensors = [extraction.features.x, extraction.features.logits]
        size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        if size <= self.memory:
            self.memory -= size
            self._kept[model] = extraction.features

    def sort(self, models: Iterable[str]) -> None:
        """Put the models that have features into the order given."""
        self._keys = {model: self._keys[model] for model in models if model in self._keys}

    def leave_out_incomplete(self) -> Tensor:
        """Leave the images out that some of the models lack: scores are compared on the same images.

        Returns:
            The images left out, ascending, int64.
        """
        own = [torch.unique(self._images[model]) for model in self._keys]
        found, models = torch.unique(torch.cat(own), return_counts=True)
        self._left_out = found[models < len(own)]
        return self._left_out

    def __getitem__(self, model: str) -> Features:
        """Return the features of a model.

        Raises:
            StoreError: If they were dropped from memory and since removed from the store.
        """
        features = self._kept.get(model)
        if features is None:
            features = read_features(self.images, self.store, self._keys[model])
        if not len(self._left_out):
            return features
        return features.take(~torch.isin(self._images[model], self._left_out))

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
