"""LogME, LEEP and the other scores of one closed formula: the authors' numbers, and independent ways to each value."""

from __future__ import annotations

import gc
import math
import weakref
from functools import cache
from itertools import permutations

import numpy as np
import pytest
import torch
from reference_features import MODELS, features, labels, matches, reference, source_logits
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, spearmanr
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.mixture import GaussianMixture

from itm.core.errors import FeatureError, SettingError
from itm.core.features import Features
from itm.scorers import EMMS, GBC, LEEP, NCE, NLEEP, PARC, HScore, LogME, RegularizedHScore, Scorer, TransRate
from itm.scorers.base import check
from itm.scorers.common.moments import Moments, moments
from itm.scorers.hscore import ledoit_wolf

BOTH = ("small", "under")


@cache
def stored(dataset: str, model: int) -> Features:
    return Features(features(dataset, model), labels(dataset), source_logits(dataset, model))


def noise(n: int, d: int, c: int, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return Features(x, torch.arange(n) % c)


def clusters(n: int, d: int, c: int, spread: float = 1.0, seed: int = 0) -> Features:
    base = noise(n, d, c, seed)
    centers = spread * torch.randn(c, d, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return Features(base.x + centers[base.y] + 0.7, base.y)


def one(scorer: Scorer, features: Features) -> float:
    return scorer.score({"model": features})["model"]


# ---------------------------------------------------------------- the authors' numbers


@pytest.mark.parametrize("dataset", BOTH)
@pytest.mark.parametrize("model", MODELS)
def test_features_are_those_the_authors_code_was_run_on(dataset: str, model: int) -> None:
    known = reference()["fingerprints"][dataset]
    assert matches(labels(dataset), known["labels"])
    assert matches(features(dataset, model), known["features"][model])
    assert matches(source_logits(dataset, model), known["source_logits"][model])


@pytest.mark.parametrize(
    ("scorer", "entry", "datasets", "rtol"),
    [
        (NCE(), "nce", BOTH, 1e-9),
        (LEEP(), "leep", BOTH, 1e-9),
        (LogME(), "logme", ("small",), 1e-6),
        (LogME(reference=True), "logme", BOTH, 1e-9),
        (HScore(reference=True), "h_score", BOTH, 1e-9),
        (RegularizedHScore(reference=True), "regularized_h_score", BOTH, 1e-9),
        (TransRate(reference=True), "transrate", BOTH, 1e-9),
        (GBC(reference=True), "gbc_spherical", BOTH, 2e-5),  # theirs accumulates in float32
        (GBC("diagonal", reference=True), "gbc_diagonal", BOTH, 2e-5),
        (EMMS(reference=True), "emms_onehot", ("small",), 1e-9),
        (PARC(), "parc_exact_pca32_ties", BOTH, 1e-9),
        (PARC(reference=True), "parc_pca32_ties", BOTH, 1e-6),
        (PARC(components=None), "parc_full_ties", BOTH, 1e-9),
        (NLEEP(reference=True), "nleep_seed0", ("small",), 1e-6),
        (NLEEP(reference=True, seed=1), "nleep_seed1", ("small",), 1e-6),
        (NLEEP(reference=True, ratio=1), "nleep_ratio1_seed0", ("small",), 1e-6),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_agrees_with_the_authors_code(scorer: Scorer, entry: str, datasets: tuple[str, ...], rtol: float) -> None:
    for dataset in datasets:
        ours = [one(scorer, stored(dataset, model)) for model in MODELS]
        np.testing.assert_allclose(ours, reference()["scores"][entry][dataset], rtol=rtol)


@pytest.mark.parametrize("scorer", [HScore, RegularizedHScore, TransRate, GBC, EMMS, LogME, PARC, NLEEP])
def test_default_finds_the_separated_models_with_fewer_rows_than_dimensions(scorer: type[Scorer]) -> None:
    scores = [one(scorer(), stored("under", model)) for model in MODELS]
    assert {1, 4} == set(np.argsort(scores)[-2:])  # the two whose classes lie farthest apart


# ---------------------------------------------------------------- LEEP and NCE


def test_leep_and_nce_by_hand() -> None:
    logits = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]], dtype=torch.float64).log()
    toy = Features(torch.zeros(3, 1), torch.tensor([0, 0, 1]), logits)
    # Source class 0 has mass 1.5, of which 1.4 is class 0; source class 1 has mass 1.5, of which 0.6 is class 0.
    given_0, given_1 = 1.4 / 1.5, 0.6 / 1.5
    expected = [0.8 * given_0 + 0.2 * given_1, 0.6 * given_0 + 0.4 * given_1, 0.1 * (1 - given_0) + 0.9 * (1 - given_1)]
    assert one(LEEP(), toy) == pytest.approx(np.log(expected).mean())
    assert one(LEEP(log=False), toy) == pytest.approx(np.mean(expected))
    assert one(NCE(), toy) == pytest.approx(0.0, abs=1e-15)  # the predicted class gives the label
    mixed = Features(torch.zeros(4, 1), torch.tensor([0, 1, 1, 0]), torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]]))
    assert one(NCE(), mixed) == pytest.approx(0.75 * (math.log(1 / 3) / 3 + 2 / 3 * math.log(2 / 3)))


def test_leep_survives_a_source_class_without_mass() -> None:
    logits = torch.tensor([[0.0, 1.0, -1e4], [1.0, 0.0, -1e4]])
    assert one(LEEP(), Features(torch.zeros(2, 1), torch.tensor([0, 1]), logits)) == pytest.approx(
        math.log((1 + math.e**2) / (1 + math.e) ** 2), rel=1e-6
    )


@pytest.mark.parametrize("scorer", [LEEP(), NCE()])
def test_scores_of_the_source_head_need_its_logits(scorer: Scorer) -> None:
    with pytest.raises(FeatureError, match=f"model: {scorer.name} needs the logits"):
        one(scorer, noise(10, 2, 2))


# ---------------------------------------------------------------- LogME


def log_evidence(x: np.ndarray, t: np.ndarray) -> float:
    """Maximum over both precisions of the Gaussian density of t, through its N x N covariance."""
    cov = x @ x.T

    def negative(log_precisions: np.ndarray) -> float:
        alpha, beta = np.exp(log_precisions)
        return -multivariate_normal(cov=cov / alpha + np.eye(len(t)) / beta).logpdf(t) / len(t)

    starts = [(0.0, 0.0), (4.0, 2.0), (8.0, 1.0)]
    return -min(minimize(negative, start, method="Nelder-Mead", options={"xatol": 1e-5}).fun for start in starts)


@pytest.mark.parametrize(("n", "d"), [(60, 8), (30, 45), (24, 24)])
def test_logme_is_the_maximum_of_the_exact_evidence(n: int, d: int) -> None:
    data = clusters(n, d, 3, spread=0.8)
    x, y = data.x.numpy(), data.y.numpy()
    exact = np.mean([log_evidence(x, (y == c).astype(float)) for c in range(3)])
    assert one(LogME(), data) == pytest.approx(exact, abs=1e-7)


def test_logme_does_not_change_with_dimensions_that_hold_nothing() -> None:
    data = clusters(50, 20, 3)
    padded = Features(torch.cat([data.x, torch.zeros(50, 500)], dim=1), data.y)
    assert one(LogME(), padded) == pytest.approx(one(LogME(), data), abs=1e-9)
    assert one(LogME(reference=True), padded) > one(LogME(reference=True), data) + 1  # the published one does


def test_logme_of_a_perfect_fit_is_finite() -> None:
    y = torch.arange(30) % 3
    assert math.isfinite(one(LogME(), Features(torch.nn.functional.one_hot(y).double(), y)))


# ---------------------------------------------------------------- H-scores


def test_h_score_is_the_trace_of_its_definition() -> None:
    data = clusters(80, 6, 4)
    x, y = data.x.numpy(), data.y.numpy()
    means = np.stack([x[y == c].mean(0) for c in range(4)])[y]
    expected = np.trace(np.linalg.pinv(np.cov(x.T)) @ np.cov(means.T))
    assert one(HScore(reference=True), data) == pytest.approx(expected)
    adjusted = 3 - (3 - expected) * 79 / (79 - 6)  # as the adjusted R^2
    assert one(HScore(), data) == pytest.approx(adjusted)


@pytest.mark.parametrize(("n", "d"), [(40, 7), (20, 90), (30, 1)])
def test_shrinkage_is_that_of_scikit_learn(n: int, d: int) -> None:
    data = clusters(n, d, 2, seed=3)
    shrinkage = ledoit_wolf(Moments(data.x, data.y, 2))
    assert shrinkage == pytest.approx(sklearn_ledoit_wolf(data.x.numpy())[1], rel=1e-9)


@pytest.mark.parametrize("scorer", [HScore(), RegularizedHScore(), PARC(components=None)])
@pytest.mark.parametrize("d", [3, 9])
def test_average_over_all_labellings_is_zero(scorer: Scorer, d: int) -> None:
    x = torch.randn(6, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64) ** 3
    labellings = sorted(set(permutations((0, 0, 0, 1, 1, 2))))
    values = [one(scorer, Features(x, torch.tensor(y))) for y in labellings]
    assert np.mean(values) == pytest.approx(0.0, abs=1e-9)
    assert max(values) > 0.1


def test_published_h_score_is_the_number_of_classes_where_rows_are_few() -> None:
    assert one(HScore(reference=True), noise(40, 60, 5)) == pytest.approx(4)  # C - 1 for any features


# ---------------------------------------------------------------- TransRate


def rate(x: np.ndarray) -> float:
    return 0.5 * np.linalg.slogdet(np.eye(x.shape[1]) + x.T @ x / (len(x) * 1e-4))[1]


@pytest.mark.parametrize("d", [5, 70])
def test_transrate_is_a_difference_of_log_determinants(d: int) -> None:
    data = clusters(60, d, 3)
    x, y = data.x.numpy() - data.x.numpy().mean(0), data.y.numpy()
    expected = rate(x) - np.mean([rate(x[y == c]) for c in range(3)])
    assert one(TransRate(reference=True), data) == pytest.approx(expected, rel=1e-9)


def test_transrate_measures_against_random_sets_of_rows() -> None:
    data = clusters(60, 5, 3)
    x, y = data.x.numpy(), data.y.numpy()
    x = x / np.sqrt(x.var(0).mean())
    rng = np.random.default_rng(0)
    draws = [x[rng.permutation(60)[:20]] for _ in range(2000)]
    expected = np.mean([rate(draw - draw.mean(0)) for draw in draws])
    expected -= np.mean([rate(x[y == c] - x[y == c].mean(0)) for c in range(3)])
    assert one(TransRate(permutations=300), data) == pytest.approx(expected, abs=0.03)
    assert expected > 0.4


def test_transrate_sees_two_balanced_classes_that_lie_far_apart() -> None:
    data = noise(200, 4, 2)
    apart = Features(data.x + 8.0 * data.y[:, None], data.y)
    assert one(TransRate(), apart) > one(TransRate(), data) + 1
    assert one(TransRate(reference=True), apart) == pytest.approx(0, abs=0.1)


def test_transrate_does_not_follow_the_scale() -> None:
    data = clusters(60, 20, 3)
    scaled = Features(0.01 * data.x, data.y)
    assert one(TransRate(), scaled) == pytest.approx(one(TransRate(), data), rel=1e-9)
    assert one(TransRate(reference=True), scaled) != pytest.approx(one(TransRate(reference=True), data), rel=0.1)


# ---------------------------------------------------------------- GBC


def bhattacharyya_overlap(x: np.ndarray, y: np.ndarray, gaussian: str, unbiased: bool) -> float:
    """Minus the sum over ordered pairs of classes, written out."""
    floor = 1e-4 * x.var(0).mean() if unbiased else 1e-4
    total = 0.0
    for i in range(y.max() + 1):
        for j in range(y.max() + 1):
            a, b = x[y == i], x[y == j]
            u, v = (np.maximum(part.var(0, ddof=1), floor) for part in (a, b))
            if gaussian == "spherical":
                u, v = np.full_like(u, u.mean()), np.full_like(v, v.mean())
            squared = (a.mean(0) - b.mean(0)) ** 2 - unbiased * (u / len(a) + v / len(b))
            log = np.log((u + v) / 2) - np.log(u * v) / 2
            distance = (squared / ((u + v) / 2)).sum() / 8 + (log.mean() if gaussian == "spherical" else log.sum()) / 2
            total += np.exp(-max(distance, 0)) if i != j else 0
    return -total


@pytest.mark.parametrize("gaussian", ["spherical", "diagonal"])
def test_gbc_is_the_overlap_written_out(gaussian: str) -> None:
    data = clusters(70, 9, 4, spread=0.6)
    x, y = data.x.numpy(), data.y.numpy()
    assert one(GBC(gaussian, reference=True), data) == pytest.approx(bhattacharyya_overlap(x, y, gaussian, False))
    reduced = PCA(5, svd_solver="full").fit_transform(x)
    expected = bhattacharyya_overlap(reduced, y, gaussian, True)
    assert one(GBC(gaussian, components=5), data) == pytest.approx(expected)


def test_gbc_with_classes_of_one_row() -> None:
    data = Features(noise(21, 4, 2).x, torch.tensor([0, 1] * 10 + [2]))
    assert -6 <= one(GBC(), data) <= 0
    with pytest.raises(FeatureError, match=r"model: gbc: 1 of 3 classes have one row .* two in every class"):
        one(GBC(reference=True), data)
    with pytest.raises(FeatureError, match=r"model: gbc: 5 of 5 classes have one row .* two in some class"):
        one(GBC(), noise(5, 3, 5))


# ---------------------------------------------------------------- EMMS


def test_emms_is_the_coefficient_of_determination() -> None:
    data = clusters(60, 7, 3)
    targets = np.eye(3)[data.y.numpy()]
    fit = LinearRegression().fit(data.x.numpy(), targets)
    residual = ((targets - fit.predict(data.x.numpy())) ** 2).mean(0) / targets.var(0)
    assert one(EMMS(reference=True), data) == pytest.approx(-3 * residual.sum(), rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(60, 7), (30, 50)])
def test_emms_is_the_least_cross_validated_error(n: int, d: int) -> None:
    data = clusters(n, d, 3, spread=0.5)
    x, targets = data.x.numpy(), np.eye(3)[data.y.numpy()]
    x, targets = (x - x.mean(0)) / x.std(0), (targets - targets.mean(0)) / targets.std(0)

    def error(penalty: float) -> float:
        hat = x @ np.linalg.solve(x.T @ x + penalty * np.eye(d), x.T) + 1 / n
        return float(((targets - hat @ targets) ** 2).sum() * n / (n - np.trace(hat)) ** 2)

    score = EMMS().evaluate({"model": data})["model"]
    assert score.value == pytest.approx(-3 * error(score.details["penalty"]), rel=1e-5)
    assert score.value >= -3 * min(error(score.details["penalty"] * 10.0**k) for k in (-2, -1, -0.5, 0.5, 1, 2))


# ---------------------------------------------------------------- PARC


@pytest.mark.parametrize("repeats", [1, 2])
def test_parc_is_the_rank_correlation_of_all_pairs(repeats: int) -> None:
    base = clusters(40 // repeats, 6, 3)
    data = Features(base.x.repeat(repeats, 1), base.y.repeat(repeats))  # repeated rows tie
    x, y = data.x.numpy(), data.y.numpy()
    upper = np.triu_indices(len(x), 1)
    distances = np.round(1 - np.corrcoef((x - x.mean(0)) / x.std(0)), 12)[upper]
    expected = 100 * spearmanr(distances, (y[:, None] != y)[upper]).statistic
    assert one(PARC(components=None), data) == pytest.approx(expected, rel=1e-9)


def test_parc_of_many_rows_takes_a_seeded_sample_whatever_their_order() -> None:
    data = clusters(300, 10, 3)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(5))
    shuffled = Features(data.x[order], data.y[order])
    scores = [one(PARC(max_rows=100), f) for f in (data, shuffled)] + [one(PARC(max_rows=100, seed=1), data)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)
    assert scores[0] != pytest.approx(scores[2], rel=1e-6)
    assert scores[0] == pytest.approx(one(PARC(), data), rel=0.3)


def test_parc_needs_equal_and_unequal_labels() -> None:
    with pytest.raises(FeatureError, match="model: parc: the 5 rows compared all are of different classes"):
        one(PARC(), noise(5, 3, 5))


# ---------------------------------------------------------------- NLEEP


@pytest.mark.parametrize(("n", "d", "c"), [(400, 3, 2), (300, 30, 6)], ids=["dense", "few rows per component"])
def test_nleep_is_leep_over_a_mixture_of_scikit_learn(n: int, d: int, c: int) -> None:
    data = clusters(n, d, c, spread=0.3)
    x = PCA(0.8, svd_solver="full").fit_transform(data.x.numpy())
    mixture = GaussianMixture(5 * c, random_state=2).fit(x)
    theta, y = mixture.predict_proba(x), data.y.numpy()
    conditional = np.stack([theta[y == k].sum(0) for k in range(c)]) / theta.sum(0)
    expected = (conditional[y] * theta).sum(1)
    assert one(NLEEP(seed=2, reference=True), data) == pytest.approx(expected.mean(), rel=1e-6)
    assert expected.mean() < 0.999


def test_nleep_of_few_rows_has_fewer_components() -> None:
    data = clusters(30, 5, 4)
    assert NLEEP().evaluate({"model": data})["model"].details["components"] == 7
    with pytest.raises(FeatureError, match="model: nleep: a mixture of 40 components needs as many rows, found 30"):
        one(NLEEP(ratio=10, reference=True), data)


def test_nleep_does_not_follow_the_scale() -> None:
    data = clusters(200, 5, 3, spread=0.5)
    assert one(NLEEP(), Features(1e-6 * data.x, data.y)) == pytest.approx(one(NLEEP(), data), rel=1e-6)


# ---------------------------------------------------------------- settings and shared moments


@pytest.mark.parametrize(
    ("scorer", "settings", "message"),
    [
        (GBC, {"gaussian": "diagnoal"}, "scorer.gbc.gaussian=diagnoal.*Did you mean 'diagonal'"),
        (GBC, {"components": 0}, "scorer.gbc.components=0"),
        (TransRate, {"permutations": 0}, "scorer.transrate.permutations=0"),
        (PARC, {"max_rows": 2}, "scorer.parc.max_rows=2"),
        (NLEEP, {"variance": 1.0}, "scorer.nleep.variance=1.0"),
        (NLEEP, {"ratio": 0}, "scorer.nleep.ratio=0"),
    ],
)
def test_names_a_setting_that_cannot_be(scorer: type[Scorer], settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        scorer(**settings)


@pytest.mark.parametrize(("n", "d"), [(50, 8), (20, 33)])
def test_moments_are_those_of_numpy_and_scikit_learn(n: int, d: int) -> None:
    data = clusters(n, d, 3)
    x, y = data.x.numpy(), data.y.numpy()
    m = Moments(data.x, data.y, 3)
    groups = [x[y == c] for c in range(3)]
    np.testing.assert_allclose(m.class_means, [g.mean(0) for g in groups], atol=1e-12)
    np.testing.assert_allclose(m.class_scatter, [g.var(0) * len(g) for g in groups], atol=1e-10)
    np.testing.assert_allclose(m.within, sum(np.cov(g.T, bias=True) * len(g) / n for g in groups), atol=1e-12)
    np.testing.assert_allclose(m.variance, x.var(0), atol=1e-12)
    np.testing.assert_allclose(m.principal(5), PCA(5, svd_solver="full").fit_transform(x), atol=1e-9)
    assert m.rank == min(n - 1, d)


def test_rounding_of_equal_rows_is_no_signal() -> None:
    equal = Features(torch.full((20, 50), 0.1, dtype=torch.float64), torch.arange(20) % 3)
    assert not moments(check("model", equal)).centered.any()
    assert [one(scorer(), equal) for scorer in (HScore, RegularizedHScore, TransRate, PARC)] == [0, 0, 0, 0]


def test_moments_are_remembered_while_the_features_live() -> None:
    data = noise(10, 3, 2)
    remembered = moments(check("model", data))
    assert moments(check("model", data)) is remembered
    assert remembered.x.data_ptr() == data.x.data_ptr()  # float64 is not copied
    alive = weakref.ref(remembered)
    del data, remembered
    gc.collect()
    assert alive() is None
