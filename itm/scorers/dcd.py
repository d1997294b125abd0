"""DCD, choosing a vision-language model by layer conductance (Yang et al. 2026), reconstructed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal

import pandas as pd
import torch
from torch import Tensor

from itm.core.errors import FeatureError, SettingError
from itm.core.features import Features
from itm.core.settings import Positive, settings
from itm.scorers.base import PoolScorer, Score

_TINY = torch.finfo(torch.float64).tiny


@settings("scorer.dcd")
class DCD(PoolScorer):
    """Minus the mean rank of a model on source tasks, weighted by how well each covers the target's salient blocks.

    Reconstructed from the abstract of Yang et al., "Model Specific Task Similarity for Vision Language Model Selection
    via Layer Conductance" (arXiv 2602.01346), since its body was not available: each choice that the abstract leaves
    open is a setting. The features are the conductance of each block, ``[N, blocks]``, as the readout ``conductance``
    gives them; labels play no part. Each comparison is within one model, so that models may differ in blocks.

    The profile ``u`` of a task is the normalised mean conductance of its images. The importance of the target's blocks
    is the point of the simplex that maximises ``<w, u> + temperature * H(w)``, which is ``softmax(u / temperature)``.
    The weight of a source falls with its divergence from the target. With equal weights the score is the prior
    "mean rank elsewhere", the control of every claim.

    Args:
        sources: Conductance on each source task: features by model, by task. Two tasks or more.
        accuracy: True accuracy on the source tasks in per cent, index model, columns task; cells may be missing.
        normalise: ``"share"`` divides by the sum over blocks; ``"log-z"`` takes the z-score of the logarithm of the
            share over the source tasks, which removes the trend with depth.
        divergence: Of a source S from the target T, with the importance ``pi`` of T: ``"dev"`` is
            ``sum pi |u(T) - u(S)|``, ``"short"`` counts only blocks where the source has less, ``"kl"`` is the
            Kullback-Leibler divergence of the importances.
        temperature: Of the importance; None takes the standard deviation of ``u`` for ``share``, 1 for ``log-z``.
        beta: Temperature of the weights, in units of the median divergence over the sources.
        conductance: Conductance on the target, for a pool that holds other features; None: the pool holds it.
        weights: ``"model"`` gives each model its own weights of the sources, ``"shared"`` their mean over the models.

    Raises:
        SettingError: If a value is out of range, or there are fewer than two sources, or a source lacks accuracies.
    """

    name: ClassVar[str] = "dcd"
    resampled: ClassVar[bool] = False

    sources: Mapping[str, Mapping[str, Features]] | None = field(default=None, hash=False)
    accuracy: pd.DataFrame | None = field(default=None, hash=False, compare=False)
    normalise: Literal["share", "log-z"] = "share"
    divergence: Literal["dev", "short", "kl"] = "dev"
    temperature: Positive | None = None
    beta: Positive = 1.0
    weights: Literal["model", "shared"] = "model"
    conductance: Mapping[str, Features] | None = field(default=None, hash=False)

    def evaluate(self, pool: Mapping[str, Features]) -> dict[str, Score]:
        """Score every model of the pool.

        Returns:
            Minus the weighted mean relative rank, -1 to 0, by model. The details hold ``divergence`` and ``weights`` by
            source.

        Raises:
            SettingError: If sources or accuracies are not set, fewer than two sources, or one without accuracies.
            FeatureError: If a model lacks conductance on a source, or an accuracy on every source.
        """
        sources, accuracy = self._checked_sources()
        if self.conductance is not None:
            pool = {name: _of(name, "target", self.conductance) for name in pool}
        ranks = _ranks(accuracy, list(sources), list(pool))
        divergences: dict[str, Tensor] = {}
        for name, target in pool.items():
            shares = {task: _share(name, _of(name, task, features)) for task, features in sources.items()}
            divergences[name] = self._divergences(_share(name, target), torch.stack(list(shares.values())))
        weights = {name: self._weights(values) for name, values in divergences.items()}
        if self.weights == "shared":
            mean = torch.stack(list(weights.values())).mean(0)
            weights = dict.fromkeys(weights, mean)
        return {name: _score(name, ranks.T[name], weights[name], divergences[name]) for name in pool}

    def _checked_sources(self) -> tuple[Mapping[str, Mapping[str, Features]], pd.DataFrame]:
        if self.sources is None or self.accuracy is None:
            raise SettingError(
                "scorer.dcd: needs conductance and accuracies of source tasks; name at least two with sources=[...] "
                "(from Python: DCD(sources={task: pool}, accuracy=frame))."
            )
        if len(self.sources) < 2:
            raise SettingError(f"scorer.dcd.sources={list(self.sources)}: expected two or more source tasks.")
        return self.sources, self.accuracy

    def _divergences(self, target: Tensor, sources: Tensor) -> Tensor:
        """Divergence of each source's shares ``[S, L]`` from the target's ``[L]``, at least 0, ``[S]``."""
        temperature = self.temperature
        if self.normalise == "log-z":
            logs = sources.log()
            mean, std = logs.mean(0), logs.std(0, correction=0).clamp_min(1e-12)
            target, sources = (target.log() - mean) / std, (logs - mean) / std
            temperature = temperature or 1.0
        importance = _importance(target, temperature)
        if self.divergence == "kl":
            others = torch.stack([_importance(source, temperature) for source in sources])
            return (importance * (importance / others).log()).sum(1).clamp_min(0.0)
        gap = target - sources
        return (importance * (gap.clamp_min(0.0) if self.divergence == "short" else gap.abs())).sum(1)

    def _weights(self, divergences: Tensor) -> Tensor:
        """Softmax of minus the divergences in units of their median; equal where all are zero."""
        unit = divergences.median()
        if unit <= 0:
            unit = divergences.mean()
        if unit <= 0:
            return torch.full_like(divergences, 1 / len(divergences))
        return torch.softmax(-divergences / (self.beta * unit), 0)


def _ranks(table: pd.DataFrame, tasks: list[str], models: list[str]) -> pd.DataFrame:
    """Relative rank of each model on each source among the models of the pool, 1/count for the best."""
    if not set(tasks) <= set(table.columns):
        missing = [task for task in tasks if task not in table.columns]
        raise SettingError(
            f"scorer.dcd.accuracy: no column for the source {missing[0]!r}; its columns: "
            f"{', '.join(map(str, table.columns))}. Add its accuracies or leave the source out."
        )
    known = table[tasks].reindex(models)
    empty = [task for task in tasks if known[task].notna().sum() == 0]
    if empty:
        raise SettingError(
            f"scorer.dcd.accuracy: the source {empty[0]!r} has an accuracy for none of the models; add them or "
            "leave the source out."
        )
    return known.rank(ascending=False, method="average") / known.count()


def mean_rank(table: pd.DataFrame, tasks: list[str], models: list[str]) -> dict[str, float]:
    """Return minus the mean relative rank on source tasks, -1 to 0, by model: DCD with equal weights of all tasks.

    Args:
        table: True accuracies, index model, columns task; cells may be missing.
        tasks: The source tasks.
        models: Models to rank; those without an accuracy are left out.
    """
    means = _ranks(table, tasks, models).mean(axis=1).dropna()
    return {str(name): -float(value) for name, value in means.items()}


def _importance(profile: Tensor, temperature: float | None) -> Tensor:
    """Entropy-regularised maximum over the simplex, ``softmax(u / temperature)``, ``[L]``."""
    scale = float(profile.std(correction=0)) if temperature is None else temperature
    return torch.softmax(profile / max(scale, _TINY), 0).clamp_min(_TINY)


def _of(name: str, task: str, features: Mapping[str, Features]) -> Features:
    if name not in features:
        raise FeatureError(f"{name}: no conductance on {task!r}; extract it, or leave the model out.")
    return features[name]


def _share(name: str, features: Features) -> Tensor:
    """Share of each block in the mean conductance of a task, float64, ``[L]``, positive, sum 1."""
    x = features.x.double()
    if x.ndim != 2 or x.shape[1] < 2 or len(x) == 0:
        raise FeatureError(f"{name}: conductance of shape {tuple(x.shape)}; expected [images, 2 blocks or more].")
    if not torch.isfinite(x).all() or (x < 0).any():
        raise FeatureError(f"{name}: conductance is negative, NaN or infinite; dcd reads the readout `conductance`.")
    mean = x.mean(0)
    if float(mean.sum()) <= 0:
        raise FeatureError(f"{name}: conductance is zero in every block; the images leave the embedding unchanged.")
    return (mean / mean.sum()).clamp_min(_TINY)


def _score(name: str, ranks: pd.Series[float], weights: Tensor, divergences: Tensor) -> Score:
    known = torch.tensor(ranks.notna().to_numpy())
    if not known.any():
        raise FeatureError(f"{name}: no accuracy on any source; add one to scorer.dcd.accuracy or leave it out.")
    used = weights[known] / weights[known].sum()
    value = -float((used * torch.tensor(ranks.dropna().to_numpy())).sum())
    details: dict[str, Any] = {
        "divergence": dict(zip(map(str, ranks.index), divergences.tolist(), strict=True)),
        "weights": dict(zip(map(str, ranks.index), weights.tolist(), strict=True)),
    }
    return Score(value, details=details)
