"""PED and SA: how classes move before a base score."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from synthetic import clusters, noise, one

from itm.core.errors import FeatureError
from itm.core.features import Features
from itm.scorers import PED, SA, LogME
from itm.scorers.common.displacement import class_balls, pairwise, push_apart

pytestmark = pytest.mark.usefixtures("one_thread")


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
