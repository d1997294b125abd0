"""Rank statistics against scipy, scikit-learn and values worked by hand."""

from __future__ import annotations

import doctest
import importlib
import math
import pickle
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import ndcg_score
from torchmetrics import MetricCollection

from itm.core.errors import SettingError
from itm.metrics import functional, modules
from itm.metrics import single as metrics

FUNCTIONS: list[Callable] = [
    metrics.weighted_kendall_tau,
    metrics.kendall_tau,
    metrics.spearman_rho,
    metrics.pearson_r,
    metrics.recall_at_k,
    metrics.ndcg_at_k,
    metrics.regret,
]
CLASSES = [
    modules.WeightedKendallTau,
    modules.RecallAtK,
    modules.NDCGAtK,
    modules.Regret,
]
SHELLED = [metrics.weighted_kendall_tau, metrics.recall_at_k, metrics.ndcg_at_k, metrics.regret]


def pools(seed: int, ties: bool, rows: int = 20, models: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores of several pools, ``[rows, models]``; with few distinct values where ties are wanted."""
    rng = np.random.default_rng(seed)
    truth, noise = rng.normal(size=(2, rows, models))
    scores = truth + noise
    return (np.round(truth), np.round(scores)) if ties else (truth, scores)


@pytest.mark.parametrize("module", ["metrics.single", "metrics.uncertainty", "groundtruth.tables"])
def test_examples_in_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"itm.{module}"))
    assert result.attempted >= 2
    assert result.failed == 0


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (functional.weighted_kendall_tau, stats.weightedtau),
        (functional.kendall_tau, stats.kendalltau),
        (functional.spearman_rho, stats.spearmanr),
        (functional.pearson_r, stats.pearsonr),
    ],
)
def test_agrees_with_scipy_row_by_row(ours: Callable, reference: Callable, ties: bool) -> None:
    truth, scores = pools(seed=1, ties=ties)
    expected = [reference(t, s).statistic for t, s in zip(truth, scores, strict=True)]
    np.testing.assert_allclose(ours(truth, scores), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3, None])
@pytest.mark.parametrize("ties", [False, True])
def test_ndcg_agrees_with_scikit_learn(k: int | None, ties: bool) -> None:
    truth, scores = pools(seed=2, ties=ties)
    gains = truth - truth.min(axis=1, keepdims=True)
    expected = [ndcg_score([g], [s], k=k) for g, s in zip(gains, scores, strict=True)]
    np.testing.assert_allclose(functional.ndcg_at_k(truth, scores, k), expected, rtol=0, atol=1e-12)


def test_paper_definition_is_the_printed_formula() -> None:
    truth, scores = pools(seed=3, ties=False, rows=5)
    for t, s, found in zip(truth, scores, functional.weighted_kendall_tau(truth, scores, "paper"), strict=True):
        rank = stats.rankdata(-t)
        agree, total = 0.0, 0.0
        for i, j in combinations(range(len(t)), 2):
            weight = 1 / (rank[i] + rank[j])
            agree += weight * np.sign(t[i] - t[j]) * np.sign(s[i] - s[j])
            total += weight
        assert found == pytest.approx(agree / total, abs=1e-12)


def test_weighted_taus_worked_by_hand() -> None:
    # True ranks 1, 2, 3; the score swaps the last two. Pairs (1,2), (1,3) agree, (2,3) does not.
    weights = [Fraction(1, 3), Fraction(1, 4), Fraction(1, 5)]
    paper = (weights[0] + weights[1] - weights[2]) / sum(weights)
    # scipy: 1/r_i + 1/r_j = 3/2, 4/3, 5/6, and the same by score as the swapped pair has the same two ranks.
    scipy = (Fraction(3, 2) + Fraction(4, 3) - Fraction(5, 6)) / (Fraction(3, 2) + Fraction(4, 3) + Fraction(5, 6))
    assert metrics.weighted_kendall_tau([9, 8, 7], [3, 1, 2], definition="paper") == pytest.approx(float(paper))
    assert metrics.weighted_kendall_tau([9, 8, 7], [3, 1, 2]) == pytest.approx(float(scipy))


@pytest.mark.parametrize("definition", functional.DEFINITIONS)
def test_weighted_tau_minds_the_top(definition: str) -> None:
    top, bottom = ([4, 5, 3, 2, 1], [5, 4, 3, 1, 2])  # one swap each, of the two best and of the two worst
    values = [metrics.weighted_kendall_tau([5, 4, 3, 2, 1], scores, definition) for scores in (top, bottom)]
    assert values[0] < values[1] < 1


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("ties", [False, True])
def test_order_of_models_is_no_matter(function: Callable, ties: bool) -> None:
    truth, scores = (column[0] for column in pools(seed=4, ties=ties))
    order = np.random.default_rng(5).permutation(len(truth))
    assert function(truth[order], scores[order]) == pytest.approx(function(truth, scores), abs=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_truth_scores_best(function: Callable) -> None:
    truth = [81.2, 90.0, 77.7, 85.5]
    best = function(truth, truth)
    assert best == pytest.approx(0.0 if function is metrics.regret else 1.0)
    others = [function(truth, list(order)) for order in permutations(truth)]
    assert best == (min(others) if function is metrics.regret else pytest.approx(max(others)))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_sequences_arrays_tensors_and_series_give_the_same(function: Callable) -> None:
    truth, scores = [3.0, 1.0, 2.0, 4.0], [1.0, 2.0, 3.0, 4.0]
    expected = function(truth, scores)
    assert isinstance(expected, float)
    for convert in (tuple, np.array, torch.tensor, lambda x: torch.tensor(x, dtype=torch.bfloat16), pd.Series):
        assert function(convert(truth), convert(scores)) == expected


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("truth", "scores", "message"),
    [
        ([1, 2, 3], [1, math.nan, 3], r"scores\[1\] is nan.*leave the model out"),
        ([1, 2, 3], [1, 2, None], r"scores\[2\] is nan"),
        ([1, math.inf, 3], [1, 2, 3], r"truth\[1\] is inf"),
        ([1, 2, 3], [1, 2], "truth has 3 values, scores has 2"),
        ([1], [1], "at least two models, found 1"),
        ([], [], "at least two models, found 0"),
        ([1, 2], ["a", "b"], "scores: expected a sequence"),
        ([1, 2], {"a": 1, "b": 2}, "scores: .* found a mapping"),
        ([[1, 2]], [1, 2], r"truth: .*shape \(1, 2\)"),
        (pd.Series({"a": 1, "b": 2}), pd.Series({"b": 2, "a": 1}), "scores: the labels differ from those of truth"),
    ],
)
def test_refuses_what_has_no_rank(function: Callable, truth: object, scores: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        function(truth, scores)


@pytest.mark.parametrize("function", FUNCTIONS[:4])
@pytest.mark.parametrize("constant", [7.0, 0.1 + 0.2])
def test_constant_input_correlates_with_nothing(function: Callable, constant: float) -> None:
    flat = [constant] * 7
    assert function(range(7), flat) == function(flat, range(7)) == function(flat, flat) == 0.0


def test_constant_scores_cost_the_mean() -> None:
    truth, flat = [90.0, 80.0, 70.0, 60.0], [0.5] * 4
    assert metrics.regret(truth, flat) == pytest.approx(15.0)
    assert metrics.recall_at_k(truth, flat, k=2) == pytest.approx(0.5)
    assert metrics.ndcg_at_k(flat, truth) == 1.0


@pytest.mark.parametrize("function", [metrics.recall_at_k, metrics.regret])
def test_tied_scores_share_places(function: Callable) -> None:
    """Sharing places equals the mean over every way of breaking the tie."""
    truth, scores = [90.0, 70.0, 85.0, 60.0, 80.0], [2.0, 2.0, 2.0, 1.0, 3.0]
    broken = [function(truth, [*(2 + np.array(nudge) / 10), 1.0, 3.0]) for nudge in permutations(range(3))]
    assert function(truth, scores) == pytest.approx(np.mean(broken))


def test_a_model_as_good_as_the_kth_counts_as_found() -> None:
    assert metrics.recall_at_k([90, 80, 80, 10], [4, 1, 3, 2], k=2) == 1.0


@pytest.mark.parametrize("function", [metrics.recall_at_k, metrics.ndcg_at_k])
@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_out_of_range(function: Callable, k: int) -> None:
    with pytest.raises(SettingError, match=f"k={k}: expected 1 to 3"):
        function([1, 2, 3], [1, 2, 3], k=k)


def test_misspelt_definition() -> None:
    for call in (
        lambda: metrics.weighted_kendall_tau([1, 2], [1, 2], "sciypy"),
        lambda: modules.WeightedKendallTau("s"),
    ):
        with pytest.raises(SettingError, match=r"definition=.*Allowed: paper, scipy"):
            call()


def test_partial_tau_removes_the_prior() -> None:
    truth, scores, prior = (column[:, 0] for column in np.random.default_rng(6).normal(size=(3, 12, 1)))
    ts, tp, sp = (stats.kendalltau(*pair).statistic for pair in ((truth, scores), (truth, prior), (scores, prior)))
    expected = (ts - tp * sp) / math.sqrt((1 - tp**2) * (1 - sp**2))
    assert metrics.partial_kendall_tau(truth, scores, prior) == pytest.approx(expected)
    assert metrics.partial_kendall_tau(truth, prior, prior) == 0.0
    assert metrics.partial_kendall_tau(truth, -prior, prior) == 0.0
    assert metrics.partial_kendall_tau(truth, truth, prior) == pytest.approx(1.0)


@pytest.mark.parametrize(("metric", "function"), list(zip(CLASSES, SHELLED, strict=True)))
def test_metric_over_updates_is_the_function_over_all(metric: type, function: Callable) -> None:
    truth, scores = (torch.from_numpy(column[0]) for column in pools(seed=7, ties=False))
    shell = metric()
    for start in range(0, len(truth), 4):  # the last update holds a single model
        shell.update(truth[start : start + 4], scores[start : start + 4])
    assert float(shell.compute()) == pytest.approx(function(truth, scores), abs=1e-6)
    assert float(pickle.loads(pickle.dumps(shell)).compute()) == float(shell.compute())
    shell.reset()
    shell.update(1.0, 2.0)
    with pytest.raises(SettingError, match="found 1"):
        shell.compute()


def test_metrics_work_in_a_collection() -> None:
    truth, scores = (torch.from_numpy(column[0]) for column in pools(seed=8, ties=True))
    collection = MetricCollection([metric() for metric in CLASSES])
    assert set(collection(truth, scores)) == {metric.__name__ for metric in CLASSES}
    collection.update(truth, -scores)
    both = np.concatenate([truth, truth]), np.concatenate([scores, -scores])
    for metric, function in zip(CLASSES, SHELLED, strict=True):
        assert float(collection.compute()[metric.__name__]) == pytest.approx(function(*both), abs=1e-6)


def test_metric_settings_reach_the_function() -> None:
    truth, scores = (column[0] for column in pools(seed=9, ties=False))
    for shell, expected in (
        (modules.WeightedKendallTau("paper"), metrics.weighted_kendall_tau(truth, scores, "paper")),
        (modules.RecallAtK(k=2), metrics.recall_at_k(truth, scores, k=2)),
        (modules.NDCGAtK(k=2), metrics.ndcg_at_k(truth, scores, k=2)),
    ):
        shell.update(truth, scores)
        assert float(shell.compute()) == pytest.approx(expected, abs=1e-6)


def test_metric_refuses_a_bad_value_before_it_is_kept() -> None:
    shell = modules.WeightedKendallTau()
    shell.update([1, 2], [1, 2])
    for truth, scores, message in (([3], [math.nan], r"scores\[0\] is nan"), ([3, 4], [3], "truth has 2 values")):
        with pytest.raises(SettingError, match=message):
            shell.update(truth, scores)
    assert float(shell.compute()) == 1.0
