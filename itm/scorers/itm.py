"""ITM as a score: the held-out accuracy of embeddings that DVA evolves (NeurIPS 2025)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from itm.core.devices import check_device
from itm.core.features import Features
from itm.core.settings import Count, NonNegative, Positive, Share, settings
from itm.core.splits import split_indices
from itm.dva.adaptive import Standardize
from itm.dva.equations import CenterScheme, Evolution, Heldout, Loss, Stability
from itm.dva.preparation import Prepared, prepare
from itm.dva.scaling import Scaling, whiten
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.common.folds import assign_folds

if TYPE_CHECKING:
    from itm.core.datamodule import TransferData
    from itm.dva.module import ITMModule, Trace

_MOST_VALUES = 2**25  # of the gathered batches of all seeds that train side by side: 128 MiB


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


@dataclass(frozen=True, eq=False)
class _Run:
    """One training: its seed and its rows, int64, ascending."""

    seed: int
    train: Tensor
    held_out: Tensor


@settings("scorer.itm")
class ITM(Scorer):
    """Implicit Transferability Modeling.

    Trains a map per model and dataset for a few hundred mini-batches whose embeddings are moved, in closed form, as
    fine-tuning would move them, and scores the accuracy on a held-out fifth. The defaults are the paper's protocol;
    where the paper is silent the reading is ours and marked so.

    Args:
        batch_size: ``B``; the number of training rows where that is smaller.
        iterations: Training batches.
        epochs: Passes over the training rows in place of ``iterations``, so that the number of batches follows that of
            the rows (ours): 320 passes are 500 batches of 256 with 400 training rows.
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
        shrinkage: Whitens the features before the scaling, with the total covariance shrunk by this share towards a
            multiple of the identity (:func:`itm.dva.scaling.whiten`); None leaves them as they are (ours).
        evolution: Algorithm 2 in closed form, or Algorithm 1 unrolled from the identity or from a random map.
        heldout: Whether held-out batches are evolved with their own labels (our reading of the text) or scored plain.
        measure: What the score is of the held-out part: its ``"accuracy"`` (the paper's), the ``"miou"`` of its classes
            (ours, for segmentation), or minus its cross-entropy in nats (ours), which moves with every row and not in
            steps of one row.
        stability: What happens where the evolution would diverge, see :class:`itm.dva.module.ITMModule` (ours).
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW (ours: the library's default).
        train_fraction: Share of the rows that train; the others score. Not used with several ``folds``.
        folds: Number of folds; with two or more every row is held out once, and the score is that of all rows (ours).
        evaluate_every: Batches between two evaluations.
        evaluation: Which evaluation is the score: the ``"best"`` (the paper's), the ``"last"``, or the ``"mean"`` of
            all (ours).
        accelerator: Where it runs; ``"auto"`` takes a CUDA device where there is one.
        seed: Split, initial weights, order of batches and random centers.
    """

    name: ClassVar[str] = "itm"
    resampled: ClassVar[bool] = False

    batch_size: Count = 256
    iterations: Count = 500
    epochs: Positive | None = None
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
    shrinkage: Annotated[float, Field(gt=0, le=1)] | None = None
    evolution: Evolution = "closed_form"
    heldout: Heldout = "evolved"
    measure: Literal["accuracy", "miou", "likelihood"] = "accuracy"
    stability: Stability = "cap"
    lr: Positive = 5e-3
    weight_decay: NonNegative = 1e-2
    train_fraction: Share = 0.8
    folds: Count = 1
    evaluate_every: Count = 100
    evaluation: Literal["best", "last", "mean"] = "best"
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
        splits = {seed: self._splits(samples, seed) for seed in seeds}
        found: dict[_Run, tuple[Prepared, Trace]] = {}
        # runs with as many rows train side by side; groups and folds give splits of several sizes
        sizes: dict[tuple[int, int], list[_Run]] = {}
        for run in (run for runs in splits.values() for run in runs):
            sizes.setdefault((len(run.train), len(run.held_out)), []).append(run)
        # the batches of all runs lie in memory
        values = min(self.batch_size, len(features.x)) * features.dim
        most = max(1, _MOST_VALUES // values) if samples.groups is None else 1
        for alike in sizes.values():
            for start in range(0, len(alike), most):
                stack = alike[start : start + most]
                prepared, module, _ = self._train(features, samples.num_classes, stack)
                found.update(zip(stack, zip(prepared, module.traces, strict=True), strict=True))
        return [self._score([(run, *found[run]) for run in splits[seed]]) for seed in seeds]

    def train(self, samples: Samples) -> Trained:
        """Train the map and the head of one model under the scorer's own seed (Algorithm 1 or 2); the first split."""
        run = self._splits(samples, self.seed)[0]
        (prepared,), module, data = self._train(self._features(samples), samples.num_classes, [run])
        return Trained(module, data, [self._score([(run, prepared, module.traces[0])])])

    def _splits(self, samples: Samples, seed: int) -> list[_Run]:
        """Split the rows once, or so that each row is held out by one of the folds."""
        if self.folds == 1:
            return [_Run(seed, *split_indices(samples.y.cpu(), self.train_fraction, seed, samples.groups))]
        fold = assign_folds(samples, self.folds, seed)
        held = [fold == number for number in range(int(fold.max()) + 1)]
        return [_Run(seed, torch.nonzero(~mask).flatten(), torch.nonzero(mask).flatten()) for mask in held]

    def _features(self, samples: Samples) -> Features:
        device = self._device()
        x, y = samples.x.float().to(device), samples.y.to(device)
        if self.shrinkage is not None:
            x = whiten(x, self.shrinkage)
        return Features(F.normalize(x, dim=1) if self.scaling == "l2" else x, y, groups=samples.groups)

    def _train(
        self, features: Features, num_classes: int, runs: Sequence[_Run]
    ) -> tuple[list[Prepared], ITMModule, TransferData]:
        """Train runs with equal numbers of rows side by side."""
        # Lightning takes seconds to import: only the scorer that trains pays for it
        from itm.core.datamodule import TransferData
        from itm.dva.module import ITMModule
        from itm.dva.training import fit

        device, seeds = features.x.device, [run.seed for run in runs]
        train = torch.stack([run.train for run in runs]).to(device)
        held_out = torch.stack([run.held_out for run in runs]).to(device)
        prepared = [self._prepare(features, rows, num_classes, seed) for rows, seed in zip(train, seeds, strict=True)]
        offset = torch.stack([-p.mean * p.factor for p in prepared])[:, None]
        factor = torch.stack([p.factor for p in prepared])[:, None]
        data = TransferData.from_features(
            features,
            train,
            held_out,
            seeds=seeds,
            batch_size=self.batch_size,
            iterations=self._iterations(train.shape[1]),
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
        fit(module, data, accelerator=device.type)
        return prepared, module, data

    def _iterations(self, rows: int) -> int:
        """Number of training batches for a number of training rows."""
        if self.epochs is None:
            return self.iterations
        return math.ceil(self.epochs * rows / min(self.batch_size, rows))

    def _prepare(self, features: Features, train: Tensor, num_classes: int, seed: int) -> Prepared:
        return prepare(
            features.x.index_select(0, train),
            features.y[train],
            num_classes,
            dim=self.dim or num_classes,
            scheme=self.centers,
            shift=self.shift,
            standardize=self.standardize,
            scaling=self.scaling,
            steps=self.steps,
            eta=self.eta_0,
            n_b=self.n_b,
            seed=seed,
        )

    def _score(self, runs: Sequence[tuple[_Run, Prepared, Trace]]) -> Score:
        """Score one seed from its run, or from the runs of its folds, weighted by their held-out rows."""
        weights = [len(run.held_out) for run, _, _ in runs]
        traces = [trace for _, _, trace in runs]
        curve = _pooled([trace.curve for trace in traces], weights)
        heldout_losses = _pooled([trace.heldout_losses for trace in traces], weights)
        first = runs[0][1]
        details: dict[str, Any] = {
            "n": first.steps,
            "distance": first.distance,
            "batch_size": min(self.batch_size, len(runs[0][0].train)),
            "curve": curve,
            "losses": _pooled([trace.losses for trace in traces], weights),
            "heldout_losses": heldout_losses,
            "eta_lambda_max": max(trace.eta_lambda for trace in traces),
            "capped": sum(trace.capped for trace in traces),
        }
        values = {"accuracy": curve, "likelihood": {step: -loss for step, loss in heldout_losses.items()}}
        if self.measure == "miou":
            values["miou"] = details["mious"] = _pooled([trace.mious for trace in traces], weights)
        return Score(_evaluation(list(values[self.measure].values()), self.evaluation), details=details)

    def _device(self) -> torch.device:
        if self.accelerator == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        check_device(self.accelerator, "32", accelerator="scorer.itm.accelerator")
        return torch.device(self.accelerator)


def _pooled(curves: Sequence[dict[int, float]], weights: Sequence[int]) -> dict[int, float]:
    """Return the mean of the folds' values at each iteration, weighted; the values of a single run as they are."""
    if len(curves) == 1:
        return curves[0]
    total = sum(weights)
    steps = set.intersection(*map(set, curves))
    pooled = {}
    for step in sorted(steps):
        pooled[step] = sum(weight * curve[step] for weight, curve in zip(weights, curves, strict=True)) / total
    return pooled


def _evaluation(values: Sequence[float], which: str) -> float:
    """Return the best, the last or the mean of the evaluations."""
    if which == "last":
        return values[-1]
    return max(values) if which == "best" else sum(values) / len(values)
