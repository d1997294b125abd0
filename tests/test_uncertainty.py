"""Sub-pools, bootstrap and paired comparison against enumeration, scipy and closed forms."""

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
from itm.metrics.uncertainty import bootstrap, compare, over_pools, resamples, spread, subpools

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(size=14)
GOOD, POOR = TRUTH + RNG.normal(size=(2, 14)) * [[0.3], [3.0]]


def test_the_papers_protocol_takes_every_choice_once() -> None:
    assert [tuple(row) for row in subpools(14, 10)] == list(combinations(range(14), 10))


def test_a_sample_of_subpools_is_seeded_distinct_and_fair() -> None:
    sample = subpools(12, 4, limit=400, seed=3)  # of 495
    assert sample.shape == (400, 4)
    assert (np.diff(sample, axis=1) > 0).all()
    assert len({tuple(row) for row in sample}) == 400
    np.testing.assert_array_equal(sample, subpools(12, 4, limit=400, seed=3))
    assert (sample != subpools(12, 4, limit=400, seed=4)).any()
    drawn = np.concatenate([subpools(6, 2, limit=5, seed=seed) for seed in range(600)])  # 5 of 15 pairs, 600 times
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
        (lambda: subpools(5, 6), "size=6: expected 2 to 5"),
        (lambda: subpools(5, 1), "size=1: expected 2 to 5"),
        (lambda: subpools(5, 3, limit=0), "limit=0"),
        (lambda: resamples(1), "models=1"),
        (lambda: resamples(3, samples=0), "samples=0"),
        (lambda: spread([]), "values: expected one or more finite"),
        (lambda: spread([0.1, np.nan]), "values: expected one or more finite"),
        (lambda: spread([0.1], level=95), "level=95: expected a share"),
        (lambda: over_pools(subpools(5, 3), [1, 2, 3, 4], [1, 2, 3, 4]), "pools: expected indices .* 0 to 3"),
        (lambda: over_pools(subpools(3, 2), [1, 2, 3], [1, np.nan, 3]), r"scores\[1\] is nan"),
        (lambda: bootstrap([1], [1]), "models=1"),
    ],
)
def test_refuses(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        call()


@pytest.mark.parametrize(
    ("rows", "single"),
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
def test_over_pools_is_the_statistic_of_each_pool(
    rows: uncertainty.Statistic, single: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncertainty, "_CELLS", 700)  # seven pools at once
    pools = subpools(14, 10, limit=60)
    values = over_pools(pools, TRUTH, GOOD, statistic=rows)
    np.testing.assert_allclose(values, [single(TRUTH[pool], GOOD[pool]) for pool in pools], atol=1e-12)


def test_over_pools_takes_a_prior() -> None:
    pools = subpools(14, 10, limit=5)
    values = over_pools(pools, TRUTH, GOOD, POOR, statistic=functional.partial_kendall_tau)
    expected = [metrics.partial_kendall_tau(TRUTH[pool], GOOD[pool], POOR[pool]) for pool in pools]
    np.testing.assert_allclose(values, expected)


def test_spread_of_known_values() -> None:
    values = RNG.normal(size=101)
    result = spread(values, level=0.9)
    assert (result.mean, result.std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert (result.low, result.high) == pytest.approx((np.sort(values)[5], np.sort(values)[95]))
    assert spread([0.4]) == uncertainty.Spread(0.4, 0.0, 0.4, 0.4, 1)


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


def test_a_better_scorer_wins() -> None:
    pools = subpools(14, 10, limit=200)
    result = compare(pools, TRUTH, GOOD, POOR)
    gain = [
        stats.weightedtau(TRUTH[p], GOOD[p]).statistic - stats.weightedtau(TRUTH[p], POOR[p]).statistic for p in pools
    ]
    assert result.difference.mean == pytest.approx(np.mean(gain))
    assert result.win_rate == pytest.approx(np.mean(np.array(gain) > 0))
    assert result.draws == 0.0
    mirrored = compare(pools, TRUTH, POOR, GOOD)
    assert mirrored.win_rate == pytest.approx(1 - result.win_rate)
    assert mirrored.difference.low == pytest.approx(-result.difference.high)


def test_draws_count_half_and_low_regret_wins() -> None:
    pools = subpools(4, 3)
    truth, a, b = [4.0, 3.0, 2.0, 1.0], [4, 3, 2, 1], [1, 9, 3, 2]
    # b picks model 1 of the three pools that hold it (regret 1, 1, 0) and model 2 of pool {0, 2, 3} (regret 2).
    result = compare(pools, truth, a, b, statistic=functional.regret)
    assert (result.win_rate, result.draws) == (0.875, 0.25)
    assert result.difference.mean == pytest.approx(-1.0)
    same = compare(pools, truth, a, [8, 6, 4, 2])
    assert (same.win_rate, same.draws, same.difference.std) == (0.5, 1.0, 0.0)
