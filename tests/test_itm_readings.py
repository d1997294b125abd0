"""Settings of ITM beyond the paper's protocol: folds, evaluations, epochs, shrinkage; against explicit steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power
from synthetic import clusters

from itm.core.errors import SettingError
from itm.core.features import Features
from itm.dva.scaling import whiten
from itm.scorers import ITM
from itm.scorers.base import check
from itm.scorers.common.folds import assign_folds
from itm.scorers.itm import _Run

SHORT = {"iterations": 20, "evaluate_every": 5, "batch_size": 32}


def one(features: Features, seed: int = 0, **settings):
    return ITM(**(SHORT | settings), seed=seed).evaluate_one(check("model", features))


def test_with_folds_every_row_is_held_out_once_and_counts_alike(monkeypatch):
    """The pooled curve is the mean of the folds' accuracies weighted by their rows, each trained by itself."""
    features = clusters(67, 8, 3)
    samples = check("model", features)
    fold = assign_folds(samples, 4, seed=2)
    assert sorted(torch.bincount(fold).tolist()) == [16, 17, 17, 17], "folds of two sizes"
    expected = {}
    for number in range(4):
        run = _Run(2, torch.nonzero(fold != number).flatten(), torch.nonzero(fold == number).flatten())
        with monkeypatch.context() as patched:
            patched.setattr(ITM, "_splits", lambda *_, run=run: [run])
            alone = one(features, seed=2).details["curve"]
        for step, accuracy in alone.items():
            expected[step] = expected.get(step, 0) + accuracy * len(run.held_out) / 67
    together = one(features, seed=2, folds=4)
    assert together.details["curve"] == pytest.approx(expected, abs=1e-9)
    assert together.value == max(together.details["curve"].values())
    hits = together.value * 67
    assert hits == pytest.approx(round(hits)), "steps of one row of all"


def test_folds_never_cut_a_group():
    features = clusters(60, 8, 3)
    grouped = Features(features.x, features.y, groups=torch.arange(60) // 5)
    runs = ITM(folds=3)._splits(check("model", grouped), 0)
    held = [set(grouped.groups[run.held_out].tolist()) for run in runs]
    assert sum(len(groups) for groups in held) == 12
    assert set.union(*held) == set(range(12))
    assert 0 < one(grouped, folds=3).value <= 1


def test_seeds_with_folds_score_as_each_alone():
    features = clusters(70, 8, 3)
    together = ITM(**SHORT, folds=5).evaluate_seeds(check("model", features), [1, 4])
    for seed, score in zip((1, 4), together, strict=True):
        assert score.value == pytest.approx(one(features, seed=seed, folds=5).value, abs=1 / 70)


@pytest.mark.parametrize("measure", ["accuracy", "likelihood", "miou"])
def test_the_score_is_the_best_the_last_or_the_mean_of_the_evaluations(measure):
    features = clusters(90, 6, 3)
    found = {which: one(features, measure=measure, evaluation=which) for which in ("best", "last", "mean")}
    name = {"accuracy": "curve", "likelihood": "heldout_losses", "miou": "mious"}[measure]
    values = list(found["best"].details[name].values())
    assert len(values) == 4
    values = [-value for value in values] if measure == "likelihood" else values
    assert found["best"].value == max(values)
    assert found["last"].value == values[-1]
    assert found["mean"].value == pytest.approx(np.mean(values))


@pytest.mark.parametrize(("rows", "batches"), [(50, 15), (100, 30), (10, 8)])
def test_the_number_of_batches_follows_the_rows(rows, batches):
    """Six passes over four fifths of the rows in batches of 16; 8 rows train in batches of 8, so 6 passes are 6."""
    curve = one(clusters(rows, 6, 2), epochs=6, batch_size=16, evaluate_every=1).details["curve"]
    assert max(curve) == (batches if rows > 10 else 6)


def test_whitening_multiplies_by_the_inverse_root_of_the_shrunk_covariance():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ torch.diag(
        torch.tensor([5.0, 1.0, 1.0, 0.1, 0.0], dtype=torch.float64)
    )
    covariance = np.cov(x.numpy().T, bias=True)
    shrunk = 0.7 * covariance / (np.trace(covariance) / 5) + 0.3 * np.eye(5)
    expected = (x - x.mean(0)).numpy() @ fractional_matrix_power(shrunk, -0.5)
    np.testing.assert_allclose(whiten(x, 0.3).numpy(), expected, atol=1e-10)
    torch.testing.assert_close(whiten(x, 1.0), x - x.mean(0))
    wide = whiten(x.T.contiguous(), 0.3)  # fewer rows than columns
    assert wide.shape == (5, 40)
    assert torch.isfinite(wide).all()
    assert not whiten(torch.full((6, 3), 7.0), 0.5).any()


def test_a_shrunk_covariance_shows_directions_of_small_variance():
    """Two classes that differ in one small direction among noisy ones."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    x = torch.randn(400, 10, generator=generator) * 5
    x[:, 0] = y + 0.1 * torch.randn(400, generator=generator)
    features = Features(x, y)
    plain, shrunk = (one(features, iterations=200, shrinkage=a, heldout="plain").value for a in (None, 1e-4))
    assert shrunk > 0.95
    assert shrunk > plain + 0.2


def test_a_map_wider_than_the_rows_scores():
    assert 0 < one(clusters(30, 6, 3), dim=64).value <= 1


@pytest.mark.parametrize(
    "settings", [{"folds": 0}, {"epochs": 0}, {"evaluation": "first"}, {"shrinkage": 0}, {"shrinkage": 1.5}], ids=str
)
def test_wrong_values_are_named(settings):
    (name,) = settings
    with pytest.raises(SettingError, match=rf"scorer\.itm\.{name}="):
        ITM(**settings)
