"""Scores of fine-tuned spaces and neighbours, against the numbers of their authors' code."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from reference_features import MODELS, features, labels, reference, source_features

from itm.core.features import Features
from itm.scorers import KNN, LEAD, NCTI, PED, SA, SFDA, ETran, LinearProbe, Scorer

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
