"""Cross-validated accuracy of a linear classifier on the frozen features."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itm.core.settings import Count, Positive, settings
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.common.folds import Folds, MostRows, assign_folds, at_most, canonical


@settings("scorer.linear_probe")
class LinearProbe(Scorer):
    """Percentage of held-out rows that a multinomial logistic regression gets right.

    Features are standardised, the folds are stratified, and every row is held out once. Rows and classes are put into
    an order that depends on their content alone before the optimiser sees them, so that neither their order nor the
    names of the classes change the result. Where there are fewer rows than features, the regression is fitted in the
    space that the rows span, which holds its solution.

    A split probe on half of the rows, as a published benchmark takes it, is the same idea at twice the noise.

    Args:
        folds: Number of folds.
        cost: Inverse strength of the squared penalty on the weights, against the summed loss.
        max_iter: Iterations of the optimiser; what is not converged by then is used as it stands, and counted in the
            details.
        max_rows: Of larger sets a random sample of this many rows is scored.
        seed: Which of the possible samples and folds.
    """

    name: ClassVar[str] = "linear_probe"

    folds: Folds = 5
    cost: Positive = 1.0
    max_iter: Count = 200
    max_rows: MostRows = 5_000
    seed: int = 0

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; between 0 and 100 per cent."""
        samples = at_most(samples, self.max_rows, self.seed)
        predicted, unconverged = self.out_of_fold(samples)
        hits = int((predicted == samples.y.cpu()).sum())
        return Score(100 * hits / len(predicted), details={"unconverged_folds": unconverged})

    def out_of_fold(self, samples: Samples) -> tuple[Tensor, int]:
        """Predict the class of every row by a regression that did not see it.

        Returns:
            Classes ``0..C-1`` in the order of the rows, int64, ``[N]``, and the number of folds without convergence.
        """
        rows, classes = canonical(samples)
        x = standardized(samples.x.cpu()[rows].double()).numpy()
        y = torch.argsort(classes)[samples.y.cpu()[rows]].numpy()
        fold = assign_folds(samples, self.folds, self.seed)[rows].numpy()
        predicted = torch.empty(len(y), dtype=torch.int64)
        unconverged = 0
        for held in (fold == number for number in np.unique(fold)):
            found, converged = self._predict(x[~held], y[~held], x[held])
            predicted[rows[torch.from_numpy(held)]] = classes[torch.from_numpy(found)]
            unconverged += not converged
        return predicted, unconverged

    def _predict(
        self, x: NDArray[np.float64], y: NDArray[np.int64], held: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], bool]:
        # scikit-learn takes a while to import: only a scorer that uses it pays for it
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        if len(np.unique(y)) == 1:  # a fold of two rows of two classes leaves one class to learn from
            return np.full(len(held), y[0]), True
        probe = LogisticRegression(C=self.cost, max_iter=self.max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            probe.fit(x, y)
        return probe.predict(held), int(probe.n_iter_.max()) < self.max_iter


def standardized(x: Tensor) -> Tensor:
    """Standardise each dimension, and turn the features into the space that the rows span where it is narrower.

    Args:
        x: Float64, ``[N, D]``; a dimension that never varies becomes 0.

    Returns:
        Float64, ``[N, min(N, D)]``, with the same products between rows.
    """
    x = x - x.mean(0)
    deviation = x.std(0, correction=0)
    constant = deviation <= torch.finfo(x.dtype).eps * x.abs().amax(0)
    x = torch.where(constant, 0.0, x / deviation.masked_fill(constant, 1.0))
    if x.shape[1] <= x.shape[0]:
        return x
    values, vectors = torch.linalg.eigh(x @ x.T)
    turned: Tensor = vectors * values.clamp_min(0.0).sqrt()
    return turned
