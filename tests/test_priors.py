"""Priors of the ground truth, by hand."""

from __future__ import annotations

import math

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
