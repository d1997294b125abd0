"""Analyses of features and trained maps, against known values."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from synthetic import clusters, noise

from itm.analysis.distances import distance_statistics
from itm.analysis.evolution import embedding_evolution
from itm.analysis.similarity import subspace_similarity, wz_similarity
from itm.core.errors import SettingError
from itm.dva.adaptive import class_distance
from itm.scorers import ITM

QUICK = ITM(iterations=10, evaluate_every=10)


def basis(dim: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, width, generator=generator, dtype=torch.float64)).Q


def test_similarity_is_the_mean_squared_cosine_of_the_principal_angles():
    u, v = basis(12, 3, 0), basis(12, 5, 1)
    expected = np.mean(np.cos(subspace_angles(u.numpy(), v.numpy())) ** 2)
    assert subspace_similarity(u, v) == pytest.approx(expected)
    assert subspace_similarity(u, u @ basis(3, 3, 2)) == pytest.approx(1)
    assert math.isnan(subspace_similarity(u, basis(11, 3, 0)))
    assert subspace_similarity(u, v, "larger") == pytest.approx(expected * 3 / 5)


def test_random_subspaces_are_alike_by_chance_as_the_docstring_says():
    found = [subspace_similarity(basis(768, 100, 2 * seed), basis(768, 100, 2 * seed + 1)) for seed in range(3)]
    assert np.mean(found) == pytest.approx(100 / 768, rel=0.02)
    cars = [subspace_similarity(basis(768, 100, seed), basis(768, 196, seed + 9), "larger") for seed in range(3)]
    assert np.mean(cars) == pytest.approx(100 / 768, rel=0.02), "more classes on one side change nothing"


def test_maps_of_several_datasets_meet_in_one_folder(tmp_path, one_thread):
    pool = {"a": clusters(40, 8, 3), "b": clusters(40, 8, 3, seed=5), "wide": clusters(40, 9, 3)}
    wz_similarity(pool, QUICK, "one", tmp_path)
    table, figure = wz_similarity(pool, QUICK, "other/one", tmp_path)
    assert list(table["pair"]) == [f"{m} on {d}" for d in ("one", "other/one") for m in ("a", "b", "wide")]
    values = table.drop(columns="pair").to_numpy()
    assert values == pytest.approx(values.T, nan_ok=True)
    assert np.diag(values) == pytest.approx(1)
    assert values[0, 3] == pytest.approx(1), "the same features give the same map"
    assert np.isnan(values[0, 2])
    assert figure.axes


def test_an_unknown_divisor_is_refused_before_training(tmp_path):
    with pytest.raises(SettingError, match="divide_by=mean"):
        wz_similarity({}, QUICK, "one", tmp_path, divide_by="mean")


def test_distances_have_the_mean_that_eq_9_takes(one_thread):
    pool = {"noise": noise(60, 16, 3), "clusters": clusters(60, 16, 3, spread=5.0)}
    table, figure = distance_statistics(pool, QUICK, "made up")
    table = table.set_index(["standardize", "model"])
    for (standardize, model), row in table.iterrows():
        assert row["mean"] == pytest.approx(class_distance(pool[model].x, pool[model].y, standardize))
        assert row["5%"] < row["50%"] < row["95%"]
    ratio = table.loc["per_dim", "mean"] / table.loc["rms", "mean"]
    assert ratio.to_numpy() == pytest.approx(4)
    assert table.loc[("rms", "clusters"), "mean"] < table.loc[("rms", "noise"), "mean"]
    assert len(figure.axes) == 2


def test_evolution_ends_at_the_score_and_passes_the_curve(one_thread):
    pool = {"a": clusters(60, 8, 3, spread=0.5)}
    itm = ITM(iterations=10, evaluate_every=5, eta=0.1)
    table, figure = embedding_evolution(pool, itm, "made up")
    curve = itm.evaluate(pool)["a"].details["curve"]
    assert list(table["iteration"]) == [1, 5, 10]
    assert table["accuracy"].iloc[1:].to_list() == pytest.approx([curve[5], curve[10]])
    plain = dataclasses.replace(itm, heldout="plain").evaluate(pool)["a"].details["curve"]
    assert table["plain"].iloc[1:].to_list() == pytest.approx([plain[5], plain[10]])
    assert len(figure.axes) == 3
    assert figure.axes[0].get_title(loc="left") == f"{table['accuracy'][0]:.1%}"
