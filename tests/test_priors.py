"""Priors of the ground truth, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from itm.core.errors import DataError, SettingError
from itm.evaluation import priors


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


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    """Two tables of which the second knows fewer models and more datasets."""
    wide = tmp_path / "wide.csv"
    wide.write_text("model,cars,pets\na,10,90\nb,20,80\nc,30,70\n", encoding="utf-8")
    long = tmp_path / "long.csv"
    long.write_text("model,cars,pets,dtd\na,10,90,5\nb,20,80,50\n", encoding="utf-8")
    return [str(wide), str(long)]


def test_the_prior_comes_from_the_table_that_knows_every_model_on_most_datasets(tables: list[str]) -> None:
    assert priors.find_prior(tables, "/data/photos", ["a", "b"]) == pytest.approx({"a": -5 / 6, "b": -4 / 6})
    assert priors.find_prior(tables, "/data/photos", ["a", "b", "c"]) == pytest.approx(dict.fromkeys("abc", -2 / 3))
    assert priors.find_prior(tables, "/data/photos", ["a", "b", "d"]) is None
    assert priors.find_prior(tables, "/data/photos", ["a"]) is None


def test_the_prior_does_not_use_the_run_s_own_dataset(tables: list[str]) -> None:
    assert priors.find_prior(tables[:1], "pets", ["a", "c"]) == {"a": -1.0, "c": -0.5}
    assert priors.find_prior(tables[:1], "/data/cars", ["a", "c"]) == {"a": -0.5, "c": -1.0}


def test_the_paper_s_table_says_nothing_of_controls() -> None:
    models = ["ResNet-34", "ResNet-50"]
    assert set(priors.find_prior(["paper"], "pets", models) or {}) == set(models)
    assert priors.find_prior(["paper"], "pets", models, controls=True) is None


def test_the_table_with_most_of_the_datasets_and_then_of_the_models_is_chosen(tmp_path):
    contents = {"a": "model,x\nm,50\nn,60\n", "b": "model,x,y\nm,51,2\no,3,4\n", "c": "model,x,y\nm,52,2\nn,3,4\n"}
    for name, content in contents.items():
        (tmp_path / f"{name}.csv").write_text(content)
    tables = [str(tmp_path / f"{name}.csv") for name in contents]
    assert priors.best_table(tables, ["x", "y"], ["m", "n"]).loc["m", "x"] == 52
    assert priors.best_table(tables, ["x"], ["m", "n"]).loc["m", "x"] == 50
    assert priors.best_table(tables, ["x", "nowhere"], ["m", "n"]).loc["m", "x"] == 50
    assert priors.best_table(tables, ["nowhere"], ["m"]) is None
    assert priors.best_table(tables, ["x"], ["unknown"]) is None
