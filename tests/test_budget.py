"""Budgets: what stays, what is removed and why, checked without weights."""

from __future__ import annotations

import pytest
import torchvision

from itm.core.errors import SettingError
from itm.models import budget as budgets
from itm.models import candidates
from itm.models.budget import Budget, diverse, entry_facts, select
from itm.models.entry import ZooEntry

IDS = (
    "resnet18.a1_in1k",  # 11.2 M, 1.8 G, apache-2.0
    "resnet50.a1_in1k",  # 23.5 M, 4.1 G, apache-2.0
    "convnextv2_nano.fcmae",  # 15.0 M, cc-by-nc-4.0
    "vit_small_patch16_dinov3.lvd1689m",  # 21.6 M, dinov3-license
    "vit_base_patch16_224.mae",  # 85.8 M, cc-by-nc-4.0
)
ZOO = {name: {"model": name, "pretrained": True} for name in IDS}


@pytest.mark.parametrize(
    ("limits", "removed"),
    [
        ({"parameters": 22e6}, {1, 4}),
        ({"gmacs": 2.5}, {1, 3, 4}),
        ({"license": "permissive"}, {2, 3, 4}),
        ({"license": "noncommercial"}, {3}),
        ({"license": ["permissive", "dinov3-license"]}, {2, 4}),
        ({"models": 2}, {0, 2, 3}),  # the largest of two families that differ in pre-training
        ({}, set()),
    ],
)
def test_a_budget_removes_what_is_beyond_it(limits: dict[str, object], removed: set[int]) -> None:
    selection = select(ZOO, Budget(**limits))  # type: ignore[arg-type]
    assert set(selection.removed) == {IDS[index] for index in removed}
    assert set(selection.kept) == set(IDS) - set(selection.removed)


def test_what_was_removed_has_its_reason() -> None:
    removed = select(ZOO, Budget(parameters=22e6, license="permissive")).removed
    assert removed["resnet50.a1_in1k"] == "23.5 M parameters, more than budget.parameters=2.2e+07"
    assert removed["convnextv2_nano.fcmae"] == "licence cc-by-nc-4.0 (research) is not in budget.license"


def test_an_unknown_licence_is_not_permissive_and_a_control_needs_none() -> None:
    zoo = {"file": {"model": "resnet18", "checkpoint": "x.pth"}, "control": {"model": "resnet18"}}
    selection = select(zoo, Budget(license="permissive"))
    assert selection.kept == ("control",)
    assert selection.removed == {"file": "licence unknown (unknown) is not in budget.license"}


def test_latency_and_minutes_follow_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "latency_ms", lambda entry: 80.0 if entry.name == IDS[4] else 8.0)
    assert set(select(ZOO, Budget(latency_ms=10)).removed) == {IDS[4]}
    monkeypatch.setattr(budgets, "macs_per_second", lambda: 1e9)
    needed = {name: candidates.facts_of(name).macs / 1e9 for name in IDS}  # minutes of 60 images
    selection = select(ZOO, Budget(minutes=sum(needed.values()) - 1), images=60)
    assert sum(needed[name] for name in selection.kept) <= sum(needed.values()) - 1
    assert len(selection.removed) == 1


def test_a_budget_that_nothing_meets_names_the_smallest() -> None:
    with pytest.raises(SettingError, match=r"budget: none of 5 candidates.*resnet18\.a1_in1k: 11\.2 M parameters"):
        select(ZOO, Budget(parameters=1e3))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"parameters": -1}, r"budget\.parameters=-1: expected a number above 0"),
        ({"models": 0}, r"budget\.models=0: expected a number of at least 1"),
        ({"license": "permisive"}, r"budget\.license=permisive: not known\. Did you mean 'permissive'"),
        ({"memory": 1}, r"budget\.memory: not known"),
    ],
)
def test_a_wrong_limit_is_one_line(limits: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        select(ZOO, Budget(**limits))  # type: ignore[arg-type]


def test_candidates_that_differ_come_first() -> None:
    names = list(diverse(candidates.facts_of(name) for name in candidates.matching(["resnet*", "vit_small*"])))
    assert len(names) == len(set(names))
    first = [candidates.facts_of(name) for name in names[:6]]
    assert len({(fact.family, fact.paradigm) for fact in first}) == 6


def test_entries_are_counted_at_their_own_size_and_arguments() -> None:
    plain = entry_facts(ZooEntry.read("a", {"model": "resnet18"}))
    small = entry_facts(ZooEntry.read("b", {"model": "resnet18", "image_size": 112}))
    assert plain.macs == pytest.approx(4 * small.macs, rel=0.08)  # the last maps are 7 and 4 wide
    assert plain.parameters == small.parameters
    vit = entry_facts(
        ZooEntry.read("c", {"model": "vit_small_patch14_reg4_dinov2.lvd142m", "pretrained": True, "image_size": 224})
    )
    assert vit.macs < candidates.facts_of("vit_small_patch14_reg4_dinov2.lvd142m").macs / 5
    assert (vit.tier, vit.pixels) == ("permissive", 224)
    shallow = entry_facts(ZooEntry.read("d", {"model": "vit_tiny_patch16_224", "model_args": {"depth": 2}}))
    assert shallow.parameters < entry_facts(ZooEntry.read("e", {"model": "vit_tiny_patch16_224"})).parameters / 3


def test_a_transformer_of_torchvision_is_counted_at_another_size() -> None:
    own, small = (
        entry_facts(ZooEntry.read("x", {"model": "torchvision:vit_b_16", "image_size": size})) for size in (224, 112)
    )
    assert small.pixels == 112
    assert own.macs > 3.5 * small.macs  # a quarter of the patches, and 1/16 of the pairs
    assert own.parameters - small.parameters == (196 - 49) * 768  # learned positions


def test_a_model_of_torchvision_is_counted() -> None:
    facts = entry_facts(ZooEntry.read("x", {"model": "torchvision:mobilenet_v2", "pretrained": True}))
    network = torchvision.models.mobilenet_v2()
    assert facts.parameters == sum(parameter.numel() for parameter in network.features.parameters())
    assert facts.tier == "permissive"


def test_a_thousand_candidates_are_planned_from_the_table() -> None:
    zoo = {name: {"model": name, "pretrained": True} for name in candidates.pretrained_ids()}
    selection = select(zoo, Budget(models=1000, license="permissive"))
    assert len(selection.kept) == 1000
    assert len(selection.kept) + len(selection.removed) == len(zoo)
