"""ITM as a score: the held-out accuracy of embeddings that DVA evolves (NeurIPS 2025)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from torch import Tensor

from itm.batches import OrderedBatches, RandomBatches
from itm.dva import CenterScheme, Loss, adaptive_steps, class_distance, pseudo_centers
from itm.errors import SettingError, unknown
from itm.estimator import Evolution, ITMModule, Scaling, Stability, fit, scale_features
from itm.scorers.base import Samples, Score, Scorer
from itm.splits import split_indices


@dataclass(frozen=True)
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
        centers: Scheme of :func:`itm.dva.pseudo_centers` (appendix A.8).
        shift: Whether centers take the scalar mean and standard deviation of the training features, as scaled.
        dim: Width ``p`` of the mapped embeddings, at least the number of classes, which is the default (ours).
        standardize: Form of dis_φ, see :func:`itm.dva.class_distance`.
        scaling: Feature scaling before the map, see :func:`itm.estimator.scale_features` (ours).
        evolution: Algorithm 2 in closed form, or Algorithm 1 unrolled from the identity or from a random map.
        heldout: Whether held-out batches are evolved with their own labels (our reading of the text) or scored plain.
        stability: What happens where the evolution would diverge, see :class:`itm.estimator.ITMModule` (ours).
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW (ours: the library's default).
        train_fraction: Share of the rows that train; the others score.
        evaluate_every: Batches between two evaluations; the best one is the score.
        accelerator: Where it runs, in Lightning's words.
        seed: Split, initial weights, order of batches and random centers.
    """

    name: ClassVar[str] = "itm"

    batch_size: int = 256
    iterations: int = 500
    eta: float = 0.01
    n_b: int = 20
    eta_0: float = 0.01
    steps: int | None = None
    loss: Loss = "mse"
    centers: CenterScheme = "onehot"
    shift: bool = True
    dim: int | None = None
    standardize: Literal["per_dim", "rms"] = "per_dim"
    scaling: Scaling = "unit"
    evolution: Evolution = "closed_form"
    heldout: Literal["evolved", "plain"] = "evolved"
    stability: Stability = "cap"
    lr: float = 5e-3
    weight_decay: float = 1e-2
    train_fraction: float = 0.8
    evaluate_every: int = 100
    accelerator: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            whole = setting.name in ("batch_size", "iterations", "evaluate_every", "steps", "dim")
            positive = setting.name in ("eta", "eta_0", "lr")
            if value is not None and ((whole and value < 1) or (positive and not value > 0)):
                least = "at least 1" if whole else "above 0"
                raise SettingError(f"scorer.itm.{setting.name}={value}: expected a number {least}.")

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; details hold n, dis_φ, curve and losses by iteration, and how stable the evolution was."""
        device = self._device()
        x, y = samples.x.float().to(device), samples.y.to(device)
        train, heldout = (
            rows.to(device) for rows in split_indices(samples.y, self.train_fraction, self.seed, samples.groups)
        )
        x_train, y_train = x[train], y[train]
        distance = class_distance(x_train, y_train, self.standardize)
        n = self.steps or adaptive_steps(distance, eta=self.eta_0, n_b=self.n_b)
        x = scale_features(x, train, self.scaling)
        generator = torch.Generator().manual_seed(self.seed)
        shuffled = heldout[torch.randperm(len(heldout), generator=generator).to(device)]
        trace = fit(
            self._module(x[train], samples.num_classes, n),
            RandomBatches(x[train], y_train, self.batch_size, generator),
            OrderedBatches(x[shuffled], y[shuffled], self.batch_size),
            iterations=self.iterations,
            evaluate_every=self.evaluate_every,
            accelerator=self.accelerator,
        )
        details = {
            "n": n,
            "distance": distance,
            "batch_size": min(self.batch_size, len(train)),
            "curve": trace.curve,
            "losses": trace.losses,
            "eta_lambda_max": trace.eta_lambda,
            "capped": trace.capped,
        }
        return Score(trace.best, details=details)

    def _device(self) -> torch.device:
        wanted = self.accelerator
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        if wanted not in ("cpu", "cuda"):
            raise unknown("scorer.itm.accelerator", wanted, ("cpu", "cuda", "auto"))
        if wanted == "cuda" and not torch.cuda.is_available():
            raise SettingError("scorer.itm.accelerator=cuda: torch sees no CUDA device; use cpu or auto.")
        return torch.device(wanted)

    def _module(self, x: Tensor, num_classes: int, n: int) -> ITMModule:
        """The module for scaled training features ``x``: shifted centers of width ``p``."""
        p = num_classes if self.dim is None else self.dim
        mean, std = (float(x.mean()), float(x.std())) if self.shift else (0.0, 1.0)
        # constant features have no spread to scale the centers by
        std = std if std > 0 else 1.0
        unshifted = pseudo_centers(num_classes, p, self.centers, generator=torch.Generator().manual_seed(self.seed))
        return ITMModule(
            x.shape[1],
            (unshifted * std + mean).float(),
            steps=n,
            eta=self.eta,
            loss=self.loss,
            evolution=self.evolution,
            heldout=self.heldout,
            stability=self.stability,
            lr=self.lr,
            weight_decay=self.weight_decay,
            logit_centers=unshifted.float(),
            seed=self.seed,
        )
