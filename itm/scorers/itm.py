"""ITM as a score: the held-out accuracy of embeddings that DVA evolves (NeurIPS 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from itm.core.errors import SettingError
from itm.core.settings import Count, NonNegative, Positive, Share, settings
from itm.core.splits import split_indices
from itm.dva.batches import OrderedBatches, RandomBatches
from itm.dva.equations import (
    CenterScheme,
    Evolution,
    Loss,
    Stability,
    Standardize,
    adaptive_steps,
    class_distance,
    pseudo_centers,
)
from itm.dva.scaling import Scaling, scale_features
from itm.scorers.base import Samples, Score, Scorer

if TYPE_CHECKING:
    from itm.dva.module import ITMModule


@dataclass(frozen=True)
class Trained:
    """What :meth:`ITM.train` leaves behind.

    Args:
        module: The trained map and head, with their trace.
        heldout: Scaled features and classes of the held-out part.
        distance: dis_φ of the training part.
        batch_size: The batch size used.
    """

    module: ITMModule
    heldout: OrderedBatches
    distance: float
    batch_size: int


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
        standardize: Form of dis_φ, see :func:`itm.dva.equations.class_distance`.
        scaling: Feature scaling before the map, see :func:`itm.dva.scaling.scale_features` (ours).
        evolution: Algorithm 2 in closed form, or Algorithm 1 unrolled from the identity or from a random map.
        heldout: Whether held-out batches are evolved with their own labels (our reading of the text) or scored plain.
        measure: What the score is of the held-out part: its ``"accuracy"`` (the paper's), or minus its cross-entropy in
            nats (ours), which moves with every row and not in steps of one row.
        stability: What happens where the evolution would diverge, see :class:`itm.dva.module.ITMModule` (ours).
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW (ours: the library's default).
        train_fraction: Share of the rows that train; the others score.
        evaluate_every: Batches between two evaluations; the best one is the score.
        accelerator: Where it runs; ``"auto"`` takes a CUDA device where there is one.
        seed: Split, initial weights, order of batches and random centers.
    """

    name: ClassVar[str] = "itm"

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
    heldout: Literal["evolved", "plain"] = "evolved"
    measure: Literal["accuracy", "likelihood"] = "accuracy"
    stability: Stability = "cap"
    lr: Positive = 5e-3
    weight_decay: NonNegative = 1e-2
    train_fraction: Share = 0.8
    evaluate_every: Count = 100
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu"
    seed: int = 0

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; details hold n, dis_φ, curve and losses by iteration, and how stable the evolution was."""
        trained = self.train(samples)
        trace = trained.module.trace
        details = {
            "n": trained.module.steps,
            "distance": trained.distance,
            "batch_size": trained.batch_size,
            "curve": trace.curve,
            "losses": trace.losses,
            "heldout_losses": trace.heldout_losses,
            "eta_lambda_max": trace.eta_lambda,
            "capped": trace.capped,
        }
        value = trace.best if self.measure == "accuracy" else -min(trace.heldout_losses.values())
        return Score(value, details=details)

    def train(self, samples: Samples) -> Trained:
        """Train the map and the head of one model (Algorithm 1 or 2)."""
        device = self._device()
        x, y = samples.x.float().to(device), samples.y.to(device)
        train, heldout = (
            rows.to(device) for rows in split_indices(samples.y, self.train_fraction, self.seed, samples.groups)
        )
        x_train, y_train = x[train], y[train]
        # a class of one row may be held out whole: its training part is empty, and the others are renumbered
        distance = class_distance(x_train, torch.unique(y_train, return_inverse=True)[1], self.standardize)
        n = self.steps or adaptive_steps(distance, eta=self.eta_0, n_b=self.n_b)
        x = scale_features(x, train, self.scaling)
        x_train = x[train]
        generator = torch.Generator().manual_seed(self.seed)
        shuffled = heldout[torch.randperm(len(heldout), generator=generator).to(device)]
        # Lightning takes seconds to import: only the scorer that trains pays for it
        from itm.dva.module import ITMModule, fit

        module = ITMModule(x.shape[1], **self._inner(x_train, samples.num_classes), steps=n)
        batches = RandomBatches(x_train, y_train, self.batch_size, generator)
        held = OrderedBatches(x[shuffled], y[shuffled], self.batch_size)
        fit(
            module,
            batches,
            held,
            iterations=self.iterations,
            evaluate_every=self.evaluate_every,
            accelerator=device.type,
        )
        return Trained(module, held, distance, batches.batch_size)

    def _device(self) -> torch.device:
        has_cuda = torch.cuda.is_available()
        if self.accelerator == "cuda" and not has_cuda:
            raise SettingError("scorer.itm.accelerator=cuda: torch sees no CUDA device; use cpu or auto.")
        return torch.device("cuda" if has_cuda and self.accelerator != "cpu" else "cpu")

    def _inner(self, x: Tensor, num_classes: int) -> dict[str, Any]:
        """Arguments of the module for scaled training features ``x``: shifted centers of width ``p``, and settings."""
        p = num_classes if self.dim is None else self.dim
        mean, std = (float(x.mean()), float(x.std(correction=0))) if self.shift else (0.0, 1.0)
        # constant features have no spread to scale the centers by
        std = std if std > 0 else 1.0
        unshifted = pseudo_centers(num_classes, p, self.centers, generator=torch.Generator().manual_seed(self.seed))
        names = ("eta", "loss", "evolution", "heldout", "stability", "lr", "weight_decay", "seed")
        settings = {name: getattr(self, name) for name in names}
        return settings | {"centers": (unshifted * std + mean).float(), "logit_centers": unshifted.float()}
