"""Folds of the cross-validated scores: they follow the content of the rows."""

from __future__ import annotations

import pytest
import torch
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from synthetic import clusters, noise, one

from itm.core.errors import FeatureError
from itm.core.features import Features
from itm.scorers import LinearProbe
from itm.scorers.base import check
from itm.scorers.common.folds import assign_folds, canonical_rows, derive, row_keys

pytestmark = pytest.mark.usefixtures("one_thread")


def test_folds_follow_the_rows_and_balance_the_classes() -> None:
    data = clusters(97, 6, 4)
    fold = assign_folds(check("m", data), 5)
    order = torch.randperm(97, generator=torch.Generator().manual_seed(1))
    renamed = torch.tensor([9, 2, 40, 7])[data.y]
    moved = Features(data.x[order].float().double(), renamed[order])
    rounded = Features(data.x.float(), data.y)
    assert torch.equal(assign_folds(check("m", moved), 5), assign_folds(check("m", rounded), 5)[order])
    table = torch.stack([torch.bincount(data.y[fold == k], minlength=4) for k in range(5)])
    assert int((table.max(0).values - table.min(0).values).max()) <= 1
    assert not torch.equal(fold, assign_folds(check("m", data), 5, seed=1))


def test_folds_never_split_a_group() -> None:
    data = noise(60, 3, 2)
    groups = torch.arange(60) // 5
    fold = assign_folds(check("m", Features(data.x, data.y, groups=groups)), 4)
    assert all(len(fold[groups == g].unique()) == 1 for g in range(12))
    assert torch.bincount(fold).tolist() == [15] * 4
    with pytest.raises(FeatureError, match="one group"):
        assign_folds(check("m", Features(data.x, data.y, groups=torch.zeros(60, dtype=torch.int64))), 4)


def with_twins() -> Features:
    """60 distinct rows of three classes, the first 30 of them twice."""
    data = clusters(60, 4, 3)
    return Features(torch.cat([data.x, data.x[:30]]), torch.cat([data.y, data.y[:30]]))


def test_equal_rows_share_a_fold_where_those_of_scikit_learn_do_not() -> None:
    data = with_twins()
    samples = check("m", data)
    for seed in range(5):
        fold = assign_folds(samples, 5, seed)
        assert torch.equal(fold[:30], fold[60:])
        assert torch.bincount(fold).min() >= 12
        order = canonical_rows(samples)
        by_position = torch.empty_like(fold)
        splitter = StratifiedKFold(5, shuffle=True, random_state=seed)
        for number, (_, held) in enumerate(splitter.split(order, data.y[order])):
            by_position[order[held]] = number
        assert (by_position[:30] != by_position[60:]).sum() > 15


def test_equal_rows_do_not_reveal_labels() -> None:
    """On noise each of whose rows occurs twice, a rule that remembers rows stays at chance."""
    blank = noise(200, 40, 4)
    data = Features(blank.x.repeat(2, 1), blank.y.repeat(2))
    assert one(LinearProbe(), data) == pytest.approx(25, abs=8)


@pytest.mark.parametrize(("distinct", "copies"), [(1, 20), (3, 8)])
def test_a_class_of_few_distinct_rows_is_in_every_training_part(distinct: int, copies: int) -> None:
    collapsed = noise(distinct, 4, 1, seed=3).x.repeat(copies, 1)
    rest = noise(40, 4, 2)
    y = torch.cat([rest.y, torch.full((len(collapsed),), 2)])
    fold = assign_folds(check("m", Features(torch.cat([rest.x, collapsed]), y)), 5)
    assert all((y[fold != number] == 2).any() for number in range(5))


def test_small_classes_have_folds_where_scikit_learn_refuses() -> None:
    data = noise(40, 5, 20)
    assert torch.bincount(assign_folds(check("m", data), 5)).tolist() == [8] * 5
    for splitter, groups in ((StratifiedKFold(5), None), (StratifiedGroupKFold(5), torch.arange(40))):
        with pytest.raises(ValueError, match="cannot be greater than the number of members in each class"):
            next(splitter.split(data.x, data.y, groups))


def test_folds_do_not_follow_the_unit_and_origin_of_the_features() -> None:
    data = clusters(200, 6, 3)
    moved = Features(0.3 * data.x - 5, data.y)
    assert torch.equal(assign_folds(check("m", data)), assign_folds(check("m", moved)))


def test_keys_follow_the_content_to_the_last_bit() -> None:
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 12)
    assert len(set(row_keys(x).tolist())) == len(x)
    assert row_keys(torch.tensor([[0.0]])) == row_keys(torch.tensor([[-0.0]]))
    rows = noise(1500, 37, 2).x
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(0))
    assert (row_keys(rows)[order] == row_keys(rows[order])).all()


def test_derived_samples_keep_their_folds_and_lose_empty_classes() -> None:
    samples = check("m", noise(40, 3, 4))
    rows = torch.nonzero(samples.y != 1).flatten()
    part = derive(samples, torch.zeros(len(rows), 2), rows)
    assert part.num_classes == 3
    assert part.y.max() == 2
    assert torch.equal(assign_folds(part), assign_folds(derive(samples, torch.ones(len(rows), 5), rows)))
