"""Spread and attract: a perturbation of the feature space before a score judges it (Kumar et al., WACV 2024)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from itm.core.settings import Count, Positive, settings
from itm.scorers.base import Samples, Score, Scorer
from itm.scorers.common.base_score import base_score
from itm.scorers.common.displacement import class_balls, pairwise, push_apart, score_moved, score_moved_by_halves
from itm.scorers.common.lda import mean_true_probability, nearest_centroid_posterior, out_of_fold_posterior
from itm.scorers.common.moments import moments

_GATE = 1e-9


@settings("scorer.sa")
class SA(Scorer):
    """Another score, taken on 64 principal components after the classes have been drawn together.

    The published code perturbs only where ``exp(-5 (l1 + l2) / 2) < 1e-9``, ``l`` being the leading eigenvalues of the
    covariance: one ranking then holds models judged on 64 perturbed components beside models judged on raw features, by
    nothing but their unit. It moves every row with its own class, which separates features without information, and its
    discriminant judges the rows it was fitted to (see :func:`itm.scorers.common.lda.nearest_centroid_posterior`). By
    default every model is perturbed, each half of the rows moves as the other half says, see
    :func:`itm.scorers.common.displacement.score_moved_by_halves`, and the base score has its own sound default.

    Two steps differ between the paper and its code; the default follows the code, since the published
    numbers come from it. The code computes the spread and overwrites it. And it pulls together only classes that
    overlap, while it pushes those apart that do not.

    Args:
        base: The score taken afterwards: ``"lda"``, ``"logme"``, ``"sfda"`` or ``"nleep"``.
        alpha: Strength of the attraction; the authors take 0.005 for supervised and 0.1 for self-supervised models.
        sigma: Classes overlap when nearer than this share of their summed radii.
        components: Principal components to keep, at most ``min(N, D)``.
        spread: Move each row one unit away from the mean of its class first, as the paper writes.
        toward: Turn the sign of the attraction, so that classes far apart are pulled together, as the paper writes.
        seed: Which of the possible halves, and of what the base score draws.
        reference: Reproduce the published code instead: its gate, its randomised components, its base score.

    Raises:
        SettingError: If ``base`` is none of the four, or a number is out of range.
    """

    name: ClassVar[str] = "sa"

    base: Literal["lda", "logme", "sfda", "nleep"] = "lda"
    alpha: Positive = 0.005
    sigma: Positive = 0.6
    components: Count = 64
    spread: bool = False
    toward: bool = False
    seed: int = 0
    reference: bool = False

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; on the scale of the base score, between 0 and 1 for ``"lda"``."""
        if not self.reference:
            components = moments(samples).principal(self.components)
            return score_moved_by_halves(samples, components, self._move, self._base_score, self.seed)
        if not _gate(samples):
            return self._base_score(samples)
        return score_moved(samples, _published_components(samples, self.components), self._move, self._base_score)

    def _move(self, x: Tensor, y: Tensor, num_classes: int, rows: Tensor, belief: Tensor) -> Tensor:
        if self.spread:
            centers = class_balls(x, y, num_classes).centers
            rows = _spread(rows, belief, centers)
            x = _spread(x, torch.nn.functional.one_hot(y, num_classes).to(x.dtype), centers)
        balls = class_balls(x, y, num_classes)
        distances, reach = pairwise(balls)
        amounts = self.alpha * (distances - self.sigma * reach)
        return torch.addmm(rows, belief, push_apart(balls.centers, distances, -amounts if self.toward else amounts))

    def _base_score(self, samples: Samples) -> Score:
        if self.base != "lda":
            return base_score(self.base, self.seed, self.reference)(samples)
        y = samples.y.cpu()
        if self.reference:
            posterior = nearest_centroid_posterior(moments(samples).x, y, samples.num_classes)
        else:
            posterior = out_of_fold_posterior(samples, seed=self.seed)
        return Score(mean_true_probability(posterior, y))


def _gate(samples: Samples) -> bool:
    m = moments(samples)
    leading = m.spectrum[0][:2].sum() / m.n
    return max(math.exp(-5 * float(leading) / 2), 1e-10) < _GATE


def _published_components(samples: Samples, components: int) -> Tensor:
    # scikit-learn takes a while to import: only a scorer that uses it pays for it
    from sklearn.decomposition import PCA

    m = moments(samples)
    pca = PCA(min(components, m.n, m.d), svd_solver="randomized", random_state=1919, iterated_power=1)
    return torch.from_numpy(pca.fit_transform(m.x.numpy()))


def _spread(x: Tensor, belief: Tensor, centers: Tensor) -> Tensor:
    """Move rows one unit away from the center of their class, in expectation over the belief ``[N, C]`` about it."""
    distances = torch.cdist(x, centers)
    weights = torch.where(distances > 0, belief / distances.clamp_min(torch.finfo(x.dtype).tiny), 0.0)
    return x + weights.sum(1, keepdim=True) * x - weights @ centers
