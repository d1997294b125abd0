from __future__ import annotations

import pytest
import torch
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from itm.core.errors import FeatureError, SettingError
from itm.core.splits import split_indices, stratified_sample


def labels(*counts: int, seed: int = 0) -> Tensor:
    """Shuffled labels 0, 1, ... of the given numbers."""
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]


def check_partition(train: Tensor, held: Tensor, size: int) -> None:
    assert train.dtype == held.dtype == torch.int64
    assert sorted(train.tolist() + held.tolist()) == list(range(size))
    assert train.tolist() == sorted(train.tolist())
    assert held.tolist() == sorted(held.tolist())


@pytest.mark.parametrize(
    ("counts", "held_out"),
    [
        ((50, 30, 20), [10, 6, 4]),
        ((5, 5, 5), [1, 1, 1]),
        ((10, 1), [2, 0]),  # the single one trains; its share goes to the class that can spare it
        ((3, 3, 2), None),  # 1.6 rows of 8 are 2, from two of the classes
        ((1, 1, 1, 1), None),  # none can be spared: one is held out all the same
        ((2,), [1]),
        ((1000, 7, 2), [201, 1, 0]),  # quotas 200, 1.4 and 0.4 of 202: the largest remainders get the two left over
    ],
)
def test_sizes_and_classes(counts: tuple[int, ...], held_out: list[int] | None) -> None:
    y = labels(*counts)
    train, held = split_indices(y, 0.8, 0)
    check_partition(train, held, len(y))
    assert len(held) == max(1, len(y) - round(0.8 * len(y)))
    if held_out:
        assert sum(held_out) == len(held)
        assert (torch.bincount(y[held], minlength=len(counts)) - torch.tensor(held_out)).abs().max() <= 1
    if max(counts) > 1:
        assert len(y[train].unique()) == len(counts)


@pytest.mark.parametrize("groups", [None, torch.arange(120) // 4])
def test_depends_on_the_seed_alone(groups: Tensor | None) -> None:
    y = labels(60, 40, 20)
    torch.manual_seed(1)
    first = split_indices(y, 0.8, 7, groups)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = split_indices(y, 0.8, 7, groups)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], split_indices(y, 0.8, 8, groups)[1])


def test_label_values_do_not_matter() -> None:
    y = labels(40, 30)
    renamed = torch.tensor([-3, 900])[y]
    assert torch.equal(split_indices(y, 0.7, 3)[1], split_indices(renamed, 0.7, 3)[1])


def test_every_row_can_be_held_out() -> None:
    y = labels(6, 4)
    seen = {row for seed in range(60) for row in split_indices(y, 0.8, seed)[1].tolist()}
    assert seen == set(range(10))


@pytest.mark.parametrize("rows_per_group", [1, 3, 50])
def test_groups_stay_whole(rows_per_group: int) -> None:
    y = labels(900, 500, 100)
    groups = torch.arange(1500) // rows_per_group * 17 - 5
    train, held = split_indices(y, 0.8, 0, groups)
    check_partition(train, held, 1500)
    assert not set(groups[train].tolist()) & set(groups[held].tolist())
    assert abs(len(held) - 300) <= rows_per_group / 2
    share = torch.bincount(y[held], minlength=3) / torch.bincount(y)
    assert (share - 0.2).abs().max() < 0.08


def test_groups_of_one_class_are_held_out_in_proportion() -> None:
    y = torch.arange(200) // 100
    groups = torch.arange(200) // 10
    for seed in range(10):
        held = split_indices(y, 0.8, seed, groups)[1]
        assert torch.bincount(y[held]).tolist() == [20, 20]


def test_a_class_in_one_group_only_trains() -> None:
    y = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1, 2, 2])
    groups = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    for seed in range(20):
        train, held = split_indices(y, 0.8, seed, groups)
        assert len(held) == 2
        assert y[train].unique().tolist() == [0, 1, 2]
    y, groups = y.repeat(3), groups.repeat(3)  # scikit-learn refuses classes of fewer than five rows
    splits = StratifiedGroupKFold(5).split(y, y, groups)
    assert any(2 not in y[train] for train, _ in splits), "scikit-learn keeps the only group of a class as well"


def test_large_groups_leave_something_held_out() -> None:
    y = torch.tensor([0, 1] * 50)
    train, held = split_indices(y, 0.8, 0, torch.tensor([0] * 60 + [1] * 40))
    assert (len(train), len(held)) == (60, 40)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 80])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(SettingError, match="between 0 and 1"):
        split_indices(labels(5, 5), fraction, 0)


def test_nothing_to_split() -> None:
    with pytest.raises(FeatureError, match="two or more"):
        split_indices(torch.tensor([0]), 0.8, 0)
    with pytest.raises(FeatureError, match="one group"):
        split_indices(labels(3, 3), 0.8, 0, torch.zeros(6, dtype=torch.int64))


@pytest.mark.parametrize(
    ("counts", "size", "expected"),
    [
        ((50, 30, 20), 10, [5, 3, 2]),
        ((1000, 3, 1), 10, [7, 2, 1]),  # two of a class where it has them
        ((100, 100, 100), 4, None),  # no room for two of each: one of each
        ((4, 4), 8, [4, 4]),
        ((4, 4), 99, [4, 4]),
    ],
)
def test_sample(counts: tuple[int, ...], size: int, expected: list[int] | None) -> None:
    y = labels(*counts)
    rows = stratified_sample(y, size, 0)
    found = torch.bincount(y[rows], minlength=len(counts))
    assert len(rows.unique()) == len(rows) == min(size, len(y))
    assert found.min() >= 1
    assert expected is None or found.tolist() == expected
    assert torch.equal(rows, stratified_sample(y, size, 0))


def test_sample_smaller_than_the_classes() -> None:
    with pytest.raises(SettingError, match="2 cannot show each of 3"):
        stratified_sample(labels(5, 5, 5), 2, 0)
