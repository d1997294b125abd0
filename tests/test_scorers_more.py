"""SFDA, ETran, PED, SA, NCTI, LEAD, nearest neighbours, the probe and the priors: known numbers, independent ways."""

from __future__ import annotations

import itertools
import math
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from reference_features import MODELS, features, labels, reference, source_features
from scipy.integrate import solve_ivp
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from synthetic import clusters, noise, one

from itm.core.errors import DataError, FeatureError, SettingError
from itm.core.features import Features
from itm.evaluation import priors
from itm.scorers import KNN, LEAD, NCTI, PED, SA, SFDA, ETran, LinearProbe, LogME, Scorer, knn, lead
from itm.scorers.base import check
from itm.scorers.common.displacement import class_balls, pairwise, push_apart
from itm.scorers.common.folds import assign_folds, derive, row_keys
from itm.scorers.common.lda import Scatter, out_of_fold_posterior
from itm.scorers.common.svm import one_vs_rest_svm

pytestmark = pytest.mark.usefixtures("one_thread")

BOTH = ("small", "under")
NAMES = [str(model) for model in MODELS]


@cache
def stored(dataset: str) -> dict[str, Features]:
    return {name: Features(features(dataset, int(name)), labels(dataset)) for name in NAMES}


@cache
def source(dataset: str) -> dict[str, Features]:
    blank = torch.zeros(500, dtype=torch.int64)
    return {name: Features(source_features(dataset, int(name)), blank) for name in NAMES}


def known(entry: str, dataset: str) -> list[float]:
    values: list[float] = reference()["scores"][entry][dataset]
    return values


# ---------------------------------------------------------------- the authors' numbers


@pytest.mark.parametrize("dataset", BOTH)
@pytest.mark.parametrize(
    ("scorer", "entry"),
    [
        (SFDA(reference=True), "sfda"),
        (ETran(reference=True), "etran_combined"),
        (NCTI(reference=True), "ncti_combined_exactpca"),
        (KNN(k=1, reference=True), "knn1_loo"),
        (KNN(k=5, reference=True), "knn5_loo"),
        (KNN(k=1), "knn1_loo"),
        *((SA(base, alpha, reference=True), f"sa_{base}_alpha{alpha}") for base in ("lda", "sfda", "logme")
          for alpha in (0.005, 0.1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_agrees_with_the_authors_code(scorer: Scorer, entry: str, dataset: str) -> None:
    ours = list(scorer.score(stored(dataset)).values())
    np.testing.assert_allclose(ours, known(entry, dataset), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dataset", BOTH)
@pytest.mark.parametrize("base", ["sfda", "logme"])
@pytest.mark.parametrize("nsigma", [0.6, 0.3])
def test_ped_agrees_with_the_authors_code(base: str, nsigma: float, dataset: str) -> None:
    scorer = PED(source(dataset), base=base, nsigma=nsigma, reference=True)  # type: ignore[arg-type]
    ours = list(scorer.score(stored(dataset)).values())
    np.testing.assert_allclose(ours, known(f"ped_{base}_nsigma{nsigma}", dataset), rtol=1e-9)


@pytest.mark.parametrize("dataset", BOTH)
@pytest.mark.parametrize(
    ("scorer", "part", "entry"),
    [
        (ETran(reference=True), "lda", "etran_lda"),
        (ETran(reference=True), "energy", "etran_energy_bot0.5pct"),
        (NCTI(reference=True), "seli", "ncti_seli_nuclear_exactpca"),
        (NCTI(reference=True), "ncc", "ncti_ncc_prob_exactpca"),
        (NCTI(reference=True), "vc", "ncti_vc_log_nuclear_exactpca"),
    ],
)
def test_parts_agree_with_the_authors_code(scorer: Scorer, part: str, entry: str, dataset: str) -> None:
    ours = [score.details[part] for score in scorer.evaluate(stored(dataset)).values()]
    np.testing.assert_allclose(ours, known(entry, dataset), rtol=1e-9)


def test_sa_on_a_mixture_agrees_with_the_authors_code() -> None:
    pool = {name: stored("small")[name] for name in NAMES[:2]}
    ours = list(SA("nleep", reference=True).score(pool).values())
    np.testing.assert_allclose(ours, known("sa_nleep_alpha0.005_seed0", "small")[:2], rtol=1e-6)


@pytest.mark.parametrize("dataset", BOTH)
@pytest.mark.parametrize("scorer", [SFDA(), ETran(), NCTI(), KNN(), LEAD(), LinearProbe(), SA(), "ped"])
def test_default_finds_the_most_separated_model(scorer: Scorer | str, dataset: str) -> None:
    chosen = PED(source(dataset)) if isinstance(scorer, str) else scorer
    scores = chosen.score(stored(dataset))
    assert max(scores, key=scores.__getitem__) == "4"


# ---------------------------------------------------------------- folds


def test_folds_follow_the_rows_and_balance_the_classes() -> None:
    data = clusters(97, 6, 4)
    fold = assign_folds(check("m", data), 5)
    order = torch.randperm(97, generator=torch.Generator().manual_seed(1))
    renamed = torch.tensor([9, 2, 40, 7])[data.y]
    moved = Features(data.x[order].float().double(), renamed[order])
    rounded = Features(data.x.float(), data.y)
    assert torch.equal(assign_folds(check("m", moved), 5), assign_folds(check("m", rounded), 5)[order])
    table = torch.stack([torch.bincount(data.y[fold == k], minlength=4) for k in range(5)])
    assert int((table.max(0).values - table.min(0).values).max()) <= 1
    assert not torch.equal(fold, assign_folds(check("m", data), 5, seed=1))


def test_folds_never_split_a_group() -> None:
    data = noise(60, 3, 2)
    groups = torch.arange(60) // 5
    fold = assign_folds(check("m", Features(data.x, data.y, groups=groups)), 4)
    assert all(len(fold[groups == g].unique()) == 1 for g in range(12))
    assert torch.bincount(fold).tolist() == [15] * 4
    with pytest.raises(FeatureError, match="one group"):
        assign_folds(check("m", Features(data.x, data.y, groups=torch.zeros(60, dtype=torch.int64))), 4)


def test_keys_of_round_numbers_differ() -> None:
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 12)
    assert len(set(row_keys(x).tolist())) == len(x)
    assert row_keys(torch.tensor([[0.0]])) == row_keys(torch.tensor([[-0.0]]))


def test_derived_samples_keep_their_folds_and_lose_empty_classes() -> None:
    samples = check("m", noise(40, 3, 4))
    rows = torch.nonzero(samples.y != 1).flatten()
    part = derive(samples, torch.zeros(len(rows), 2), rows)
    assert part.num_classes == 3
    assert part.y.max() == 2
    assert torch.equal(assign_folds(part), assign_folds(derive(samples, torch.ones(len(rows), 5), rows)))


# ---------------------------------------------------------------- discriminants


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_discriminant_is_that_of_scikit_learn(shrinkage: float) -> None:
    data = clusters(90, 5, 4, spread=0.7)
    x, y = data.x - data.x.mean(0), data.y
    ours = Scatter.of(x, y, 4, 5).fit(shrinkage).posterior(x)
    within = Scatter.of(x, y, 4, 5).within.numpy()
    blended = (1 - shrinkage) * within + shrinkage * np.trace(within) / 5 * np.eye(5)

    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage or None).fit(x.numpy(), y.numpy())
    if shrinkage:  # scikit-learn blends class by class, which is the same where the target is linear in the covariance
        np.testing.assert_allclose(lda.covariance_, blended, rtol=1e-9)
    np.testing.assert_allclose(ours.numpy(), lda.predict_proba(x.numpy()), rtol=1e-7)


@pytest.mark.parametrize("d", [6, 70])
def test_within_class_shrinkage_is_that_of_scikit_learn(d: int) -> None:
    data = clusters(50, d, 3)
    scatter = Scatter.of(data.x, data.y, 3, d)
    residuals = data.x - scatter.means[data.y]
    expected = ledoit_wolf(residuals.numpy(), assume_centered=True)[1]
    assert scatter.ledoit_wolf(data.x, data.y) == pytest.approx(expected, rel=1e-9)


def shrunken_discriminant(x: np.ndarray, y: np.ndarray, c: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases in all dimensions, by an inverse."""
    means = np.stack([x[y == k].mean(0) for k in range(c)])
    weights = means @ np.linalg.inv(ledoit_wolf(x - means[y], assume_centered=True)[0])
    return weights, np.log(np.bincount(y) / len(y)) - 0.5 * (weights * means).sum(1)


@pytest.mark.parametrize("d", [7, 90])
def test_out_of_fold_posterior_is_a_loop_over_folds(d: int) -> None:
    data = clusters(60, d, 3, spread=0.4)
    samples = check("m", data)
    x, y, fold = data.x.numpy(), data.y.numpy(), assign_folds(samples, 4).numpy()
    expected = np.empty((60, 3))
    for held in (fold == k for k in range(4)):
        weights, bias = shrunken_discriminant(x[~held], y[~held], 3)
        expected[held] = softmax(x[held] @ weights.T + bias, axis=1)
    np.testing.assert_allclose(out_of_fold_posterior(samples, 4).numpy(), expected, rtol=1e-6)


# ---------------------------------------------------------------- SFDA


def test_published_sfda_by_the_generalised_eigenproblem() -> None:
    data = clusters(80, 6, 3, spread=0.5)
    x, y = 0.3 * data.x.numpy(), data.y.numpy()
    n, d, c = 80, 6, 3

    def fit(x: np.ndarray, shrinkage: float | None) -> tuple[np.ndarray, float]:
        means = np.stack([x[y == k].mean(0) for k in range(c)])
        within = np.cov((x - means[y]).T, bias=True)
        if shrinkage is None:
            v = within.sum(1)
            for _ in range(3):
                p = within @ v / np.linalg.norm(within @ v)
                v = within @ p / np.linalg.norm(within @ p)
            shrinkage = max(math.exp(-5 * (v @ within @ p)), 1e-10)
        blended = (1 - shrinkage) * within + shrinkage * np.trace(within) / d * np.eye(d)
        vectors = scipy.linalg.eigh(np.cov(x.T, bias=True) - within, blended)[1]
        coefficients = means @ vectors @ vectors.T
        bias = -0.5 * (means * coefficients).sum(1) + np.log(np.bincount(y) / n)
        return softmax(x @ coefficients.T + bias, axis=1), shrinkage

    first, shrinkage = fit(x, None)
    keep = softmax(first, axis=1)[np.arange(n), y][:, None]
    means = np.stack([x[y == k].mean(0) for k in range(c)])
    others = np.stack([np.delete(means, k, axis=0).mean(0) for k in range(c)])
    second, _ = fit(keep * x + (1 - keep) * others[y], shrinkage)
    expected = second[np.arange(n), y].mean()
    assert one(SFDA(reference=True), Features(x, y)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("d", [6, 70])
def test_default_sfda_is_a_loop_over_folds(d: int) -> None:
    data = clusters(60, d, 3, spread=0.4)
    x, y, fold = data.x.numpy(), data.y.numpy(), assign_folds(check("m", data)).numpy()
    total = 0.0
    for held in (fold == k for k in range(5)):
        rows, classes = x[~held], y[~held]
        means = np.stack([rows[classes == k].mean(0) for k in range(3)])
        others = np.stack([np.delete(means, k, axis=0).mean(0) for k in range(3)])
        weights, bias = shrunken_discriminant(rows, classes, 3)
        share = ledoit_wolf(rows - means[classes], assume_centered=True)[1]
        first = [softmax(part @ weights.T + bias, axis=1) for part in (rows, x[held])]
        keep = softmax(first[0], axis=1)[np.arange(len(rows)), classes][:, None]
        mixed = keep * rows + (1 - keep) * others[classes]
        q = softmax(first[1], axis=1)
        judged = (first[1] * q).sum(1, keepdims=True) * x[held] + (first[1] * (1 - q)) @ others
        means = np.stack([mixed[classes == k].mean(0) for k in range(3)])
        within = np.cov((mixed - means[classes]).T, bias=True)
        blended = (1 - share) * within + share * np.trace(within) / d * np.eye(d)
        weights = means @ np.linalg.inv(blended)
        bias = np.log(np.bincount(classes) / len(classes)) - 0.5 * (weights * means).sum(1)
        second = softmax(judged @ weights.T + bias, axis=1)
        total += second[np.arange(held.sum()), y[held]].sum()
    assert one(SFDA(), data) == pytest.approx(total / 60, rel=1e-6)


@pytest.mark.parametrize("scorer", [SFDA(), SA(), LinearProbe(), LEAD(rate_scale="sqnorm")])
def test_unit_and_origin_of_the_features_do_not_matter(scorer: Scorer) -> None:
    # Multiples of 1/64 stay exact under both changes, so that the folds, dealt by content, are what may differ.
    data = clusters(400, 5, 2, spread=0.5)
    moved = Features(256 * data.x, data.y)
    assert one(scorer, moved) == pytest.approx(one(scorer, data), rel=0.1)


# ---------------------------------------------------------------- ETran and NCTI


def test_relative_scores_of_one_model_and_of_equal_models() -> None:
    data = clusters(60, 5, 3)
    assert ETran().score({"a": data}) == {"a": 0.5}
    assert ETran().score({"a": data, "b": Features(data.x.clone(), data.y)}) == pytest.approx({"a": 0.5, "b": 0.5})
    assert NCTI().score({"a": data}) == {"a": 0.5}


def test_etran_adds_the_scaled_parts() -> None:
    pool = {"a": clusters(60, 5, 3, 0.2), "b": clusters(60, 5, 3, 0.6), "c": clusters(60, 9, 3, 1.5)}
    result = ETran().evaluate(pool)
    parts = pd.DataFrame({name: score.details for name, score in result.items()}).T.astype(float)
    scaled = (parts - parts.min()) / (parts.max() - parts.min())
    expected = 0.15 * scaled["energy"] + 0.85 * scaled["lda"]
    assert {name: score.value for name, score in result.items()} == pytest.approx(expected.to_dict())


@pytest.mark.parametrize("d", [16, 64, 256])
def test_energy_of_noise_does_not_depend_on_the_width(d: int) -> None:
    data = noise(4000, d, 2)
    energy = ETran().evaluate({"m": data})["m"].details["energy"]
    assert energy == pytest.approx(0.5, abs=0.3 / d)  # ln E exp(x) of a standard normal x
    published = ETran(reference=True).evaluate({"m": data})["m"].details["energy"]
    assert published == pytest.approx(np.sort(logsumexp(data.x.numpy(), axis=1))[:20].mean())


def test_default_embedding_of_ncti_is_that_of_scikit_learn() -> None:
    data = clusters(90, 5, 4, spread=0.7)
    x, y = data.x.numpy(), data.y.numpy()
    means = np.stack([x[y == k].mean(0) for k in range(4)])
    covariance = ledoit_wolf(x - means[y], assume_centered=True)[0]
    between = np.cov(means[y].T, bias=True)
    vectors = scipy.linalg.eigh(between, covariance)[1][:, -3:]
    expected = np.linalg.norm((x - x.mean(0)) @ vectors, "nuc")
    assert NCTI().evaluate({"m": data})["m"].details["seli"] == pytest.approx(expected, rel=1e-6)


# ---------------------------------------------------------------- PED and SA


def test_ped_is_the_published_walk_of_all_rows() -> None:
    data, general = clusters(60, 4, 3, spread=0.3), noise(50, 4, 2, seed=9).x.numpy() * [1.0, 2.0, 0.5, 0.0]
    x, y = data.x.numpy().copy(), data.y.numpy()
    mean, deviation, first = general.mean(0), np.maximum(general.std(0), 1e-3), 0.0
    for _ in range(6):
        z = (x - mean) / deviation
        centers = [z[y == k].mean(0) for k in range(3)]
        radii = [math.sqrt(z[y == k].var(0).sum()) for k in range(3)]
        delta = np.zeros((3, 4))
        for i in range(3):
            for j in range(3):
                gap = centers[i] - centers[j]
                distance = np.linalg.norm(gap)
                if i != j and distance > 0:
                    overlap = max(0.6 * (radii[i] + radii[j]) - distance, 0)
                    delta[i] += min(0.5 * 0.1**2 * overlap, overlap) * gap / distance
        first = first or np.abs(delta).sum()
        if np.abs(delta).sum() / first <= 0.5:
            break
        x = (z + delta[y]) * deviation + mean
    scorer = PED({"model": Features(general, np.zeros(50, dtype=int))}, base="logme", reference=True)
    assert one(scorer, data) == pytest.approx(one(LogME(reference=True), Features(x, y)), rel=1e-9)
    assert one(scorer, data) != pytest.approx(one(LogME(reference=True), data), rel=1e-3)


def test_ped_leaves_classes_alone_that_do_not_overlap() -> None:
    data = clusters(60, 4, 3, spread=50.0)
    scorer = PED({"model": noise(50, 4, 2)}, base="logme", reference=True)
    assert one(scorer, data) == pytest.approx(one(LogME(reference=True), data))


def test_ped_names_what_its_source_lacks() -> None:
    data = clusters(40, 4, 2)
    with pytest.raises(FeatureError, match=r"model: .*ped\.source an entry 'model'"):
        one(PED(), data)
    with pytest.raises(FeatureError, match=r"model: 4 features, but ped\.source has 5"):
        one(PED({"model": noise(9, 5, 2)}), data)
    with pytest.raises(FeatureError, match=r"^model: ped\.source is empty, NaN"):
        one(PED({"model": Features(torch.full((9, 4), torch.nan), torch.zeros(9, dtype=torch.int64))}), data)


def test_attraction_follows_the_code_or_the_paper() -> None:
    x = torch.tensor([[-1.0], [1.0], [9.0], [11.0]], dtype=torch.float64)  # centers 0 and 10, radii 1
    y = torch.tensor([0, 0, 1, 1])
    belief = torch.eye(2, dtype=torch.float64)[y]
    apart = SA(alpha=0.1)._move(x, y, 2, x, belief).flatten()
    # Both centers move by 0.1 (10 - 0.6 * 2) away from each other, which is the sign of the published code.
    assert apart.tolist() == pytest.approx([-1.88, 0.12, 9.88, 11.88])
    together = SA(alpha=0.1, toward=True)._move(x, y, 2, x, belief).flatten()
    assert together.tolist() == pytest.approx([-0.12, 1.88, 8.12, 10.12])
    # Spread first: each row one unit away from its center, so radii are 2.
    spread = SA(alpha=0.1, spread=True)._move(x, y, 2, x, belief).flatten()
    assert spread.tolist() == pytest.approx([-2 - 0.76, 2 - 0.76, 8 + 0.76, 12 + 0.76])


def test_classes_at_one_place_do_not_push() -> None:
    balls = class_balls(torch.tensor([[0.0], [0.0], [1.0]]).double(), torch.tensor([0, 1, 2]), 3)
    distances, reach = pairwise(balls)
    assert reach.tolist() == [[0.0] * 3] * 3
    assert push_apart(balls.centers, distances, torch.ones(3, 3).double()).flatten().tolist() == [-1.0, -1.0, 2.0]


@pytest.mark.parametrize("base", ["lda", "sfda"])
def test_moving_by_halves_tells_no_labels(base: str) -> None:
    chance = [one(SA(base, alpha=0.1), noise(200, 1000, 5, seed)) for seed in range(4)]  # type: ignore[arg-type]
    assert np.mean(chance) == pytest.approx(0.2, abs=0.04)
    assert one(SA(base, alpha=0.1, reference=True), noise(200, 1000, 5)) > 0.3  # type: ignore[arg-type]


# ---------------------------------------------------------------- nearest neighbours


@pytest.mark.parametrize("k", [1, 4, 5])
def test_knn_is_the_vote_that_scikit_learn_finds(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "_DISTANCES_AT_ONCE", 1000)
    data = clusters(150, 8, 4, spread=0.5)
    x, y = data.x.numpy(), data.y.numpy()
    index = NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x, return_distance=False)[:, 1:]
    points = 0.0
    for row, neighbours in enumerate(index):
        votes = np.bincount(y[neighbours], minlength=4)
        winners = votes == votes.max()
        points += winners[y[row]] / winners.sum()
    assert one(KNN(k), data) == pytest.approx(100 * points / 150, rel=1e-12)


def test_knn_shares_places_and_points_on_ties() -> None:
    y = torch.tensor([0] * 6 + [1] * 4)
    assert one(KNN(5), Features(torch.zeros(10, 3), y)) == pytest.approx(60)  # the larger class wins every vote
    line = Features(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0, 0, 1]))
    assert one(KNN(1), line) == pytest.approx(100 * (1 + 0.5 + 0) / 3)  # the middle row is as near to both
    assert one(KNN(50), line) == one(KNN(1), line)  # the smaller class has one row


def test_neighbours_follow_the_smallest_class() -> None:
    """With 60 classes of two rows, four of five neighbours are of other classes even where classes are tight."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60).repeat_interleave(2)
    centers = torch.randn(60, 64, generator=generator)
    noise_of_rows = torch.randn(120, 64, generator=generator)
    tight, loose = (Features(centers[y] + scale * noise_of_rows, y) for scale in (0.3, 1.0))
    found = KNN().evaluate({"tight": tight, "loose": loose})
    assert found["tight"].value == 100
    assert found["tight"].value > found["loose"].value
    assert found["tight"].details["k"] == 1
    assert KNN().evaluate({"m": clusters(150, 8, 4)})["m"].details["k"] == 5


# ---------------------------------------------------------------- linear probe


@pytest.mark.parametrize("d", [6, 90])
def test_probe_is_logistic_regression_over_folds(d: int) -> None:
    data = clusters(60, d, 3, spread=0.5)
    x, y = StandardScaler().fit_transform(data.x.numpy()), data.y.numpy()
    fold = assign_folds(check("m", data), 4).numpy()
    hits = 0
    for held in (fold == k for k in range(4)):
        hits += (LogisticRegression(max_iter=500).fit(x[~held], y[~held]).predict(x[held]) == y[held]).sum()
    assert one(LinearProbe(folds=4), data) == pytest.approx(100 * hits / 60, abs=1.7)  # one row may lie on the border


def test_probe_counts_folds_that_did_not_converge() -> None:
    data = clusters(60, 6, 3)
    assert LinearProbe(max_iter=1).evaluate({"m": data})["m"].details["unconverged_folds"] == 5
    assert LinearProbe().evaluate({"m": data})["m"].details["unconverged_folds"] == 0


# ---------------------------------------------------------------- LEAD


def test_machines_are_those_of_scikit_learn() -> None:
    data = clusters(80, 6, 3, spread=0.5)
    x, y = data.x.numpy(), data.y.numpy()
    ours = one_vs_rest_svm(torch.cat([data.x, torch.ones(80, 1)], dim=1), data.y, 3).numpy()
    theirs = LinearSVC(C=1.0, dual=False, tol=1e-9, max_iter=10000).fit(x, y)
    np.testing.assert_allclose(ours[:-1].T, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours[-1], theirs.intercept_, atol=1e-5)


@pytest.mark.parametrize("d", [30, 300])
def test_machines_reach_the_minimum_with_more_dimensions_than_rows(d: int) -> None:
    data = clusters(40, d, 3, spread=0.2)
    x = torch.cat([data.x.double() * torch.logspace(0, 2, d), torch.ones(40, 1)], dim=1)
    weights = one_vs_rest_svm(x, data.y, 3).requires_grad_()
    signs = 2.0 * torch.nn.functional.one_hot(data.y, 3).double() - 1
    loss = weights.square().sum() / 2 + (1 - signs * (x @ weights)).clamp_min(0).square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert float(gradient.norm()) < 1e-7 * float((x.T @ signs).norm())


@pytest.mark.parametrize("bias", [True, False])
def test_kernel_trace_is_the_squared_gradient(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lead, "_HIDDEN", (6, 7))
    x = noise(5, 4, 2).x
    weights = [w.requires_grad_() for w in lead.random_network(4, 3, 0, bias)]
    w1, w2, w3, b1, b2 = weights
    b3 = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for row, trace in zip(x, lead.kernel_trace(x, 3, 0, bias), strict=True):
        out = ((row @ w1 + b1).relu() @ w2 + b2).relu() @ w3 + b3
        counted = [*weights, b3] if bias else [w1, w2, w3]
        gradients = torch.autograd.grad(out.sum(), counted)
        assert float(trace) == pytest.approx(sum(float(g.square().sum()) for g in gradients))
    if not bias:
        torch.testing.assert_close(lead.kernel_trace(3 * x, 3, 0, False), 9 * lead.kernel_trace(x, 3, 0, False))


def test_squared_loss_evolution_solves_its_equation() -> None:
    logits, y = noise(6, 3, 3).x, torch.arange(6) % 3
    target, start, rate = np.eye(3)[y], softmax(logits.numpy(), axis=1), 0.7
    solution = solve_ivp(
        lambda _, f: (-rate * (f.reshape(6, 3) - target)).ravel(), (0, 2), start.ravel(), rtol=1e-11, atol=1e-12
    )
    end = solution.y[:, -1].reshape(6, 3)
    np.testing.assert_allclose(end.sum(1), 1)
    ours = lead.evolve_mse(logits, y, torch.full((6,), 2 * rate, dtype=torch.float64))
    np.testing.assert_allclose(ours.exp().numpy(), end[np.arange(6), y], rtol=1e-8)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("rate", [0.3, 40.0])
def test_cross_entropy_evolution_solves_its_equation(classes: int, rate: float) -> None:
    logits, y = 3 * noise(4, classes, 2).x, torch.arange(4) % classes
    ours = lead.evolve_ce(logits, y, torch.full((4,), rate, dtype=torch.float64)).numpy()
    for row in range(4):
        z = logits[row].numpy()
        m0 = z[y[row]] - logsumexp(np.delete(z, y[row])) + math.log(classes - 1)
        m = solve_ivp(lambda _, m: rate * classes / (np.exp(m) + classes - 1), (0, 1), [m0], rtol=1e-10, atol=1e-12)
        expected = m.y[0, -1] - logsumexp([m.y[0, -1], math.log(classes - 1)])
        assert ours[row] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("evolve", [lead.evolve_mse, lead.evolve_ce])
def test_evolution_goes_from_the_logits_to_the_labels(evolve: object) -> None:
    logits, y = torch.cat([noise(6, 3, 3).x, torch.tensor([[0.0, 800.0, 0.0]]).double()]), torch.arange(7) % 3
    times = [evolve(logits, y, torch.full((7,), t, dtype=torch.float64)) for t in (0.0, 0.1, 1.0, 30.0, 1e6)]  # type: ignore[operator]
    torch.testing.assert_close(times[0], logits.log_softmax(1)[torch.arange(7), y])
    assert all((later >= earlier).all() for earlier, later in itertools.pairwise(times))
    assert all((t <= 0).all() for t in times)
    assert float(times[-1].min()) > -1e-3


def test_softening_is_the_likeliest_factor() -> None:
    logits, y = 6 * noise(60, 3, 3).x + 3 * torch.eye(3)[torch.arange(60) % 3], torch.arange(60) % 3
    best = minimize_scalar(
        lambda f: float((f * logits).log_softmax(1)[torch.arange(60), y].sum()) * -1, bounds=(0, 1), method="bounded"
    ).x
    assert lead.softening(logits, y) == pytest.approx(best, abs=1e-5)
    assert lead.softening(torch.eye(3)[y].double(), y) == 1.0


def test_lead_rates() -> None:
    data = clusters(60, 5, 3)
    scorers = LEAD(), LEAD(rate_scale="sqnorm")
    by_kernel, by_norm = (scorer.evaluate({"m": data})["m"].details["rates"] for scorer in scorers)
    assert np.mean(by_kernel) == pytest.approx(1)
    squares = data.x.square().sum(1)
    means = np.array([float(squares[data.y == k].mean()) for k in range(3)])
    np.testing.assert_allclose(by_norm, means / means.mean())
    with pytest.warns(UserWarning, match="leaves nothing of the logits"):
        value = one(LEAD(rate_scale="lr"), Features(1e6 * data.x, data.y))
    assert value == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one(LEAD(fit="train"), data) > one(LEAD(), data)


# ---------------------------------------------------------------- settings and priors


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SFDA(folds=1), r"scorer\.sfda\.folds=1"),
        (lambda: SA(base="ldaa"), r"scorer\.sa\.base=ldaa: not known. Did you mean 'lda'\?"),
        (lambda: PED(base="logm"), r"scorer\.ped\.base=logm: .*'logme'"),
        (lambda: PED(exit_ratio=1.0), r"scorer\.ped\.exit_ratio=1.0"),
        (lambda: KNN(k=0), r"scorer\.knn\.k=0"),
        (lambda: LEAD(time=-1.0), r"scorer\.lead\.time=-1.0"),
        (lambda: LEAD(fit="trian"), r"scorer\.lead\.fit=trian: not known. Did you mean 'train'\?"),
        (lambda: LinearProbe(cost=0.0), r"scorer\.linear_probe\.cost=0.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(build: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        build()  # type: ignore[operator]


class Facts:
    def __init__(self, parameters: int, source_accuracy: float | None) -> None:
        self.parameters, self.source_accuracy = parameters, source_accuracy


def test_priors_of_size_and_source_accuracy() -> None:
    models = {"a": Facts(10, 70.5), "b": Facts(30, None)}
    assert priors.parameter_count(models) == {"a": 10.0, "b": 30.0}
    assert priors.source_accuracy(models) == {"a": 70.5}


def test_mean_rank_elsewhere_by_hand() -> None:
    gap = math.nan
    table = pd.DataFrame(
        {"cars": [1.0, 2, 3, 4], "pets": [90.0, 80, 70, gap], "dtd": [60.0, 60, 50, gap]}, index=list("abcd")
    )
    # On pets a, b, c rank 1, 2, 3 of 3; on dtd a and b share 1.5.
    expected = {"a": -(1 + 1.5) / 6, "b": -(2 + 1.5) / 6, "c": -1.0}
    assert priors.mean_rank_elsewhere(table, "cars") == pytest.approx(expected)
    with pytest.raises(SettingError, match=r"dataset=pet: not known\. Did you mean 'pets'"):
        priors.mean_rank_elsewhere(table, "pet")
    with pytest.raises(DataError, match="cars alone"):
        priors.mean_rank_elsewhere(table[["cars"]], "cars")
