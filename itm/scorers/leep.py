"""Log expected empirical prediction (Nguyen et al., ICML 2020)."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor

from itm.core.settings import settings
from itm.scorers.base import Samples, Score, Scorer


@settings("scorer.leep")
class LEEP(Scorer):
    """Mean log-likelihood of the labels under ``p(y | x) = sum_z P(y | z) theta_z(x)``, in nats, at most 0.

    ``theta(x)`` is the softmax of the source head's logits and ``P(y | z)`` the empirical conditional of labels given
    source classes (eq. 1 and 2 of the paper).

    Args:
        log: False gives the mean probability instead, which the code of SFDA and its descendants reports as LEEP.
    """

    log: bool = True

    name: ClassVar[str] = "leep"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; see the class."""
        theta = cast(Tensor, samples.logits).double().softmax(dim=1)
        probability = expected_prediction(theta, samples.y, samples.num_classes)
        return Score((probability.log() if self.log else probability).mean().item())


def expected_prediction(theta: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return each label's probability, ``sum_z P(y_i | z) theta_i(z)``, by the empirical conditional of the same rows.

    Args:
        theta: Distribution over source classes (or mixture components) of each row, ``[N, Z]``.
        y: Class of each row, int64, ``[N]``.
        num_classes: ``C``.

    Returns:
        Values in ``(0, 1]``, ``[N]``.
    """
    joint = theta.new_zeros(num_classes, theta.shape[1]).index_add_(0, y, theta)
    # A source class whose mass underflows to 0 predicts nothing; 0/0 must not spoil the others.
    conditional = joint / joint.sum(0).clamp_min(torch.finfo(theta.dtype).tiny)
    return (conditional[y] * theta).sum(1)
