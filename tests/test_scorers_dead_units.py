"""Every ``reference=True`` score equals its published formula on features with dead units, usual after a ReLU.

The formulas are written out in numpy and scikit-learn, in all dimensions, including those that are always zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from scipy.stats import spearmanr
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler
from synthetic import one

import itm.scorers
from itm.core.features import Features
from itm.scorers import (
    EMMS,
    GBC,
    KNN,
    NCTI,
    NLEEP,
    PARC,
    PED,
    SA,
    SFDA,
    ETran,
    HScore,
    LogME,
    RegularizedHScore,
    Scorer,
    TransRate,
)

pytestmark = pytest.mark.usefixtures("one_thread")

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Formula = Callable[[Array, Labels], float]

ROWS, WIDTH, DEAD, CLASSES = 240, 96, 24, 3
SCALES = [0.05, 2.0]  # several published codes switch by the scale


def rectified(scale: float, seed: int = 0) -> tuple[Array, Labels]:
    """Rectified Gaussian classes, ``[N, D]``, of whose units a quarter is zero for every row."""
    rng = np.random.default_rng(seed)
    y = np.arange(ROWS) % CLASSES
    centers = 0.4 * rng.normal(size=(CLASSES, WIDTH))
    x = scale * np.maximum(rng.normal(size=(ROWS, WIDTH)) + centers[y], 0)
    x[:, rng.choice(WIDTH, DEAD, replace=False)] = 0
    return x, y


def class_means(x: Array, y: Labels) -> Array:
    return np.stack([x[y == c].mean(0) for c in range(CLASSES)])


def h_score(x: Array, y: Labels) -> float:
    return float(np.trace(np.linalg.pinv(np.cov(x.T), rcond=1e-15) @ np.cov(class_means(x, y)[y].T)))


def regularized_h_score(x: Array, y: Labels) -> float:
    x = x - x.mean(0)
    covariance, share = ledoit_wolf(x)
    return float(np.trace(np.linalg.pinv(covariance, rcond=1e-15) @ ((1 - share) * np.cov(class_means(x, y)[y].T))))


def logme(x: Array, y: Labels) -> float:
    """The fixed point with all ``D`` eigenvalues."""
    n, d = x.shape
    values, vectors = np.linalg.eigh(x.T @ x)
    values = values.clip(0)
    evidences = []
    for c in range(CLASSES):
        target = (y == c).astype(float)
        projected = np.zeros(d)
        alive = values > 1e-9 * values.max()
        projected[alive] = (x @ vectors[:, alive] / np.sqrt(values[alive])).T @ target
        squares = projected**2
        rest = target @ target - squares.sum()
        alpha = beta = 1.0
        for _ in range(11):
            t = alpha / beta
            gamma = (values / (values + t)).sum()
            m2 = (values * squares / (t + values) ** 2).sum()
            res2 = (squares / (1 + values / t) ** 2).sum() + rest
            alpha, beta = gamma / (m2 + 1e-5), (n - gamma) / (res2 + 1e-5)
            if abs(alpha / beta - t) / t <= 1e-3:
                break
        evidence = d / 2 * math.log(alpha) + n / 2 * math.log(beta) - 0.5 * np.log(alpha + beta * values).sum()
        evidences.append((evidence - beta / 2 * res2 - alpha / 2 * m2 - n / 2 * math.log(2 * math.pi)) / n)
    return float(np.mean(evidences))


def transrate(x: Array, y: Labels) -> float:
    def rate(f: Array) -> float:
        return float(0.5 * np.linalg.slogdet(np.eye(WIDTH) + f.T @ f / (len(f) * 1e-4))[1])

    x = x - x.mean(0)
    return rate(x) - float(np.mean([rate(x[y == c]) for c in range(CLASSES)]))


def gbc(x: Array, y: Labels) -> float:
    means = class_means(x, y)
    variances = [float(np.maximum(x[y == c].var(0, ddof=1), 1e-4).mean()) for c in range(CLASSES)]
    total = 0.0
    for i in range(CLASSES):
        for j in range(CLASSES):
            mean = (variances[i] + variances[j]) / 2
            logs = math.log(mean) - math.log(variances[i] * variances[j]) / 2
            if i != j:
                total -= math.exp(-((means[i] - means[j]) ** 2).sum() / mean / 8 - logs / 2)
    return total


def emms(x: Array, y: Labels) -> float:
    targets = np.eye(CLASSES)[y]
    x, targets = ((part - part.mean(0)) / (part.std(0) + 1e-8) for part in (x, targets))
    residual = targets - x @ np.linalg.lstsq(x, targets, rcond=None)[0]
    return float(-(residual**2).sum() / len(x) * CLASSES)


def published_pca(x: Array, components: int) -> Array:
    pca = PCA(components, svd_solver="randomized", iterated_power=1, random_state=1919)
    reduced: Array = pca.fit_transform(x)
    return reduced


def parc(x: Array, y: Labels) -> float:
    rows = StandardScaler().fit_transform(published_pca(x, 32))
    upper = np.triu_indices(len(x), 1)
    distances = np.round(1 - np.corrcoef(rows), 12)[upper]
    return float(100 * spearmanr(distances, (y[:, None] != y)[upper]).statistic)


def nleep(x: Array, y: Labels) -> float:
    reduced = PCA(0.8, svd_solver="full").fit_transform(x)
    theta = GaussianMixture(5 * CLASSES, random_state=0).fit(reduced).predict_proba(reduced)
    conditional = np.stack([theta[y == c].sum(0) for c in range(CLASSES)]) / theta.sum(0)
    return float((conditional[y] * theta).sum(1).mean())


def knn(x: Array, y: Labels) -> float:
    distances = ((x[:, None] - x) ** 2).sum(2)
    np.fill_diagonal(distances, np.inf)
    hits = 0.0
    for row, nearest in enumerate(np.argsort(distances, axis=1)[:, :5]):
        votes = np.bincount(y[nearest], minlength=CLASSES)
        hits += votes.argmax() == y[row] if votes.max() > 1 else votes[y[row]] / 5
    return 100 * hits / len(x)


def nearest_centroid(x: Array, y: Labels) -> Array:
    means = class_means(x, y)
    bias = np.log(np.bincount(y) / len(y)) - 0.5 * (means**2).sum(1)
    posterior: Array = softmax(x @ means.T + bias, axis=1)
    return posterior


def lda(x: Array, y: Labels) -> float:
    return float(nearest_centroid(x, y)[np.arange(len(x)), y].mean())


def energy(x: Array, y: Labels) -> float:
    return float(np.sort(logsumexp(x, axis=1))[: 5 * len(x) // 1000].mean())


def sfda(x: Array, y: Labels) -> float:
    def fit(x: Array, share: float | None) -> tuple[Array, float]:
        means = class_means(x, y)
        within = np.cov((x - means[y]).T, bias=True)
        if share is None:
            v = within.sum(1)
            for _ in range(3):
                p = within @ v / np.linalg.norm(within @ v)
                v = within @ p / np.linalg.norm(within @ p)
            share = max(math.exp(-5 * float(np.linalg.norm(within @ p))), 1e-10)
        width = len(within)
        weights = np.linalg.solve((1 - share) * within + share * np.trace(within) / width * np.eye(width), means.T).T
        bias = np.log(np.bincount(y) / len(y)) - 0.5 * (weights * means).sum(1)
        return softmax(x @ weights.T + bias, axis=1), share

    first, share = fit(x, None)
    keep = softmax(first, axis=1)[np.arange(len(x)), y][:, None]
    means = class_means(x, y)
    others = np.stack([np.delete(means, c, axis=0).mean(0) for c in range(CLASSES)])
    second, _ = fit(keep * x + (1 - keep) * others[y], share)
    return float(second[np.arange(len(x)), y].mean())


def ncti(x: Array, y: Labels) -> dict[str, float]:
    reduced = PCA(64, svd_solver="full").fit_transform(x)
    share = max(math.exp(-np.linalg.eigvalsh(np.cov(reduced.T))[::-1][:32].sum()), 1e-10)
    settings = {"solver": "svd"} if share == 1e-10 else {"solver": "eigen", "shrinkage": share}
    discriminant = LinearDiscriminantAnalysis(**settings).fit(reduced, y)
    embedding, posterior = discriminant.transform(reduced), discriminant.predict_proba(reduced)
    blocks = [np.linalg.norm(posterior[y == c], "nuc") for c in range(CLASSES)]
    return {
        "seli": float(np.linalg.norm(embedding - embedding.mean(0), "nuc")),
        "ncc": float(posterior[np.arange(len(x)), y].mean()),
        "vc": math.log(sum(blocks)),
    }


def balls(x: Array, y: Labels) -> tuple[Array, Array]:
    return class_means(x, y), np.array([math.sqrt(x[y == c].var(0).sum()) for c in range(CLASSES)])


def ped(source: Array, base: Formula, x: Array, y: Labels) -> float:
    mean, deviation, first = source.mean(0), np.maximum(source.std(0), 1e-3), 0.0
    for _ in range(6):
        z = (x - mean) / deviation
        centers, radii = balls(z, y)
        shift = np.zeros_like(centers)
        for i in range(CLASSES):
            for j in range(CLASSES):
                gap = centers[i] - centers[j]
                overlap = max(0.6 * (radii[i] + radii[j]) - np.linalg.norm(gap), 0)
                if i != j:
                    shift[i] += min(0.005 * overlap, overlap) * gap / np.linalg.norm(gap)
        movement = np.abs(shift).sum()
        first = first or movement
        if movement / first <= 0.5:
            break
        x = (z + shift[y]) * deviation + mean
    return base(x, y)


def sa(base: Formula, x: Array, y: Labels) -> float:
    leading = np.linalg.eigvalsh(np.cov(x.T, bias=True))[-2:].sum()
    if max(math.exp(-5 * leading / 2), 1e-10) >= 1e-9:
        return base(x, y)
    x = published_pca(x, 64)
    centers, radii = balls(x, y)
    shift = np.zeros_like(centers)
    for i in range(CLASSES):
        for j in range(CLASSES):
            gap = centers[i] - centers[j]
            distance = np.linalg.norm(gap)
            if i != j:
                shift[i] += 0.005 * (distance - 0.6 * (radii[i] + radii[j])) * gap / distance
    return base(x + shift[y], y)


FORMULAS: list[tuple[Scorer, Formula]] = [
    (HScore(reference=True), h_score),
    (RegularizedHScore(reference=True), regularized_h_score),
    (LogME(reference=True), logme),
    (TransRate(reference=True), transrate),
    (GBC(reference=True), gbc),
    (EMMS(reference=True), emms),
    (PARC(reference=True), parc),
    (NLEEP(reference=True), nleep),
    (KNN(reference=True), knn),
    (SFDA(reference=True), sfda),
    (SA("lda", reference=True), partial(sa, lda)),
    (SA("sfda", reference=True), partial(sa, sfda)),
    (SA("logme", reference=True), partial(sa, logme)),
]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("scorer", "formula"), FORMULAS, ids=lambda value: getattr(value, "name", ""))
def test_published_score_with_dead_units(scorer: Scorer, formula: Formula, scale: float) -> None:
    x, y = rectified(scale)
    assert one(scorer, Features(x, y)) == pytest.approx(formula(x, y), rel=1e-6)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("base", "formula"), [("sfda", sfda), ("logme", logme)])
def test_published_ped_with_dead_units(base: str, formula: Formula, scale: float) -> None:
    x, y = rectified(scale)
    source = rectified(scale, seed=1)[0] * (x.any(0))  # the same units are dead in the source data
    scorer = PED({"model": Features(source, y)}, base=base, reference=True)  # type: ignore[arg-type]
    assert one(scorer, Features(x, y)) == pytest.approx(ped(source, formula, x, y), rel=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_published_parts_with_dead_units(scale: float) -> None:
    x, y = rectified(scale)
    pool = {"model": Features(x, y)}
    assert ETran(reference=True).evaluate(pool)["model"].details == pytest.approx(
        {"energy": energy(x, y), "lda": lda(x, y)}, rel=1e-9
    )
    assert NCTI(reference=True).evaluate(pool)["model"].details == pytest.approx(ncti(x, y), rel=1e-6)


def test_every_scorer_with_a_published_variant_is_covered() -> None:
    published = {cls for cls in itm.scorers.BY_NAME.values() if "reference" in cls.__dataclass_fields__}
    assert published == {type(scorer) for scorer, _ in FORMULAS} | {PED, ETran, NCTI}


def test_dead_units_do_not_change_published_logme() -> None:
    x, y = rectified(1.0)
    alive = np.ascontiguousarray(x[:, x.any(0)])
    assert alive.shape[1] == WIDTH - DEAD
    assert one(LogME(reference=True), Features(x, y)) == pytest.approx(one(LogME(reference=True), Features(alive, y)))
