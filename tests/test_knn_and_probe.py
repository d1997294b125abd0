"""Nearest neighbours and the linear probe, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from synthetic import clusters, one

from itm.core.features import Features
from itm.scorers import KNN, LinearProbe, knn
from itm.scorers.base import check
from itm.scorers.common.folds import assign_folds

pytestmark = pytest.mark.usefixtures("one_thread")


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
