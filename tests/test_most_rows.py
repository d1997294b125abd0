"""Slow scores see a sample of many rows: the same score as on these rows, and one warning."""

import pytest
import torch
from synthetic import clusters

from itm import rank
from itm.core.features import Features
from itm.scorers import LEAD, PARC, LinearProbe
from itm.scorers.base import check
from itm.scorers.common.folds import at_most


def many(rows=400):
    blank = clusters(rows, 6, 3)
    return Features(blank.x, blank.y, groups=torch.arange(rows) // 4)


@pytest.mark.parametrize("kind", [LEAD, LinearProbe])
def test_a_capped_score_is_that_of_the_sample(kind):
    samples = check("m", many())
    part = at_most(samples, 100, 0)
    assert len(part.y) == 100
    assert part.groups is not None
    capped = kind(max_rows=100).score({"m": many()})["m"]
    assert capped == pytest.approx(kind(max_rows=None).evaluate_one(part).value)
    assert capped != kind(max_rows=None).score({"m": many()})["m"]
    assert kind(max_rows=400).score({"m": many()}) == kind(max_rows=None).score({"m": many()})


def test_the_sample_follows_the_content_of_the_rows_and_the_seed():
    features = many()
    order = torch.randperm(len(features.y))
    first, moved = (at_most(check("m", part), 50, 3).x for part in (features, features.take(order)))
    assert torch.equal(first, moved)
    assert not torch.equal(first, at_most(check("m", features), 50, 4).x)
    assert at_most(check("m", features), None, 0) is check("m", features)


def test_one_warning_names_the_setting(caplog):
    pool = {"a": many(), "b": many()}
    rank(pool, PARC(max_rows=100))
    assert caplog.text.count("parc scores a random sample of 100 of the 400 rows") == 1
    assert "scorer.parc.max_rows=null" in caplog.text
    caplog.clear()
    rank(pool, PARC())
    assert caplog.text == ""
