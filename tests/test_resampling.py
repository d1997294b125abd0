"""Scores on random parts of the images: which rows, and how their spread relates to that of new images."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from synthetic import clusters

from itm.core.errors import FeatureError, SettingError
from itm.core.features import Features
from itm.core.settings import settings
from itm.ranking.resampling import deviations, random_parts, resampled_scores
from itm.scorers import RegularizedHScore
from itm.scorers.base import Samples, Score, Scorer


@settings("scorer.mean")
class Mean(Scorer):
    """Mean of the first feature, whose spread over images is known."""

    name: ClassVar[str] = "mean"

    def evaluate_one(self, samples: Samples) -> Score:
        return Score(float(samples.x[:, 0].mean()))


def test_a_part_is_a_stratified_half_and_the_first_parts_do_not_depend_on_their_number():
    y = torch.tensor([0] * 60 + [1] * 20 + [2])
    parts = random_parts(y, 5, seed=3)
    for rows in parts:
        assert torch.bincount(y[rows]).tolist() == pytest.approx([30, 10, 1], abs=1)
        assert 2 in y[rows]
    assert len({tuple(rows.tolist()) for rows in parts}) == 5
    assert all(torch.equal(a, b) for a, b in zip(parts, random_parts(y, 9, seed=3), strict=False))
    assert {len(rows) for rows in random_parts(torch.arange(4000) % 2, 3, most=500)} == {500}


def test_groups_stay_whole():
    groups = torch.arange(60) // 6
    rows = random_parts(torch.arange(60) % 3, 1, groups=groups)[0]
    assert torch.bincount(groups[rows], minlength=10).unique().tolist() == [0, 6]


def test_the_scores_are_those_of_the_rows():
    pool = {"a": clusters(60, 5, 3, spread=0.7), "b": clusters(60, 5, 3, spread=0.3)}
    parts = random_parts(pool["a"].y, 3)
    found = resampled_scores(pool, RegularizedHScore(), parts)
    for row, rows in zip(found, parts, strict=True):
        by_hand = {name: Features(features.x[rows], features.y[rows]) for name, features in pool.items()}
        assert row.tolist() == list(RegularizedHScore().score(by_hand).values())
    assert np.array_equal(resampled_scores(pool, RegularizedHScore(), parts, jobs=2), found)


def test_rows_keep_logits_and_groups():
    full = Features(torch.randn(4, 2), torch.arange(4), torch.randn(4, 3), torch.arange(4))
    found = full.take(torch.tensor([1, 3]))
    assert torch.equal(found.logits, full.logits[[1, 3]])
    assert found.groups.tolist() == [1, 3]


@pytest.mark.parametrize("most", [1000, 100])
def test_deviations_have_the_spread_that_new_images_give(most):
    x = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    pool = {"a": Features(x, torch.arange(400) % 2)}
    parts = random_parts(pool["a"].y, 400, most=most)
    found = deviations(resampled_scores(pool, Mean(), parts), 400, len(parts[0]))
    standard_error = x.std().item() / 20
    assert found.std() == pytest.approx(standard_error, rel=0.12)
    assert found.mean() == pytest.approx(0, abs=1e-9)


def test_parts_that_cannot_be_scored_are_left_out_and_one_part_shows_no_spread():
    scores = np.array([[1.0, 2.0], [np.nan, np.nan], [3.0, 2.0]])
    assert deviations(scores, 10, 5).tolist() == [[-1, 0], [1, 0]]
    with pytest.raises(SettingError, match=r"of 2 random parts of the images 1 gave a score"):
        deviations(scores[:2], 10, 5)


def test_a_score_that_refuses_a_part_gives_nan():
    @settings("scorer.refuses")
    class Refuses(Scorer):
        name: ClassVar[str] = "refuses"

        def evaluate_one(self, samples: Samples) -> Score:
            raise FeatureError("too few rows")

    pool = {"a": clusters(20, 3, 2)}
    assert np.isnan(resampled_scores(pool, Refuses(), random_parts(pool["a"].y, 2))).all()


def test_each_part_has_its_own_seed_where_the_scorer_has_one():
    @settings("scorer.seeded")
    class Seeded(Scorer):
        seed: int = 0
        name: ClassVar[str] = "seeded"

        def evaluate_one(self, samples: Samples) -> Score:
            return Score(float(self.seed))

    pool = {"a": clusters(20, 3, 2)}
    parts = random_parts(pool["a"].y, 3)
    assert resampled_scores(pool, Seeded(), parts, seed=5).ravel().tolist() == [5, 6, 7]
