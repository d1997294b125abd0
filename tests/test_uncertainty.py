"""Subsets of models, bootstrap intervals and win rates against enumeration, scipy and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from itm.core.errors import SettingError
from itm.metrics import functional, uncertainty
from itm.metrics import single as metrics
from itm.metrics.uncertainty import LEAST_FOR_INTERVAL, bootstrap, over_subsets, resamples, subsets, summarize, win_rate

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(size=14)
GOOD, POOR = TRUTH + RNG.normal(size=(2, 14)) * [[0.3], [3.0]]


def test_the_papers_protocol_takes_every_choice_once() -> None:
    assert [tuple(row) for row in subsets(14, 10)] == list(combinations(range(14), 10))


def test_a_sample_of_subsets_is_seeded_distinct_and_fair() -> None:
    sample = subsets(12, 4, limit=400, seed=3)  # of 495
    assert sample.shape == (400, 4)
    assert (np.diff(sample, axis=1) > 0).all()
    assert len({tuple(row) for row in sample}) == 400
    np.testing.assert_array_equal(sample, subsets(12, 4, limit=400, seed=3))
    assert (sample != subsets(12, 4, limit=400, seed=4)).any()
    drawn = np.concatenate([subsets(6, 2, limit=5, seed=seed) for seed in range(600)])  # 5 of 15 pairs, 600 times
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert stats.chisquare(counts).pvalue > 0.001
    assert len(counts) == 15


def test_resamples_are_bootstrap_draws_that_have_an_order() -> None:
    draws = resamples(2, samples=500)
    assert draws.shape == (500, 2)
    assert (draws[:, 0] != draws[:, 1]).all()
    counts = np.bincount(resamples(10, samples=2000).ravel())
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: subsets(5, 6), "size=6: expected 2 to 5"),
        (lambda: subsets(5, 1), "size=1: expected 2 to 5"),
        (lambda: subsets(5, 3, limit=0), "limit=0"),
        (lambda: resamples(1), "models=1"),
        (lambda: resamples(3, samples=0), "samples=0"),
        (lambda: summarize([]), "values: expected one or more finite"),
        (lambda: summarize([0.1, np.nan]), "values: expected one or more finite"),
        (lambda: summarize([0.1], level=95), "level=95: expected a share"),
        (lambda: over_subsets(subsets(5, 3), [1, 2, 3, 4], [1, 2, 3, 4]), "rows: expected indices .* 0 to 3"),
        (lambda: over_subsets(subsets(3, 2), [1, 2, 3], [1, np.nan, 3]), r"scores\[1\] is nan"),
        (lambda: bootstrap(TRUTH[:9], GOOD[:9]), "truth has 9 models: expected at least 10"),
    ],
)
def test_refuses(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        call()


@pytest.mark.parametrize(
    ("statistic", "single"),
    [
        (functional.weighted_kendall_tau, lambda t, s: stats.weightedtau(t, s).statistic),
        (
            partial(functional.weighted_kendall_tau, definition="paper"),
            partial(metrics.weighted_kendall_tau, definition="paper"),
        ),
        (partial(functional.recall_at_k, k=2), partial(metrics.recall_at_k, k=2)),
        (functional.regret, metrics.regret),
    ],
)
def test_over_subsets_is_the_statistic_of_each_subset(
    statistic: uncertainty.Statistic, single: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncertainty, "_PAIRS", 700)  # seven rows at once
    rows = subsets(14, 10, limit=60)
    values = over_subsets(rows, TRUTH, GOOD, statistic=statistic)
    np.testing.assert_allclose(values, [single(TRUTH[row], GOOD[row]) for row in rows], atol=1e-12)


def test_over_subsets_takes_a_prior() -> None:
    rows = subsets(14, 10, limit=5)
    values = over_subsets(rows, TRUTH, GOOD, POOR, statistic=functional.partial_kendall_tau)
    expected = [metrics.partial_kendall_tau(TRUTH[row], GOOD[row], POOR[row]) for row in rows]
    np.testing.assert_allclose(values, expected)


def test_summary_of_known_values() -> None:
    values = RNG.normal(size=101)
    result = summarize(values, level=0.9)
    assert (result.mean, result.std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert (result.low, result.high) == pytest.approx((np.sort(values)[5], np.sort(values)[95]))
    assert summarize([0.4]) == uncertainty.Summary(0.4, 0.0, 0.4, 0.4, 1)


@pytest.mark.parametrize("definition", functional.DEFINITIONS)
def test_copies_of_a_model_are_no_evidence(definition: functional.Definition) -> None:
    """A perfect score stays perfect, and a reversed one reversed, in every resample."""
    statistic = partial(functional.weighted_kendall_tau, definition=definition)
    for sign in (1, -1):
        result = bootstrap(TRUTH, sign * TRUTH, statistic=statistic, samples=200)
        assert result.low == pytest.approx(sign)
        assert result.high == pytest.approx(sign)


def test_bootstrap_width_matches_theory() -> None:
    """Of Pearson's r over many normal pairs, the standard error is near (1 - r^2) / sqrt(n)."""
    x, noise = np.random.default_rng(1).normal(size=(2, 400))
    y = x + noise
    result = bootstrap(x, y, statistic=functional.pearson_r, samples=600)
    r = stats.pearsonr(x, y).statistic
    assert result.mean == pytest.approx(r, abs=0.01)
    assert result.std == pytest.approx((1 - r**2) / np.sqrt(400), rel=0.2)
    assert result.low == pytest.approx(r - 1.96 * result.std, abs=0.015)


def test_a_win_is_a_larger_value_and_a_draw_counts_half() -> None:
    assert win_rate([4, 3, 2, 1], [3, 3, 3, 3]) == (1 + 0.5) / 4
    assert win_rate([0.1 + 0.2], [0.3]) == 0.5, "equal but for rounding"
    assert win_rate(-np.arange(3), -np.arange(3) - 1) == 1.0


def test_the_regret_has_no_interval_for_its_coverage_is_too_low() -> None:
    with pytest.raises(SettingError, match="statistic: found the regret"):
        bootstrap(TRUTH, GOOD, statistic=functional.regret)


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.3, 0.9])
def test_the_interval_holds_the_true_value_as_often_as_it_says(correlation: float) -> None:
    """At the fewest models that have an interval; ``benchmarks/intervals.py`` has more of them."""
    rng, models = np.random.default_rng(0), LEAST_FOR_INTERVAL

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        truth, noise = rng.normal(size=(2, count, models))
        return truth, correlation * truth + np.sqrt(1 - correlation**2) * noise

    true = functional.weighted_kendall_tau(*draw(20_000)).mean()
    held = []
    for truth, scores in zip(*draw(200), strict=True):
        interval = bootstrap(truth, scores, samples=500)
        held.append(interval.low <= true <= interval.high)
    assert np.mean(held) > 0.9
