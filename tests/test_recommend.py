"""The recommendation: probabilities of known distributions, warnings, sentences, and runs without a spread."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rankings import ranking, recommended
from scipy import stats

import itm
from itm.core.features import Features
from itm.ranking.recommend import Recommendation, best_probabilities, recommend, share_in_words
from itm.scorers import ITM, Combined, LinearProbe, RegularizedHScore, Scorer

pytestmark = pytest.mark.usefixtures("one_thread")
NO_SPREAD = np.zeros((2, 2))


def separated(distance: float, rows: int = 60, classes: int = 3, seed: int = 0) -> Features:
    """Normal features whose class means are ``distance`` apart."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % classes
    means = distance * torch.eye(classes, 8)
    return Features(means[y] + torch.randn(rows, 8, generator=generator), y)


def of(pool: dict[str, Features], scorer: Scorer | str = "combined", seeds: int = 1, **settings) -> Recommendation:
    return recommend(pool, itm.rank(pool, scorer, seeds=seeds), **{"resamples": 6, **settings})


def test_two_models_win_as_student_s_t_with_one_degree_of_freedom_says():
    # The error's unit is |d| / sqrt(2) over the root of a chi-squared; the difference of two errors has sqrt(2) of it.
    found = best_probabilities(np.array([0.0, 1.0]), NO_SPREAD, model_error=0.5)
    assert found[1] == pytest.approx(stats.t.cdf(1 / 0.5, 1), abs=0.01)
    assert found.sum() == pytest.approx(1)


def test_many_models_win_as_a_normal_error_says():
    scores = np.concatenate([np.full(500, -1.0), np.full(498, 1.0), [9.0, 8.0]])  # the two that count
    error = 0.5 / scores.std(ddof=1)
    found = best_probabilities(scores, np.zeros((2, 1000)), model_error=error)
    assert found[-2] == pytest.approx(stats.norm.cdf(1 / (0.5 * np.sqrt(2))), abs=0.015)


def test_deviations_alone_give_their_frequencies():
    scores = np.array([0.0, 1.0, 5.0])
    deviations = np.array([[0, 0, 0], [2, 0, -5], [0, 0, 0], [0, 0, -4.5]])
    assert best_probabilities(scores, deviations, 0.0) == pytest.approx([1 / 4, 1 / 4, 1 / 2], abs=0.015)


def test_equal_models_share_the_probability_and_models_that_move_together_keep_their_order():
    assert best_probabilities(np.array([3.0, 3.0, 1.0]), np.zeros((2, 3)), 0.0) == pytest.approx([0.5, 0.5, 0])
    together = np.random.default_rng(0).normal(size=(50, 1)) * np.ones((1, 2))
    assert best_probabilities(np.array([0.0, 0.1]), together, 0.0)[1] == 1.0


@pytest.mark.parametrize("scorer", [RegularizedHScore(), LinearProbe(), Combined(members=["logme", "knn"])])
def test_a_clear_lead_is_surer_than_twins(scorer):
    clear = of({"good": separated(4), "fair": separated(1, seed=1), "poor": separated(0.1, seed=2)}, scorer)
    assert clear.model == "good"
    assert clear.probability > 0.75
    twins = of({"a": separated(1), "b": separated(1)}, scorer)
    assert twins.probabilities == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.02)
    assert twins.model == "a", "of equal models the first of the ranking"
    assert "The first two models have the same score." in twins.warnings


def test_a_lead_within_its_spread_is_said():
    close = of({"a": separated(1), "b": separated(1, seed=3)})
    assert any("lead of the first model is smaller than its spread" in warning for warning in close.warnings)
    clear = of({"a": separated(1), "b": separated(4)})
    assert not any("lead" in warning for warning in clear.warnings)


def test_the_same_seed_gives_the_same_recommendation():
    pool = {"a": separated(1), "b": separated(1.1, seed=1)}
    assert of(pool, seed=3) == of(pool, seed=3, jobs=2)
    assert of(pool, seed=3).spread != of(pool, seed=4).spread


def test_warnings_name_controls_and_small_classes():
    pool = {"control": separated(2), "a": separated(1, seed=1), "b": separated(0.2, seed=2)}
    assert "An untrained control is in the upper half (control)" in of(pool, controls=["control"]).warnings[0]
    assert not any("untrained" in warning for warning in of(pool, controls=["b"]).warnings)
    few = of({name: separated(1, rows=18, seed=seed) for seed, name in enumerate("ab")})
    assert "3 of 3 classes have fewer than 10 images (the smallest 6)" in few.warnings[0]


def test_a_scorer_that_is_not_resampled_shows_its_spread_over_seeds():
    pool = {"a": separated(2), "b": separated(0.5, seed=1)}
    quick = ITM(iterations=60, batch_size=32)
    found = of(pool, quick, seeds=3)
    ranked = itm.rank(pool, quick, seeds=3)
    assert found.spread == pytest.approx({entry.model: entry.std for entry in ranked.entries})
    assert set(found.probabilities) == {"a", "b"}


@pytest.mark.parametrize(
    ("scorer", "resamples", "words"),
    [
        (
            ITM(iterations=20, batch_size=32),
            30,
            "itm ran with one seed and takes too long to be resampled; set seeds=3",
        ),
        ("combined", 1, "resamples=1 and one seed show no spread; set resamples=30."),
    ],
)
def test_one_seed_and_one_resample_give_a_recommendation_without_a_probability(scorer, resamples, words):
    pool = {"a": separated(2), "b": separated(0.5, seed=1)}
    found = of(pool, scorer, resamples=resamples)
    assert found.probability is None
    assert found.sentence.startswith(f"Fine-tune {found.model}, the first by")
    assert words in found.sentence
    assert "\n" not in found.sentence


def test_a_single_model_is_recommended_without_a_comparison():
    assert of({"a": separated(1)}).sentence == (
        "Fine-tune a, the first by combined. It is the only model with a score: there is nothing to compare."
    )


def test_images_that_cannot_be_halved_give_a_recommendation_without_a_probability():
    one_group = {
        name: Features(part.x, part.y, groups=torch.zeros(60, dtype=torch.int64))
        for name, part in (("a", separated(1)), ("b", separated(3)))
    }
    found = of(one_group, RegularizedHScore())
    assert found.probability is None
    assert found.sentence.startswith("Fine-tune b, the first by regularized_hscore.")


def test_models_without_a_score_take_no_part():
    broken = Features(torch.full((60, 8), torch.nan), torch.arange(60) % 3)
    found = of({"broken": broken, "a": separated(2), "b": separated(0.5, seed=1)})
    assert set(found.probabilities) == {"a", "b"}


def test_the_sentence_names_the_smallest_of_those_within_the_noise():
    one = ranking(x=(3.0,), y=(2.0,), z=(1.0,))
    assert recommended(one, x=0.6, y=0.3, z=0.1).sentence == (
        "Fine-tune x (best with probability 0.60). y is within the noise."
    )
    sized = Recommendation("x", "itm", {"x": 0.6, "y": 0.3, "z": 0.2}, parameters={"x": 80e6, "y": 60e6, "z": 40e6})
    assert sized.sentence.endswith("z is within the noise at half the parameters.")
    assert recommended(one, x=0.4, y=0.3, z=0.2).sentence.endswith("y and z are within the noise.")
    assert recommended(one, x=0.9, y=0.05, z=0.05).sentence == "Fine-tune x (best with probability 0.90)."
    assert "probability above 0.99" in recommended(one, x=0.999, y=0.001).sentence


def test_shares_in_words():
    shares = (0.25, 0.34, 0.49, 0.62)
    assert [share_in_words(share) for share in shares] == [
        "a quarter of the",
        "a third of the",
        "half the",
        "62 % of the",
    ]
