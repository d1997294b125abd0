"""Which classes are hard: accuracy and confusions of classes whose overlap is known."""

from __future__ import annotations

import pytest
import torch

from itm.core.features import Features
from itm.evaluation.difficulty import class_difficulty
from itm.scorers import LinearProbe
from itm.scorers.base import check

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("cat", "dog", "ship", "never")


@pytest.fixture
def overlapping() -> Features:
    """Cats and dogs from one distribution, ships far from both; the labels leave out the last class."""
    y = torch.arange(120) % 3
    x = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
    return Features(x + 30.0 * (y == 2)[:, None], y)


def test_classes_from_one_distribution_are_confused_and_a_far_one_is_not(overlapping):
    found = class_difficulty("a", overlapping, NAMES)
    assert list(found.accuracy)[-1] == "ship", "hardest first"
    assert found.accuracy["ship"] == 100
    assert found.accuracy["cat"] < 75
    assert {(one.true, one.predicted) for one in found.confused} == {("cat", "dog"), ("dog", "cat")}
    for one in found.confused:
        assert one.images == pytest.approx(40 - 0.4 * found.accuracy[one.true])
        assert one.share == pytest.approx(one.images / 40)
    assert found.images == {"cat": 40, "dog": 40, "ship": 40}


def test_the_overall_accuracy_is_the_probe_s_score(overlapping):
    assert class_difficulty("a", overlapping, NAMES).overall == pytest.approx(
        LinearProbe().score({"a": overlapping})["a"]
    )


def test_predictions_stand_in_the_order_of_the_rows(overlapping):
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    shuffled = Features(overlapping.x[order], overlapping.y[order])
    first, second = (LinearProbe().out_of_fold(check("a", one))[0] for one in (overlapping, shuffled))
    assert torch.equal(first[order], second)


def test_features_that_cannot_be_probed_have_no_difficulty(overlapping):
    broken = Features(torch.full_like(overlapping.x, torch.nan), overlapping.y)
    assert class_difficulty("a", broken, NAMES) is None
