"""Training of ITM's map for one model on one dataset (Algorithms 1 and 2), as a LightningModule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from itm.core.errors import FeatureError, unknown
from itm.core.lightning import no_driver_probe, quiet_lightning
from itm.dva.batches import Batch, OrderedBatches, RandomBatches, Rounds
from itm.dva.equations import Evolution, Loss, Stability, evolve, evolve_unrolled, largest_eigenvalue

_WORTH_SHARING = 2**23  # multiply-adds of one product E W_z


@dataclass
class Trace:
    """What a run of :class:`ITMModule` leaves behind for reports.

    Args:
        curve: Held-out score by iteration, every evaluation in order.
        losses: Training loss at the same iterations.
        heldout_losses: Held-out cross-entropy at the same iterations, nats.
        eta_lambda: Largest ``η·λ_max(C)`` that was met, before capping; an upper bound where all were stable.
        capped: Number of training batches whose ``η`` was lowered.
    """

    curve: dict[int, float] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    heldout_losses: dict[int, float] = field(default_factory=dict)
    eta_lambda: float = 0.0
    capped: int = 0

    @property
    def best(self) -> float:
        """The best held-out score, in 0..1."""
        return max(self.curve.values())


class ITMModule(L.LightningModule):
    """The map ``f: E ↦ E W_z`` and the head ``h``, trained on evolved embeddings (Algorithms 1 and 2).

    Each training batch is mapped, evolved by :func:`itm.dva.equations.evolve` towards its classes' pseudo-cluster
    centers and classified; the cross-entropy reaches ``W_z`` through the evolution. Held-out batches give the score.
    One batch of the Trainer is a round of mini-batches (:class:`itm.dva.batches.Rounds`), optimised by hand: a step
    takes about a millisecond, and so does the Trainer's bookkeeping for each of its batches.

    Args:
        dim: Width of the features, ``D``.
        centers: Pseudo-cluster centers, ``[C, p]``.
        steps: Inner steps ``n``.
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
        logit_centers: Centers before their shift, for the CE loss, ``[C, p]``.
        seed: Seed of the initial weights and of random inner maps.
    """

    centers: Tensor
    logit_centers: Tensor

    def __init__(
        self,
        dim: int,
        centers: Tensor,
        *,
        steps: int,
        eta: float = 0.01,
        loss: Loss = "mse",
        evolution: Evolution = "closed_form",
        heldout: Literal["evolved", "plain"] = "evolved",
        stability: Stability = "cap",
        lr: float = 5e-3,
        weight_decay: float = 1e-2,
        logit_centers: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        for setting, value, allowed in (
            ("loss", loss, ("mse", "mae", "ce")),
            ("evolution", evolution, ("closed_form", "unrolled", "unrolled_random")),
            ("heldout", heldout, ("evolved", "plain")),
            ("stability", stability, ("cap", "error", "off")),
        ):
            if value not in allowed:
                raise unknown(setting, value, allowed)
        self.steps, self.eta, self.loss, self.evolution = steps, eta, loss, evolution
        self.heldout, self.stability, self.lr, self.weight_decay = heldout, stability, lr, weight_decay
        self.register_buffer("centers", centers)
        self.register_buffer("logit_centers", centers if logit_centers is None else logit_centers)
        num_classes, p = centers.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conditioning = nn.Linear(dim, p, bias=False)
            self.head = nn.Linear(p, num_classes)
        self.inner_generator = torch.Generator().manual_seed(seed)
        self.trace = Trace()
        self.iteration = 0
        self._last_loss = torch.tensor(float("nan"))
        self._heldout = torch.zeros(3, dtype=torch.float64)

    @property
    def w_z(self) -> Tensor:
        """The learned map ``W_z``, ``[D, p]``."""
        return self.conditioning.weight.T

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Class logits ``[B, C]`` of features ``[B, D]``, evolved towards the classes ``y`` where they are given."""
        theta = self.conditioning(x)
        logits: Tensor = self.head(theta) if y is None else self.evolve(theta, y, self.head.weight) + self.head.bias
        return logits

    def evolve(self, theta: Tensor, y: Tensor, onto: Tensor | None = None) -> Tensor:
        """Evolve conditioned embeddings ``[B, p]`` by this module's settings, with a stable ``η``.

        See :func:`itm.dva.equations.evolve` for ``onto``.
        """
        eta = self._stable_eta(theta)
        if self.evolution == "closed_form":
            return evolve(
                theta,
                y,
                self.centers,
                eta=eta,
                steps=self.steps,
                loss=self.loss,
                logit_centers=self.logit_centers,
                onto=onto,
            )
        evolved = evolve_unrolled(
            theta,
            y,
            self.centers,
            eta=eta,
            steps=self.steps,
            loss=self.loss,
            init="identity" if self.evolution == "unrolled" else "random",
            generator=self.inner_generator,
            logit_centers=self.logit_centers,
        )
        return evolved if onto is None else evolved @ onto.T

    def training_step(self, batch: Iterable[Batch], batch_idx: int) -> None:
        """Train on a round of mini-batches, one step of the optimiser each (Algorithm 2, lines 3 to 7)."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        weights = list(self.parameters())
        for x, y in batch:
            loss = F.cross_entropy(self(x, y), y)
            for weight in weights:  # zero_grad() takes fifty microseconds for it
                weight.grad = None
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self.iteration += 1
            self._last_loss = loss.detach()

    def on_validation_epoch_start(self) -> None:
        """Start counting rows, hits and nats."""
        self._heldout = torch.zeros(3, dtype=torch.float64)

    def validation_step(self, batch: Iterable[Batch], batch_idx: int) -> None:
        """Count the held-out rows, those that the head gets right, and their cross-entropy."""
        for x, y in batch:
            logits = self(x, y if self.heldout == "evolved" else None)
            hits = (logits.argmax(dim=1) == y).sum()
            self._heldout += torch.tensor([len(y), float(hits), float(F.cross_entropy(logits, y, reduction="sum"))])

    def on_validation_epoch_end(self) -> None:
        """Keep and log the held-out score and the state of the evolution."""
        rows, hits, nats = self._heldout.tolist()
        self.trace.curve[self.iteration] = accuracy = hits / rows
        self.trace.heldout_losses[self.iteration] = nats / rows
        self.trace.losses[self.iteration] = float(self._last_loss)
        self.log_dict(
            {
                "heldout_accuracy": accuracy,
                "heldout_loss": self.trace.heldout_losses[self.iteration],
                "train_loss": self.trace.losses[self.iteration],
                "n": float(self.steps),
                "eta_lambda_max": self.trace.eta_lambda,
                "capped_batches": float(self.trace.capped),
            }
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on ``W_z`` and the head, in one fused kernel."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)

    def _stable_eta(self, theta: Tensor) -> float:
        if self.stability == "off":
            return self.eta
        # λ_max(C) <= trace(C): the cheap bound settles most batches without an eigenvalue
        bound = self.eta * float(torch.linalg.vector_norm(theta.detach())) ** 2 / len(theta)
        value = bound if bound <= 2 else self.eta * largest_eigenvalue(theta)
        self.trace.eta_lambda = max(self.trace.eta_lambda, value)
        if value <= 2:
            return self.eta
        if self.stability == "error":
            raise FeatureError(
                f"stability=error: eta * lambda_max is {value:.3g} at iteration {self.iteration}, and the evolution "
                "diverges above 2; lower eta, use scaling=unit or stability=cap."
            )
        self.trace.capped += self.training
        return self.eta / value


def fit(
    module: ITMModule,
    train: RandomBatches,
    heldout: OrderedBatches,
    *,
    iterations: int = 500,
    evaluate_every: int = 100,
    accelerator: str = "cpu",
) -> Trace:
    """Train a module for a number of batches, scoring the held-out part at intervals and at the end.

    Args:
        module: What to train; its ``trace`` is filled.
        train: Training batches.
        heldout: Held-out batches.
        iterations: Number of training batches.
        evaluate_every: Batches between two evaluations.
        accelerator: Lightning's accelerator: ``"cpu"``, ``"cuda"``, ``"auto"``, ...

    Returns:
        The module's trace.
    """
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    width = train.x.shape[1] * module.centers.shape[1]
    with quiet_lightning(), _few_threads(train.batch_size * width), no_driver_probe():
        trainer = L.Trainer(
            accelerator=accelerator,
            devices=1,
            max_epochs=1,
            val_check_interval=1,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            **options,
        )
        trainer.fit(module, Rounds(train, iterations, evaluate_every), Rounds(heldout, len(heldout), len(heldout)))
    return module.trace


@contextmanager
def _few_threads(products: int) -> Iterator[None]:
    """One thread where a step is too small to share: threads then wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if products < _WORTH_SHARING else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
