"""Rankings from pools of features."""

import math
import statistics

import numpy as np
import pytest
import torch

import itm
from itm.core.errors import FeatureError, SettingError
from itm.ranking.ranking import rank_all
from itm.scorers import ITM, LEEP, ETran, LogME

Y = torch.arange(120) % 3


def features(separation: float, seed: int = 0) -> itm.Features:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(3, 8, generator=generator)
    return itm.Features(separation * centers[Y] + torch.randn(120, 8, generator=generator), Y)


POOL = {"weak": features(0.3), "strong": features(3.0), "noise": features(0.0)}
QUICK = ITM(iterations=120, batch_size=32)


def test_best_first_with_scores_and_order():
    ranking = itm.rank(POOL, QUICK)
    assert ranking.order[0] == "strong"
    assert list(ranking.scores) == ranking.order
    assert list(ranking.scores.values()) == sorted(ranking.scores.values(), reverse=True)
    assert ranking.scores == pytest.approx(QUICK.score(POOL))
    assert "1. strong" in str(ranking)


def test_seeds_give_mean_and_spread():
    ranking = itm.rank(POOL, QUICK, seed=5, seeds=3)
    by_hand = [ITM(iterations=120, batch_size=32, seed=seed).score(POOL)["weak"] for seed in (5, 6, 7)]
    entry = next(entry for entry in ranking.entries if entry.model == "weak")
    assert [run.value for run in entry.runs] == by_hand
    assert entry.score == pytest.approx(statistics.fmean(by_hand))
    assert entry.std == pytest.approx(statistics.stdev(by_hand))


def test_a_scorer_without_randomness_runs_once():
    entry = itm.rank(POOL, "logme", seeds=5).entries[0]
    assert len(entry.runs) == 1
    assert entry.std is None


def test_the_scorer_s_own_seed_holds_unless_one_is_given():
    own = ITM(iterations=40, batch_size=32, seed=9)
    assert itm.rank(POOL, own).scores == itm.rank(POOL, own, seed=9).scores


def test_frame_has_one_row_per_model_and_ties_share_the_better_rank():
    frame = itm.rank(POOL | {"twin": POOL["strong"]}, "logme").to_frame()
    assert list(frame.columns[:5]) == ["rank", "model", "score", "std", "seconds"]
    assert frame["rank"].tolist() == [1, 1, 3, 4]
    assert frame["model"].tolist()[:2] == ["strong", "twin"]
    assert itm.rank(POOL, QUICK).to_frame()["n"].min() > 20


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_damaged_model_is_named_and_the_others_go_on(value):
    x = POOL["strong"].x.clone()
    x[7, 2] = value
    pool = {"damaged": itm.Features(x, Y)} | POOL
    for scorer in ("logme", ETran()):
        ranking = itm.rank(pool, scorer)
        assert set(ranking.order) == set(POOL)
        assert set(ranking.failed) == {"damaged"}
        assert "NaN or infinite in 1 of 120 rows" in ranking.failed["damaged"]
        assert "damaged" in str(ranking)


def test_nothing_but_damaged_models_is_an_error():
    with pytest.raises(FeatureError, match=r"No model could be scored.*a: features are NaN"):
        itm.rank({"a": itm.Features(torch.full((4, 2), math.nan), torch.arange(4) % 2)}, "logme")


def test_one_class_is_refused():
    with pytest.raises(FeatureError, match=r"m: only class 4 among 6 labels"):
        itm.rank({"m": itm.Features(torch.randn(6, 2), torch.full((6,), 4))}, "logme")


def test_different_datasets_are_not_compared():
    other = itm.Features(torch.randn(20, 3), torch.arange(20) % 4)
    with pytest.raises(FeatureError, match="one dataset only"):
        itm.rank(POOL | {"other": other}, "logme")


def test_different_numbers_of_images_are_not_compared():
    model, features = next(iter(POOL.items()))
    fewer = itm.Features(features.x[1:], features.y[1:])
    with pytest.raises(
        FeatureError, match=rf"fewer has {len(fewer.y)} rows and {model} {len(features.y)}; .*same images"
    ):
        itm.rank({model: features, "fewer": fewer}, "logme")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pool": {}}, "pool: empty"),
        ({"pool": [1]}, "pool: expected features by model name, found list"),
        ({"pool": {"a": [1]}}, r"pool\['a'\]: expected itm.Features\(x, y\), found list"),
        ({"pool": {"nan": None}}, "pool: 'nan' cannot name a model"),
        ({"scorer": "logmee"}, "scorer=logmee: not known. Did you mean 'logme'"),
        ({"seeds": 0}, "seeds=0"),
    ],
)
def test_mistakes_are_named(arguments, words):
    with pytest.raises(SettingError, match=words):
        itm.rank(**({"pool": POOL, "scorer": "logme"} | arguments))


def test_several_scorers_and_one_that_lacks_what_it_needs():
    rankings, left_out = rank_all(POOL, {"logme": LogME(), "leep": LEEP(), "again": LogME()})
    assert [ranking.name for ranking in rankings] == ["logme", "again"]
    assert "needs the logits" in left_out["leep"]
    with pytest.raises(FeatureError, match="needs the logits"):
        rank_all(POOL, {"leep": LEEP()})


def test_features_take_numpy_arrays_and_refuse_what_is_no_pair():
    x, y = np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1], np.int32)
    made = itm.Features(x, y)
    assert (made.x.shape, made.dim, made.y.dtype) == ((4, 2), 2, torch.int64)
    for wrong, words in (
        ((x, y[:3]), "x has 4 rows, y has 3"),
        ((x[0], y), "x must have 2"),
        ((x.astype(int), y), "floating-point"),
        ((x, y.astype(float)), "y must be integer"),
        (("x", y), "must be an array"),
        ((x, None), "y must be an array"),
    ):
        with pytest.raises(FeatureError, match=words):
            itm.Features(*wrong)
    with pytest.raises(FeatureError, match="logits has 3"):
        itm.Features(x, y, logits=np.zeros((3, 5)))
