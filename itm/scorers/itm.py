"""ITM as a score: the held-out accuracy of embeddings that DVA evolves (NeurIPS 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from itm.core.errors import SettingError
from itm.core.features import Features
from itm.core.settings import Count, NonNegative, Positive, Share, settings
from itm.core.splits import split_indices
from itm.dva.adaptive import Standardize, adaptive_steps, class_distance
from itm.dva.equations import (
    CenterScheme,
    Evolution,
    Heldout,
    Loss,
    Stability,
    pseudo_centers,
)
from itm.dva.scaling import Scaling, fit_scaling
from itm.scorers.base import Samples, Score, Scorer

if TYPE_CHECKING:
    from itm.core.datamodule import TransferData
    from itm.dva.module import ITMModule, Trace


@dataclass(frozen=True)
class Trained:
    """Result of ``ITM.train``.

    Args:
        module: The trained map and head, with one trace for each seed.
        data: The batches they were trained on, and the held-out ones.
        scores: The score of each seed.
    """

    module: ITMModule
    data: TransferData
    scores: Sequence[Score]


_MOST_VALUES = 2**25  # of the gathered batches of all seeds that train side by side: 128 MiB


@dataclass(frozen=True)
class _Prepared:
    """Quantities that one seed's training rows decide before the training.

    Args:
        distance: dis_φ of the training part.
        steps: Inner steps ``n``.
        mean: Subtracted from each row, ``[D]``.
        factor: Multiplies each row afterwards, ``[1]`` or ``[D]``.
        centers: Shifted pseudo-cluster centers, ``[C, p]``.
        logit_centers: The same before the shift.
    """

    distance: float
    steps: int
    mean: Tensor
    factor: Tensor
    centers: Tensor
    logit_centers: Tensor


@settings("scorer.itm")
class ITM(Scorer):
    """Implicit Transferability Modeling.

    Trains a map per model and dataset for a few hundred mini-batches whose embeddings are moved, in closed form, as
    fine-tuning would move them, and scores the accuracy on a held-out fifth. The defaults are the paper's protocol;
    where the paper is silent the reading is ours and marked so.

    Args:
        batch_size: ``B``; the number of training rows where that is smaller.
        iterations: Training batches.
        eta: Inner learning rate ``η``.
        n_b: Steps added to every model in eq. 9.
        eta_0: Rate of the logarithm in eq. 9.
        steps: A fixed ``n`` in place of eq. 9.
        loss: Inner loss (Table 2): ``"mse"``, ``"mae"`` or ``"ce"``.
        centers: Scheme of :func:`itm.dva.equations.pseudo_centers` (appendix A.8).
        shift: Whether centers take the scalar mean and standard deviation of the training features, as scaled.
        dim: Width ``p`` of the mapped embeddings, at least the number of classes, which is the default (ours).
        standardize: Form of dis_φ, see :func:`itm.dva.adaptive.class_distance`.
        scaling: Feature scaling before the map, see :func:`itm.dva.scaling.scale_features` (ours).
        evolution: Algorithm 2 in closed form, or Algorithm 1 unrolled from the identity or from a random map.
        heldout: Whether held-out batches are evolved with their own labels (our reading of the text) or scored plain.
        measure: What the score is of the held-out part: its ``"accuracy"`` (the paper's), the ``"miou"`` of its classes
            (ours, for segmentation), or minus its cross-entropy in nats (ours), which moves with every row and not in
            steps of one row.
        stability: What happens where the evolution would diverge, see :class:`itm.dva.module.ITMModule` (ours).
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW (ours: the library's default).
        train_fraction: Share of the rows that train; the others score.
        evaluate_every: Batches between two evaluations; the best one is the score.
        accelerator: Where it runs; ``"auto"`` takes a CUDA device where there is one.
        seed: Split, initial weights, order of batches and random centers.
    """

    name: ClassVar[str] = "itm"
    resampled: ClassVar[bool] = False

    batch_size: Count = 256
    iterations: Count = 500
    eta: Positive = 0.01
    n_b: Annotated[int, Field(ge=0)] = 20
    eta_0: Share = 0.01
    steps: Count | None = None
    loss: Loss = "mse"
    centers: CenterScheme = "onehot"
    shift: bool = True
    dim: Count | None = None
    standardize: Standardize = "per_dim"
    scaling: Scaling = "unit"
    evolution: Evolution = "closed_form"
    heldout: Heldout = "evolved"
    measure: Literal["accuracy", "miou", "likelihood"] = "accuracy"
    stability: Stability = "cap"
    lr: Positive = 5e-3
    weight_decay: NonNegative = 1e-2
    train_fraction: Share = 0.8
    evaluate_every: Count = 100
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu"
    seed: int = 0

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; details hold n, dis_φ, curve and losses by iteration, and how stable the evolution was."""
        return self.evaluate_seeds(samples, [self.seed])[0]

    def evaluate_seeds(self, samples: Samples, seeds: Sequence[int]) -> list[Score]:
        """Score one model under several seeds that train side by side; each score is that of its seed alone.

        The seeds share the features in memory, and each small operation of a step computes for all seeds.
        """
        features = self._features(samples)
        # groups give each seed a split of its own size; the batches of all seeds lie in memory
        values = min(self.batch_size, len(features.x)) * features.dim
        size = max(1, _MOST_VALUES // values) if samples.groups is None else 1
        stacks = [seeds[start : start + size] for start in range(0, len(seeds), size)]
        return [score for stack in stacks for score in self._train(features, samples.num_classes, stack).scores]

    def train(self, samples: Samples) -> Trained:
        """Train the map and the head of one model under the scorer's own seed (Algorithm 1 or 2)."""
        return self._train(self._features(samples), samples.num_classes, [self.seed])

    def _features(self, samples: Samples) -> Features:
        device = self._device()
        x, y = samples.x.float().to(device), samples.y.to(device)
        return Features(F.normalize(x, dim=1) if self.scaling == "l2" else x, y, groups=samples.groups)

    def _train(self, features: Features, num_classes: int, seeds: Sequence[int]) -> Trained:
        # Lightning takes seconds to import: only the scorer that trains pays for it
        from itm.core.datamodule import TransferData
        from itm.dva.module import ITMModule
        from itm.dva.training import fit

        labels, device = features.y.cpu(), features.x.device
        splits = [split_indices(labels, self.train_fraction, seed, features.groups) for seed in seeds]
        train, held_out = (torch.stack(rows).to(device) for rows in zip(*splits, strict=True))
        prepared = [self._prepare(features, rows, num_classes, seed) for rows, seed in zip(train, seeds, strict=True)]
        offset = torch.stack([-p.mean * p.factor for p in prepared])[:, None]
        factor = torch.stack([p.factor for p in prepared])[:, None]
        data = TransferData.from_features(
            features,
            train,
            held_out,
            seeds=seeds,
            batch_size=self.batch_size,
            iterations=self.iterations,
            evaluate_every=self.evaluate_every,
            transform=lambda batch: torch.addcmul(offset, batch, factor, out=batch),
        )
        names = ("eta", "loss", "evolution", "heldout", "stability", "lr", "weight_decay")
        module = ITMModule(
            features.dim,
            torch.stack([p.centers for p in prepared]),
            steps=[p.steps for p in prepared],
            logit_centers=torch.stack([p.logit_centers for p in prepared]),
            seeds=seeds,
            **{name: getattr(self, name) for name in names},
        )
        traces = fit(module, data, accelerator=device.type)
        scores = [self._score(p, trace, data.batch_size) for p, trace in zip(prepared, traces, strict=True)]
        return Trained(module, data, scores)

    def _prepare(self, features: Features, train: Tensor, num_classes: int, seed: int) -> _Prepared:
        """Fit scaling, centers and number of steps to the training rows of one seed."""
        x = features.x.index_select(0, train)
        # a class of one row may be held out whole: its training part is empty, and the others are renumbered
        classes = torch.unique(features.y[train], return_inverse=True)[1]
        distance = class_distance(x, classes, self.standardize)
        mean, factor = fit_scaling(x, self.scaling)
        unshifted = pseudo_centers(
            num_classes, self.dim or num_classes, self.centers, generator=torch.Generator().manual_seed(seed)
        )
        centers = unshifted
        if self.shift:
            shift = float(x.mul_(factor).mean())
            # std_mean() takes thirty times as long
            std = float(torch.linalg.vector_norm(x.sub_(shift))) / x.numel() ** 0.5
            # constant features have no deviation to scale the centers by
            centers = unshifted * (std or 1.0) + shift
        return _Prepared(
            distance=distance,
            steps=self.steps or adaptive_steps(distance, eta=self.eta_0, n_b=self.n_b),
            mean=mean,
            factor=factor,
            centers=centers.float().to(x.device),
            logit_centers=unshifted.float().to(x.device),
        )

    def _score(self, prepared: _Prepared, trace: Trace, batch_size: int) -> Score:
        details: dict[str, Any] = {
            "n": prepared.steps,
            "distance": prepared.distance,
            "batch_size": batch_size,
            "curve": trace.curve,
            "losses": trace.losses,
            "heldout_losses": trace.heldout_losses,
            "eta_lambda_max": trace.eta_lambda,
            "capped": trace.capped,
        }
        best = {
            "accuracy": trace.best,
            "miou": max(trace.mious.values()),
            "likelihood": -min(trace.heldout_losses.values()),
        }
        if self.measure == "miou":
            details["mious"] = trace.mious
        return Score(best[self.measure], details=details)

    def _device(self) -> torch.device:
        has_cuda = torch.cuda.is_available()
        if self.accelerator == "cuda" and not has_cuda:
            raise SettingError("scorer.itm.accelerator=cuda: torch sees no CUDA device; use cpu or auto.")
        return torch.device("cuda" if has_cuda and self.accelerator != "cpu" else "cpu")
