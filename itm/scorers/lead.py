"""LEAD: evolution of the logits under the neural tangent kernel (CVPR 2024, arXiv 2507.14559), reconstructed."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from itm.core.settings import NonNegative, settings
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.common.folds import Folds, MostRows, assign_folds, at_most, shuffled
from itm.scorers.common.svm import one_vs_rest_svm
from itm.scorers.linear_probe import standardized

RateScale = Literal["model_mean", "lr", "sqnorm"]
Loss = Literal["mse", "ce"]
Fit = Literal["oof", "train"]
_HIDDEN = (1024, 2048)
_IMAGES_PER_CLASS = 64
_LEARNING_RATE = 1e-2


@settings("scorer.lead")
class LEAD(Scorer):
    """Mean log-likelihood of the true class after initial logits have evolved for a time under a class-wise rate.

    Reconstructed: no code of the authors is public; what is known comes from descriptions by others.

    Known: initial logits come from one-vs-rest linear support vector machines; a random network with hidden layers of
    1,024 and 2,048 gives the neural tangent kernel of 64 images per class; the mean of its eigenvalues is the rate at
    which that class approaches its labels, ``F_t = (1 - e^-kt) y + e^-kt F_0``; minus the cross-entropy is the score.

    Our reading: the margins become probabilities by a softmax; features are standardised for the machines only; the
    rates are divided by their mean over the classes of this model, since with the raw ones every exponential underflows
    and every model ties. The margins are out of fold, because with as many features as rows a machine separates
    any rows it was fitted to, and are softened by one factor per model where that makes them likelier, because near as
    many features as rows they are far too sure.

    Args:
        time: How long the logits evolve.
        rate_scale: ``"model_mean"`` divides the rates by their mean over classes; ``"lr"`` multiplies them by a
            learning rate of 0.01 and divides by the number of classes, as the equations say; ``"sqnorm"`` replaces the
            kernel by the squared norm of the features, which it follows closely, then as ``"model_mean"``.
        loss: Loss that drives the evolution: ``"mse"``, or ``"ce"`` with a common rate of the wrong classes.
        fit: ``"oof"``: margins of rows held out, softened; ``"train"``: of the rows fitted to, as described.
        folds: Number of folds.
        max_rows: Of larger sets a random sample of this many rows is scored.
        seed: Which of the possible samples, folds, images and random networks.

    Raises:
        SettingError: If a word is not known or ``time`` is negative.
    """

    name: ClassVar[str] = "lead"

    time: NonNegative = 1.0
    rate_scale: RateScale = "model_mean"
    loss: Loss = "mse"
    fit: Fit = "oof"
    folds: Folds = 5
    max_rows: MostRows = 5_000
    seed: int = 0

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; at most 0."""
        samples = at_most(samples, self.max_rows, self.seed)
        y = samples.y.cpu()
        logits = self._initial_logits(samples)
        rates = self.time * self._rates(samples)
        if self.loss == "mse" and bool((torch.exp(-rates) == 0).any()):
            warnings.warn(f"lead: a rate of {float(rates.max()):.3g} leaves nothing of the logits.", stacklevel=2)
        evolve = evolve_mse if self.loss == "mse" else evolve_ce
        return Score(float(evolve(logits, y, rates[y]).mean()), details={"rates": rates.tolist()})

    def _initial_logits(self, samples: Samples) -> Tensor:
        """Return the margins of the support vector machines, ``[N, C]``."""
        x, y, c = standardized(samples.x.cpu().double()), samples.y.cpu(), samples.num_classes
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        if self.fit == "train":
            return x @ one_vs_rest_svm(x, y, c)
        logits = x.new_empty(len(x), c)
        fold = assign_folds(samples, self.folds, self.seed)
        for held in (fold == number for number in range(int(fold.max()) + 1)):
            logits[held] = x[held] @ one_vs_rest_svm(x[~held], y[~held], c)
        return logits * softening(logits, y)

    def _rates(self, samples: Samples) -> Tensor:
        """Return the rate of each class, ``[C]``."""
        x, y = samples.x.cpu().double(), samples.y.cpu()
        if self.rate_scale == "sqnorm":
            traces = x.square().sum(1)
        else:
            rows = shuffled(samples, self.seed)
            place = torch.empty_like(rows).scatter_(0, rows, torch.arange(len(rows)))
            first = torch.zeros(samples.num_classes, dtype=torch.int64).scatter_reduce_(
                0, y, place, "amin", include_self=False
            )
            chosen = place - first[y] < _IMAGES_PER_CLASS
            x, y = x[chosen], y[chosen]
            traces = kernel_trace(x, samples.num_classes, self.seed)
        counts = torch.bincount(y, minlength=samples.num_classes)
        rates = torch.zeros(samples.num_classes, dtype=x.dtype).index_add_(0, y, traces) / counts
        if self.rate_scale == "lr":
            return _LEARNING_RATE * rates / samples.num_classes
        return rates / rates.mean() if rates.any() else torch.ones_like(rates)


def softening(logits: Tensor, y: Tensor) -> float:
    """Find the factor between 0 and 1 on logits ``[N, C]`` under which the labels ``y [N]`` are likeliest."""

    def slope(factor: float) -> float:
        expected = (torch.softmax(factor * logits, dim=1) * logits).sum(1)
        return float((logits.gather(1, y[:, None]).flatten() - expected).mean())

    low, high = 0.0, 1.0
    if slope(high) >= 0:
        return high
    # The likelihood is concave in the factor; 20 halvings leave less than 1e-6.
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return (low + high) / 2


def kernel_trace(x: Tensor, outputs: int, seed: int, bias: bool = True) -> Tensor:
    """Return the squared norm of a random network's gradient at each row: the diagonal of its neural tangent kernel.

    The network is ``W3' relu(W2' relu(W1' x + b1) + b2) + b3``; differentiated is the sum of its outputs.

    Args:
        x: Float64, ``[N, D]``.
        outputs: Number of outputs, ``C``.
        seed: Of the weights.
        bias: Whether the network has biases.

    Returns:
        ``[N]``, positive with biases; without them it grows as the square of the features.
    """
    w1, w2, w3, b1, b2 = random_network(x.shape[1], outputs, seed, bias)
    traces = []
    for start in range(0, len(x), 1024):
        rows = x[start : start + 1024]
        z1 = rows @ w1 + b1
        a1 = z1.relu()
        z2 = a1 @ w2 + b2
        a2 = z2.relu()
        d2 = w3.sum(1) * (z2 > 0)
        d1 = (d2 @ w2.T) * (z1 > 0)
        squares = [(values.square().sum(1) + bias) for values in (rows, a1, a2)]
        traces.append(squares[0] * d1.square().sum(1) + squares[1] * d2.square().sum(1) + outputs * squares[2])
    return torch.cat(traces)


def random_network(dim: int, outputs: int, seed: int, bias: bool = True) -> tuple[Tensor, ...]:
    """Draw ``W1 [D, 1024]``, ``W2 [1024, 2048]``, ``W3 [2048, C]``, ``b1``, ``b2`` within ``1 / sqrt(fan-in)``."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(fan_in: int, *shape: int) -> Tensor:
        bound = fan_in**-0.5
        return torch.empty(*shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator)

    sizes = (dim, *_HIDDEN, outputs)
    weights = [uniform(fan_in, fan_in, fan_out) for fan_in, fan_out in pairwise(sizes)]
    biases = [uniform(fan_in, fan_out) * float(bias) for fan_in, fan_out in zip(sizes[:2], _HIDDEN, strict=True)]
    return *weights, *biases


def evolve_mse(logits: Tensor, y: Tensor, rates: Tensor) -> Tensor:
    """Return the log-probability of the true class after ``F_t = (1 - e^-k) onehot(y) + e^-k softmax(logits)``.

    Args:
        logits: ``[N, C]``.
        y: True class, ``[N]``.
        rates: ``k`` of each row, at least 0, ``[N]``.

    Returns:
        ``[N]``, at most 0.
    """
    decay = torch.exp(-rates)
    # A log-probability far below zero stays exact where nothing has evolved yet.
    stays = logits.log_softmax(1).gather(1, y[:, None]).flatten()
    return torch.logaddexp(torch.log1p(-decay), stays - rates)


def evolve_ce(logits: Tensor, y: Tensor, rates: Tensor) -> Tensor:
    """Return the log-probability of the true class under ``dm/dt = k C / (e^m + C - 1)``.

    ``m`` is the margin of the true class over equal others, and ``e^m + (C - 1) m`` grows by ``k C`` per unit of time.
    With ``e^m = (C - 1) e^v`` that is ``e^v + v = const``, which Newton's method solves in ``v``; the constant is never
    exponentiated.

    Args:
        logits: ``[N, C]``.
        y: True class, ``[N]``.
        rates: ``k t`` of each row, at least 0, ``[N]``.

    Returns:
        ``[N]``, at most 0.
    """
    others = logits.shape[1] - 1
    true = logits.gather(1, y[:, None])
    rest = logits.scatter(1, y[:, None], -torch.inf)
    v = true.flatten() - rest.logsumexp(1)  # log-odds of the true class
    constant = v.exp() + v + rates * (others + 1) / others
    # ln(const) above 1 and const below it are near the root; from there few steps reach rounding.
    v = torch.where(constant > 1, constant.clamp_min(1.0).log(), constant)
    for _ in range(50):
        v = v - (v.exp() + v - constant) / (v.exp() + 1)
    return -torch.nn.functional.softplus(-v)
