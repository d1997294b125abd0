"""ITM's map and head with their steps of training and evaluation (Algorithms 1 and 2), as a LightningModule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from itm.core.batches import Batch
from itm.core.errors import FeatureError, unknown
from itm.dva.closed_form import closed_form
from itm.dva.equations import Evolution, Heldout, Loss, Stability, evolve, evolve_unrolled, largest_eigenvalue


@dataclass
class Trace:
    """Record of one seed's training, for reports.

    Args:
        curve: Held-out accuracy, 0..1, by iteration, every evaluation in order.
        losses: Training loss at the same iterations, nats.
        heldout_losses: Held-out cross-entropy at the same iterations, nats.
        mious: Mean intersection over union of the held-out classes at the same iterations, 0..1.
        eta_lambda: Largest ``η·λ_max(C)`` before capping; an upper bound where every batch was stable.
        capped: Number of training batches whose ``η`` was lowered.
    """

    curve: dict[int, float] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    heldout_losses: dict[int, float] = field(default_factory=dict)
    mious: dict[int, float] = field(default_factory=dict)
    eta_lambda: float = 0.0
    capped: int = 0

    @property
    def best(self) -> float:
        """The best held-out accuracy, in 0..1."""
        return max(self.curve.values())


class ITMModule(L.LightningModule):
    """The map ``f: E ↦ E W_z`` and the head ``h`` of ``S`` seeds, trained on evolved embeddings (Algorithms 1 and 2).

    Each training batch is mapped, evolved towards its classes' pseudo-cluster centers and classified; the cross-entropy
    reaches ``W_z`` through the evolution. Held-out batches give the score. The seeds are independent: their losses are
    added, and AdamW works entry by entry, so each one trains as it would alone.

    One batch of the Trainer is a chunk of mini-batches (:class:`itm.core.batches.BatchChunks`), optimised by hand: a
    step takes about a millisecond, and so does the Trainer's bookkeeping for each of its batches.

    Args:
        dim: Width of the features, ``D``.
        centers: Pseudo-cluster centers, ``[C, p]``, or of each seed, ``[S, C, p]``.
        steps: Inner steps ``n``, or one number for each seed.
        eta: Inner learning rate.
        loss: Inner loss; the paper's is ``"mse"`` (Table 2 compares).
        evolution: ``"closed_form"`` is Algorithm 2; ``"unrolled"`` and ``"unrolled_random"`` are Algorithm 1 from the
            identity and from a random map.
        heldout: ``"evolved"`` evolves held-out batches with their own labels as in training (the paper's text);
            ``"plain"`` scores ``h(Θ)`` without evolution (ours).
        stability: What happens when ``η·λ_max(C) > 2``, where the evolution diverges (ours): ``"cap"`` lowers ``η`` to
            ``1/λ_max`` for that batch and counts it, ``"error"`` stops, ``"off"`` lets it diverge.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        logit_centers: Centers before their shift, for the CE loss, of the shape of ``centers``.
        seeds: Seeds of the initial weights and of random inner maps.

    Raises:
        SettingError: If a word is not known.
    """

    centers: Tensor
    logit_centers: Tensor
    first_rows: Tensor

    def __init__(
        self,
        dim: int,
        centers: Tensor,
        *,
        steps: int | Sequence[int],
        eta: float = 0.01,
        loss: Loss = "mse",
        evolution: Evolution = "closed_form",
        heldout: Heldout = "evolved",
        stability: Stability = "cap",
        lr: float = 5e-3,
        weight_decay: float = 1e-2,
        logit_centers: Tensor | None = None,
        seeds: Sequence[int] = (0,),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        words = (("loss", loss, Loss), ("evolution", evolution, Evolution), ("heldout", heldout, Heldout))
        for setting, word, allowed in (*words, ("stability", stability, Stability)):
            if word not in get_args(allowed):
                raise unknown(setting, word, get_args(allowed))
        self.steps = [steps] * len(seeds) if isinstance(steps, int) else list(steps)
        self.eta, self.loss, self.evolution = eta, loss, evolution
        self.heldout, self.stability, self.lr, self.weight_decay = heldout, stability, lr, weight_decay
        num_classes, p = centers.shape[-2:]
        unshifted = centers if logit_centers is None else logit_centers
        self.register_buffer("centers", centers.expand(len(seeds), num_classes, p))
        self.register_buffer("logit_centers", unshifted.expand(len(seeds), num_classes, p))
        self.register_buffer("first_rows", num_classes * torch.arange(len(seeds))[:, None])
        layers = [_initial_layers(dim, num_classes, p, seed) for seed in seeds]
        # [S, p, D], [S, C, p] and [S, C]: outputs first, the order in which products with few outputs are fast
        self.map = nn.Parameter(torch.stack([first.weight.detach() for first, _ in layers]))
        self.head = nn.Parameter(torch.stack([head.weight.detach() for _, head in layers]))
        self.head_bias = nn.Parameter(torch.stack([head.bias.detach() for _, head in layers]))
        self.seeds = list(seeds)
        self.inner_generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.traces = [Trace() for _ in seeds]
        self.iteration = 0
        self._last_losses = torch.full((len(seeds),), math.nan)
        self._counts = torch.zeros(3, len(seeds), dtype=torch.float64)

    @property
    def w_z(self) -> Tensor:
        """The learned maps ``W_z``, ``[S, D, p]``."""
        return self.map.mT

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return class logits ``[S, B, C]`` of features ``[S, B, D]``, evolved towards the classes ``y`` if given."""
        theta = self.embed(x)
        if y is None:
            return self.classify(theta)
        return self.evolve(theta, y, self.head) + self.head_bias[:, None]

    def embed(self, x: Tensor) -> Tensor:
        """Return conditioned embeddings ``Θ = E W_z``, ``[S, B, p]``, of features ``[S, B, D]``."""
        return torch.bmm(self.map, x.mT).mT

    def classify(self, embeddings: Tensor) -> Tensor:
        """Return class logits ``[S, B, C]`` of embeddings ``[S, B, p]``."""
        return torch.baddbmm(self.head_bias[..., None], self.head, embeddings.mT).mT

    def evolve(self, theta: Tensor, y: Tensor, onto: Tensor | None = None) -> Tensor:
        """Evolve conditioned embeddings ``[S, B, p]`` by this module's settings, with a stable ``η``.

        See :func:`itm.dva.equations.evolve` for ``onto``, ``[S, C, p]``.
        """
        etas = self._stable_etas(theta)
        if self.loss == "mse" and self.evolution == "closed_form":
            target = F.embedding(y + self.first_rows, self.centers.flatten(0, 1))
            eta = self.eta if all(eta == self.eta for eta in etas) else theta.new_tensor(etas)
            return closed_form(theta, target, eta, self.steps, onto)
        # explicit steps have nothing to share between seeds
        evolved = torch.stack([self._evolve_one(s, theta[s], y[s], eta) for s, eta in enumerate(etas)])
        return evolved if onto is None else torch.bmm(onto, evolved.mT).mT

    def training_step(self, batch: Iterable[Batch], batch_idx: int) -> None:
        """Train on a chunk of mini-batches, one step of the optimiser each (Algorithm 2, lines 3 to 7)."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        weights = list(self.parameters())
        for x, y in batch:
            losses = _losses(self(x, y), y).mean(dim=1)
            for weight in weights:  # zero_grad() takes fifty microseconds for it
                weight.grad = None
            losses.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self.iteration += 1
            self._last_losses = losses.detach()

    def on_validation_epoch_start(self) -> None:
        """Start counting rows, hits and nats, and pixels or images by class."""
        self._counts = torch.zeros(3, len(self.seeds), dtype=torch.float64)
        self._by_class = torch.zeros(3, len(self.seeds), self.head.shape[1], dtype=torch.float64)

    def validation_step(self, batch: Iterable[Batch], batch_idx: int) -> None:
        """Count the held-out rows, those that the head classifies correctly, and their cross-entropy."""
        for x, y in batch:
            logits = self(x, y if self.heldout == "evolved" else None)
            predicted = logits.argmax(dim=2)
            correct = predicted == y
            hits = correct.sum(dim=1)
            self._by_class += _count_classes(y, predicted, correct, logits.shape[2]).cpu()
            rows = torch.full_like(hits, y.shape[1])
            self._counts += torch.stack([rows, hits, _losses(logits, y).sum(dim=1)]).cpu()

    def on_validation_epoch_end(self) -> None:
        """Record and log the held-out scores and the state of the evolution.

        Raises:
            FeatureError: If a loss is not finite any more: the training diverged.
        """
        rows, hits, nats = self._counts
        accuracies, heldout_losses, mious = hits / rows, nats / rows, mean_iou(*self._by_class)
        for i, trace in enumerate(self.traces):
            trace.curve[self.iteration] = float(accuracies[i])
            trace.heldout_losses[self.iteration] = float(heldout_losses[i])
            trace.mious[self.iteration] = float(mious[i])
            trace.losses[self.iteration] = float(self._last_losses[i])
            self._check_finite(self.seeds[i], trace.losses[self.iteration], trace.heldout_losses[self.iteration])
        self.log_dict(
            {
                "heldout_accuracy": accuracies.mean(),
                "heldout_loss": heldout_losses.mean(),
                "train_loss": self._last_losses.mean(),
                "eta_lambda_max": max(trace.eta_lambda for trace in self.traces),
                "capped_batches": float(sum(trace.capped for trace in self.traces)),
            }
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW on ``W_z`` and the head, in one fused kernel."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)

    def _evolve_one(self, s: int, theta: Tensor, y: Tensor, eta: float) -> Tensor:
        """Evolve one seed's embeddings ``[B, p]`` by explicit steps."""
        settings: dict[str, Any] = {"eta": eta, "steps": self.steps[s], "loss": self.loss}
        settings["logit_centers"] = self.logit_centers[s]
        if self.evolution == "closed_form":
            return evolve(theta, y, self.centers[s], **settings)
        init: Any = "identity" if self.evolution == "unrolled" else "random"
        generator = self.inner_generators[s]
        return evolve_unrolled(theta, y, self.centers[s], init=init, generator=generator, **settings)

    def _stable_etas(self, theta: Tensor) -> list[float]:
        """Return the inner learning rate of each seed for one batch, lowered where the evolution would diverge."""
        if self.stability == "off":
            return [self.eta] * len(self.seeds)
        # λ_max(C) <= trace(C): the cheap bound settles most batches without an eigenvalue
        norms = torch.linalg.vector_norm(theta.detach(), dim=(1, 2)).tolist()
        return [self._stable_eta(*each) for each in zip(self.traces, norms, theta, strict=True)]

    def _stable_eta(self, trace: Trace, norm: float, theta: Tensor) -> float:
        bound = self.eta * norm**2 / len(theta)
        value = bound if bound <= 2 else self.eta * largest_eigenvalue(theta)
        trace.eta_lambda = max(trace.eta_lambda, value)
        if value <= 2:
            return self.eta
        if self.stability == "error":
            raise FeatureError(
                f"stability=error: eta * lambda_max is {value:.3g} at iteration {self.iteration}, and the evolution "
                "diverges above 2; lower eta, use scaling=unit or stability=cap."
            )
        trace.capped += self.training
        return self.eta / value

    def _check_finite(self, seed: int, *losses: float) -> None:
        if not all(map(math.isfinite, losses)):
            raise FeatureError(
                f"stability={self.stability}: training of seed {seed} diverged within {self.iteration} batches (losses "
                f"{', '.join(f'{loss:.3g}' for loss in losses)}); use stability=cap, scaling=unit or a lower lr."
            )


def _initial_layers(dim: int, num_classes: int, p: int, seed: int) -> tuple[nn.Linear, nn.Linear]:
    """Map and head with the initial weights that torch draws for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(dim, p, bias=False), nn.Linear(p, num_classes)


def mean_iou(true: Tensor, predicted: Tensor, hits: Tensor) -> Tensor:
    """Return the mean intersection over union of the classes that have rows.

    Args:
        true: Rows of each class, ``[S, C]``.
        predicted: Rows that are predicted as each class, ``[S, C]``.
        hits: Rows of each class that are predicted as it, ``[S, C]``.

    Returns:
        Numbers in 0..1, ``[S]``.
    """
    ious = hits / (true + predicted - hits).clamp_min(1)
    present = (true > 0).to(ious.dtype)
    return (ious * present).sum(dim=1) / present.sum(dim=1).clamp_min(1)


def _count_classes(y: Tensor, predicted: Tensor, correct: Tensor, num_classes: int) -> Tensor:
    """Count the true, the predicted and the correctly predicted rows of each class, ``[S, B]`` to ``[3, S, C]``."""
    seeds = torch.arange(len(y), device=y.device)[:, None] * num_classes
    bins = len(y) * num_classes
    counted = ((y + seeds).flatten(), (predicted + seeds).flatten(), (y + seeds)[correct])
    return torch.stack([torch.bincount(rows, minlength=bins) for rows in counted]).view(3, len(y), num_classes)


def _losses(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each row, nats, ``[S, B, C]`` and ``[S, B]`` to ``[S, B]``."""
    return F.cross_entropy(logits.mT, y, reduction="none")
