"""Seeded synthetic features that the authors' own codes were run on; ``data/reference_scores.json`` holds their scores.

Two datasets of six pretend models each: ``small`` (600 x 64, 5 classes) and ``under`` (200 x 512, 8 classes, fewer rows
than dimensions). Classes are Gaussian clusters that differ in eight latent directions, seen through a map with a
decaying spectrum. Separation and overall scale differ from model to model, so that scores which switch with the scale
take both branches; every other model is rectified, as the features of a convolutional network are.

The arrays are pure functions of the dataset's name and the model's index; ``matches`` compares one with the stored
fingerprint, since numpy promises its bit stream for ever but not every distribution.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MODELS = range(6)
SHAPES = {"small": (600, 64, 5), "under": (200, 512, 8)}  # rows, dimensions, classes

_SEED = 20261121
_STREAM = {"small": 0, "under": 3}
_SEPARATION = (0.5, 1.5, 0.9, 0.7, 2.0, 1.1)  # between classes, relative to within
_SCALE = (6.0, 0.25, 1.6, 3.0, 0.12, 2.6)
_LATENT = 8
_SOURCE_CLASSES = 50
_SOURCE_ROWS, _SOURCE_CLUSTERS = 500, 20


@cache
def reference() -> dict[str, Any]:
    """Return the stored scores and fingerprints."""
    return json.loads((Path(__file__).parent / "data" / "reference_scores.json").read_text())


def matches(array: Array, fingerprint: dict[str, Any]) -> bool:
    """Return whether an array is the one that the stored scores were measured on."""
    return list(array.shape) == fingerprint["shape"] and np.allclose(
        [array.sum(), np.abs(array).sum()], [fingerprint["sum"], fingerprint["abs_sum"]], rtol=1e-9
    )


def labels(dataset: str) -> Array:
    """Class of each row, int64 ``[N]``, mildly imbalanced; every class has at least eight rows."""
    n, _, c = SHAPES[dataset]
    rng = _rng(1, dataset)
    weight = 1.0 + 0.6 * rng.random(c)
    drawn = rng.choice(c, size=n - 8 * c, p=weight / weight.sum())
    y = np.concatenate([np.repeat(np.arange(c), 8), drawn]).astype(np.int64)
    rng.shuffle(y)
    return y


@cache
def features(dataset: str, model: int) -> Array:
    """Features of one model, float64 ``[N, D]``; one array for all callers, not to be written to."""
    n, d, c = SHAPES[dataset]
    rng, mixing, offset = _model(dataset, model)
    basis = np.linalg.qr(rng.standard_normal((d, _LATENT)))[0]
    centers = _SEPARATION[model] * rng.standard_normal((c, _LATENT)) @ basis.T
    width = 0.8 + 0.4 * rng.random(c)
    y = labels(dataset)
    return _emit(centers[y] + width[y][:, None] * rng.standard_normal((n, d)), mixing, offset, model)


def source_features(dataset: str, model: int) -> Array:
    """Features of unrelated source data from the same model, float64 ``[500, D]``."""
    d = SHAPES[dataset][1]
    _, mixing, offset = _model(dataset, model)
    rng = _rng(3, dataset, model)
    cluster = rng.integers(0, _SOURCE_CLUSTERS, size=_SOURCE_ROWS)
    basis = np.linalg.qr(rng.standard_normal((d, _LATENT)))[0]
    centers = rng.standard_normal((_SOURCE_CLUSTERS, _LATENT)) @ basis.T
    return _emit(centers[cluster] + rng.standard_normal((_SOURCE_ROWS, d)), mixing, offset, model)


@cache
def source_logits(dataset: str, model: int) -> Array:
    """Logits of a pretend source head with 50 classes, float64 ``[N, 50]``."""
    rng = _rng(4, dataset, model)
    x = features(dataset, model)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-8)
    weight = rng.standard_normal((x.shape[1], _SOURCE_CLASSES)) / np.sqrt(x.shape[1])
    return 2.5 * (x @ weight) + 0.3 * rng.standard_normal(_SOURCE_CLASSES)


def source_head(dataset: str, model: int) -> tuple[Array, Array]:
    """Weights ``[1000, D]`` and biases ``[1000]`` of a pretend source head."""
    d = SHAPES[dataset][1]
    rng = _rng(5, dataset, model)
    weight = 3.0 / (np.sqrt(d) * _SCALE[model]) * rng.standard_normal((1000, d))
    return weight, 0.1 * rng.standard_normal(1000)


def _rng(purpose: int, dataset: str, *model: int) -> np.random.Generator:
    return np.random.default_rng([_SEED, purpose, _STREAM[dataset], *model])


def _model(dataset: str, model: int) -> tuple[np.random.Generator, Array, Array]:
    d = SHAPES[dataset][1]
    rng = _rng(2, dataset, model)
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    mixing = q * np.sign(np.diag(r)) * (1.0 + np.arange(d)) ** -0.4
    return rng, mixing, 0.3 * rng.standard_normal(d)


def _emit(latent: Array, mixing: Array, offset: Array, model: int) -> Array:
    x = latent @ mixing.T + offset
    return _SCALE[model] * (np.maximum(x, 0.0) if model % 2 == 0 else x)
