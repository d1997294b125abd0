"""The combination of scores: its arithmetic by hand, the prior, models without a member's score, settings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from synthetic import clusters

import itm
from itm.core.errors import FeatureError, SettingError
from itm.core.features import Features
from itm.scorers import ITM, Combined, LinearProbe, LogME, RegularizedHScore

pytestmark = pytest.mark.usefixtures("one_thread")

POOL = {name: clusters(60, 6, 3, spread) for name, spread in (("a", 0.2), ("b", 1.5), ("c", 0.9), ("d", 0.5))}
PRIOR = {"a": -0.3, "b": -0.9, "c": -0.1, "d": -0.9}


def members(pool) -> list[list[float]]:
    return [list(scorer.score(pool).values()) for scorer in (RegularizedHScore(), LogME())]


def test_ranks_are_the_mean_places_of_scipy():
    found = Combined(members=["regularized_hscore", "logme"], prior=PRIOR).score(POOL)
    rows = [*members(POOL), list(PRIOR.values())]
    places = np.mean([(stats.rankdata(row) - 1) / 3 for row in rows], axis=0)
    assert list(found.values()) == pytest.approx(places.tolist())
    assert list(found) == list(POOL)


def test_z_scores_are_those_of_scipy():
    found = Combined(members=[RegularizedHScore(), "logme"], form="zscores").score(POOL)
    assert list(found.values()) == pytest.approx(stats.zscore(members(POOL), axis=1).mean(axis=0).tolist())


def test_without_a_prior_the_only_member_keeps_its_scores():
    assert itm.rank(POOL, "combined").scores == itm.rank(POOL, "regularized_hscore").scores
    assert Combined(prior=None).score(POOL) == RegularizedHScore().score(POOL)


def test_equal_models_share_their_places_and_a_pool_of_one_has_a_score():
    twins = {"x": POOL["b"], "y": POOL["b"], "z": POOL["a"]}
    both = {form: Combined(members=["regularized_hscore", "logme"], form=form) for form in ("ranks", "zscores")}
    assert list(both["ranks"].score(twins).values()) == [0.75, 0.75, 0.0]
    assert both["ranks"].score({"x": POOL["b"]}) == {"x": 0.5}
    assert both["zscores"].score({"x": POOL["b"], "y": POOL["b"]}) == {"x": 0.0, "y": 0.0}


def test_a_model_without_a_member_s_score_gets_none_and_does_not_move_the_others():
    broken = Features(torch.full((60, 6), math.nan), POOL["a"].y)
    scorer = Combined(members=["regularized_hscore", "logme"])
    ranking = itm.rank({"broken": broken, **POOL}, scorer)
    assert list(ranking.failed) == ["broken"]
    assert "NaN" in ranking.failed["broken"]
    assert ranking.scores == itm.rank(POOL, scorer).scores
    with pytest.raises(FeatureError, match=r"^broken: features are NaN"):
        scorer.score({"broken": broken, **POOL})


@pytest.mark.parametrize("unknown", [{}, {"d": math.nan}])
def test_a_model_that_the_prior_lacks_gets_no_score(unknown):
    prior = {name: value for name, value in PRIOR.items() if name != "d"} | unknown
    ranking = itm.rank(POOL, Combined(prior=prior))
    assert ranking.failed == {"d": "the prior has no value"}
    assert sorted(ranking.order) == ["a", "b", "c"]


def test_members_with_randomness_are_run_once_per_seed():
    scorer = Combined(members=[LinearProbe(seed=4), "logme"], form="zscores")
    found = itm.rank(POOL, scorer, seeds=2)
    for place, seed in enumerate((4, 5)):
        rows = [list(member.score(POOL).values()) for member in (LinearProbe(seed=seed), LogME())]
        by_hand = dict(zip(POOL, stats.zscore(rows, axis=1).mean(axis=0), strict=True))
        assert {entry.model: entry.runs[place].value for entry in found.entries} == pytest.approx(by_hand)
    assert scorer.seed == 4


def test_a_member_that_is_slow_makes_the_combination_slow():
    assert Combined().resampled
    assert not Combined(members=[ITM(), "logme"]).resampled


def test_the_table_has_the_members_scores():
    frame = itm.rank(POOL, Combined(prior=PRIOR)).to_frame().set_index("model")
    assert frame["prior"].to_dict() == PRIOR
    assert frame["regularized_hscore"].to_dict() == pytest.approx(RegularizedHScore().score(POOL))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": ["logmi"]}, r"scorer\.combined\.members=logmi: not known. Did you mean 'logme'"),
        ({"members": []}, r"members=\[\]: expected a list of 1 or more"),
        ({"members": "logme"}, "members=logme: expected a list"),
        ({"members": ["logme", LogME()]}, "members=logme, logme: expected each member once"),
        ({"form": "rank"}, "form=rank: not known. Did you mean 'ranks'"),
        ({"prior": "paper"}, "prior=paper: expected values by name"),
    ],
)
def test_a_wrong_setting_is_one_line(settings, message):
    with pytest.raises(SettingError, match=message):
        Combined(**settings)
