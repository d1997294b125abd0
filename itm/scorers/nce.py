"""Negative conditional entropy of the target labels given the source head's predictions (Tran et al., ICCV 2019)."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor

from itm.core.settings import settings
from itm.scorers.base import Samples, Score, Scorer


@settings("scorer.nce")
class NCE(Scorer):
    """``-H(Y | Z) = sum_yz P(y, z) ln P(y | z)`` in nats, where ``z`` is the class that the source head predicts.

    At most 0, and 0 when the predicted source class determines the label. The entropy is that of the sample: with few
    rows per source class it flatters heads of many classes.
    """

    name: ClassVar[str] = "nce"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def evaluate_one(self, samples: Samples) -> Score:
        """Score one model; see the class."""
        logits = cast(Tensor, samples.logits)
        z = logits.argmax(dim=1)
        joint = torch.zeros(samples.num_classes, logits.shape[1], dtype=torch.float64)
        joint.index_put_((samples.y, z), torch.tensor(1.0 / len(z), dtype=torch.float64), accumulate=True)
        value = torch.xlogy(joint, joint).sum() - torch.xlogy(joint.sum(0), joint.sum(0)).sum()
        return Score(value.item(), details={"source_classes_predicted": int((joint.sum(0) > 0).sum())})
