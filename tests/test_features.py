"""Features take arrays, lists, data frames and text labels, and refuse the rest in one line."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from itm.core.errors import FeatureError
from itm.core.features import Features

X = np.arange(8, dtype=np.float32).reshape(4, 2)
Y = [0, 1, 0, 1]
WORDS = ["dog", "cat", "dog", "cat"]


@pytest.mark.parametrize(
    "x",
    [
        pd.DataFrame(X),
        pd.DataFrame({"a": X[:, 0].astype(object), "b": X[:, 1]}),
        pd.DataFrame({"a": pd.array(X[:, 0], dtype="Float32"), "b": X[:, 1]}),
        X.tolist(),
        np.ascontiguousarray(X[::-1])[::-1],
        np.asfortranarray(X),
    ],
    ids=["frame", "object column", "nullable column", "list", "reversed", "by columns"],
)
def test_features_of_every_container_are_the_same(x: object) -> None:
    assert Features(x, Y).x.tolist() == X.tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "y",
    [
        WORDS,
        np.array(WORDS),
        np.array(WORDS, dtype=object),
        np.array(WORDS, dtype="S3"),
        pd.Series(WORDS),
        pd.Series(WORDS, dtype="string"),
        pd.Series(WORDS, dtype="category"),
    ],
    ids=["list", "array", "objects", "bytes", "series", "strings", "category"],
)
def test_text_labels_are_numbered_in_sorted_order(y: object) -> None:
    made = Features(X, y, groups=y)  # type: ignore[arg-type]
    assert made.y.tolist() == [1, 0, 1, 0]
    assert made.groups is not None
    assert made.groups.tolist() == [1, 0, 1, 0]


def test_read_only_memory_gives_no_warning() -> None:
    x = X.copy()
    x.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Features(x, Y).x.shape == (4, 2)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (pd.DataFrame({"a": X[:, 0], "name": WORDS}), Y, "x mixes texts and other values, such as 'dog'; use one type"),
        (pd.DataFrame({"name": WORDS}), Y, "x must be floating-point, found text; keep the numeric columns only"),
        (X.astype(int), Y, "x must be floating-point, found torch.int64"),
        (X, ["dog", None, "dog", "cat"], "y mixes texts and other values, such as None"),
        (X, ["dog", float("nan"), "dog", "cat"], "y mixes texts and other values, such as nan"),
        (X, ["dog", 1, "dog", "cat"], "y mixes texts and other values, such as 1"),
        (X, pd.Series([0, None, 1, 0]), "y must be integer or text, found torch.float64"),
        (X, pd.DataFrame({"y": Y}), r"y must have 1 dimension\(s\), found shape \(4, 1\)"),
        (X, [[0], [1, 2], [0], [1]], "y must be an array of numbers, found list"),
        (X, np.array(WORDS[:3]), "x has 4 rows, y has 3"),
        (
            X,
            np.array(["2020-01-01"] * 4, dtype="datetime64[D]"),
            r"y must be an array of numbers, found datetime64\[D\]",
        ),
        (X, "dog", "y must be an array of numbers, found str"),
        (None, Y, "x must be an array of numbers, found NoneType"),
    ],
)
def test_anything_else_is_refused_in_one_line(x: object, y: object, message: str) -> None:
    with pytest.raises(FeatureError, match=f"^Features: {message}") as caught:
        Features(x, y)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
