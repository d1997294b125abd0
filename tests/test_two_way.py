"""The two-way bootstrap and differences between scores, against cases worked by hand and simulated ones."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, rankdata, weightedtau

from itm.core.errors import SettingError
from itm.evaluation.differences import differences, with_combinations
from itm.metrics.two_way import two_way
from itm.metrics.uncertainty import over_subsets, resamples

MODELS = "abcdefghijkl"


def test_with_one_dataset_and_no_noise_it_is_the_bootstrap_over_models():
    truth, scores = np.arange(12.0), np.random.default_rng(1).permutation(12).astype(float)
    drawn = two_way(truth[None], scores[None], samples=100, seed=3)
    np.testing.assert_allclose(drawn, over_subsets(resamples(12, 100, 3), truth, scores))


def test_a_dataset_ordered_rightly_and_one_wrongly_average_as_their_draws():
    """Two datasets with tau 1 and -1 whatever the models: the mean is -1, 0 or 1 in a quarter, a half, a quarter."""
    truth = np.tile(np.arange(10.0), (2, 1))
    drawn = two_way(truth, np.stack([truth[0], -truth[1]]), samples=4_000)
    shares = [np.isclose(drawn, value).mean() for value in (-1, 0, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_noise_of_the_truth_flips_two_models_as_often_as_the_normal_law_says():
    truth = np.array([[0.0, 1.0]])
    drawn = two_way(truth, truth, 0.8, samples=4_000)
    right = norm.cdf(1 / (0.8 * math.sqrt(2)))
    assert (drawn == 1).mean() == pytest.approx(right, abs=0.025)
    assert set(drawn) == {-1.0, 1.0}, "copies of a model move together"


def test_noise_counts_on_the_dataset_that_has_it():
    truth = np.tile(np.arange(10.0), (2, 1))
    alone = two_way(truth[:1], truth[:1], 5.0, samples=200).std()
    both = two_way(truth, truth, [0.0, 5.0], samples=200)
    assert two_way(truth, truth, samples=50).std() == 0
    assert 0 < both.std() < 2 * alone


def test_datasets_that_disagree_widen_the_interval_and_it_holds_the_mean():
    """Scores whose quality differs by dataset: an interval over models alone misses the mean of all datasets."""
    rng = np.random.default_rng(0)
    quality = np.array([3.0, 0.2])  # two kinds of datasets, equally likely
    large = np.stack([_tau(rng, q, 2_000) for q in quality]).mean()
    held = {"two-way": 0, "models": 0}
    for trial in range(60):
        truth = rng.standard_normal((6, 12))
        scores = quality[rng.integers(2, size=6)][:, None] * truth + rng.standard_normal((6, 12))
        both = two_way(truth, scores, samples=150, seed=trial)
        rows = resamples(12, 150, trial)
        alone = np.mean([over_subsets(rows, t, s) for t, s in zip(truth, scores, strict=True)], axis=0)
        for name, draws in (("two-way", both), ("models", alone)):
            low, high = np.quantile(draws, [0.025, 0.975])
            held[name] += low <= large <= high
    assert held["two-way"] >= 54
    assert held["models"] < held["two-way"]


def _tau(rng: np.random.Generator, quality: float, trials: int) -> np.ndarray:
    truth = rng.standard_normal((trials, 12))
    scores = quality * truth + rng.standard_normal((trials, 12))
    return np.array([weightedtau(t, s)[0] for t, s in zip(truth, scores, strict=True)])


@pytest.mark.parametrize(
    ("truth", "scores", "noise"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), 0.0),
        (np.zeros((2, 3)), np.full((2, 3), np.nan), 0.0),
        (np.zeros((2, 3)), np.zeros((2, 3)), -1.0),
        (np.zeros((2, 3)), np.zeros((2, 3)), [1.0, 1.0, 1.0]),
    ],
)
def test_wrong_tables_are_refused(truth, scores, noise):
    with pytest.raises(SettingError, match="expected"):
        two_way(truth, scores, noise)


@pytest.fixture
def rankings() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    rows = []
    for dataset in ("one", "two", "three"):
        truth = rng.permutation(len(MODELS)) * 2.0
        scores = {"right": truth, "wrong": -truth, "some": rng.permutation(len(MODELS)).astype(float)}
        for scorer, values in scores.items():
            for place, model in enumerate(MODELS):
                facts = {"dataset": dataset, "scorer": scorer, "model": model, "parameters": place + 1.0}
                rows.append({**facts, "score": values[place], "true_accuracy": truth[place]})
    return pd.DataFrame(rows)


def test_differences_count_wins_and_give_the_taus_of_each_dataset(rankings):
    table = differences(rankings, "some", {}, samples=60)
    assert table.index[0] == "right"
    assert table.index[-1] == "wrong"
    one = rankings[(rankings["dataset"] == "two") & (rankings["scorer"] == "some")]
    tau = weightedtau(one["true_accuracy"], one["score"])[0]
    assert table.loc["some", "two"] == pytest.approx(tau)
    assert table.loc["right", ["datasets", "models", "mean", "wins", "loses"]].tolist() == [3, 12, 1, 3, 0]
    assert table.loc["wrong", ["mean", "wins", "loses"]].tolist() == [-1, 0, 3]
    some = table.loc["some"]
    assert some[["difference", "difference low", "difference high", "wins", "loses"]].tolist() == [0] * 5
    assert table.loc["right", "difference"] == pytest.approx(1 - some["mean"])


def test_a_scorer_that_lacks_a_model_has_no_row(rankings):
    part = rankings.drop(rankings[(rankings["scorer"] == "wrong") & (rankings["model"] == "a")].index[:1])
    assert "wrong" not in differences(part, "some", {}, samples=20).index
    with pytest.raises(SettingError, match="against=wrong"):
        differences(part, "wrong", {}, samples=20)


def test_combinations_are_means_of_ranks_or_z_scores(rankings):
    names = {
        "ranks: right, some": ("right", "some"),
        "zscores: right, some": ("right", "some"),
        "ranks: x": ("right", "no"),
    }
    full = with_combinations(rankings, names)
    assert "ranks: x" not in set(full["scorer"])
    part = full[full["dataset"] == "three"].pivot(index="model", columns="scorer", values="score")
    ranks = (rankdata(part["right"]) + rankdata(part["some"]) - 2) / 22
    np.testing.assert_allclose(part["ranks: right, some"], ranks)
    z = sum((part[name] - part[name].mean()) / part[name].std(ddof=0) for name in ("right", "some")) / 2
    np.testing.assert_allclose(part["zscores: right, some"], z)
    with pytest.raises(SettingError, match="begins with ranks: or zscores"):
        with_combinations(rankings, {"mean: right": ("right",)})
