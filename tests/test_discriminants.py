"""Discriminant analysis, SFDA, ETran and NCTI, against scikit-learn and explicit loops."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
from scipy.special import logsumexp, softmax
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from synthetic import clusters, noise, one

from itm.core.features import Features
from itm.scorers import LEAD, NCTI, SA, SFDA, ETran, LinearProbe, Scorer
from itm.scorers.base import check
from itm.scorers.common.folds import assign_folds
from itm.scorers.common.lda import Scatter, out_of_fold_posterior

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_discriminant_is_that_of_scikit_learn(shrinkage: float) -> None:
    data = clusters(90, 5, 4, spread=0.7)
    x, y = data.x - data.x.mean(0), data.y
    ours = Scatter.from_rows(x, y, 4, 5).fit(shrinkage).posterior(x)
    within = Scatter.from_rows(x, y, 4, 5).within.numpy()
    blended = (1 - shrinkage) * within + shrinkage * np.trace(within) / 5 * np.eye(5)

    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage or None).fit(x.numpy(), y.numpy())
    if shrinkage:  # scikit-learn blends class by class, which is the same where the target is linear in the covariance
        np.testing.assert_allclose(lda.covariance_, blended, rtol=1e-9)
    np.testing.assert_allclose(ours.numpy(), lda.predict_proba(x.numpy()), rtol=1e-7)


@pytest.mark.parametrize("d", [6, 70])
def test_within_class_shrinkage_is_that_of_scikit_learn(d: int) -> None:
    data = clusters(50, d, 3)
    scatter = Scatter.from_rows(data.x, data.y, 3, d)
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
    data = clusters(400, 5, 2, spread=0.5)
    moved = Features(300 * data.x, data.y) if isinstance(scorer, LEAD) else Features(300 * data.x + 7, data.y)
    assert one(scorer, moved) == pytest.approx(one(scorer, data), rel=1e-4)


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
