"""The automatic zoo: chosen from the table of candidates, within a budget, through each door."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import itm
from itm.cli.models import choose_models, removal_lines
from itm.core.errors import SettingError
from itm.models.candidates import automatic, facts_of

ROOT = Path(__file__).parents[1]


def run(**settings: Any) -> dict[str, Any]:
    plain = {"zoo": {"auto": None}, "models": None, "pretrained": True, "image_size": None, "budget": {}, "data": {}}
    return {**plain, "seed": 0, **settings}


def test_without_limits_it_takes_24_different_models_of_at_most_30_million_parameters() -> None:
    chosen = choose_models(run())
    facts = [facts_of(name) for name in chosen.zoo]
    assert len(facts) == 24
    assert max(fact.parameters for fact in facts) <= 30e6
    assert len({(fact.family, fact.paradigm) for fact in facts}) == 24
    assert all(entry == {"pretrained": True} for entry in chosen.zoo.values())
    assert len(chosen.zoo) + len(chosen.removed) == len(automatic())


@pytest.mark.parametrize(
    ("budget", "count", "parameters"),
    [({"parameters": 6e6}, 24, 6e6), ({"models": 5}, 5, 1e12), ({"license": "permissive"}, 24, 30e6)],
)
def test_limits_that_are_given_replace_the_defaults(budget: dict[str, Any], count: int, parameters: float) -> None:
    facts = [facts_of(name) for name in choose_models(run(budget=budget)).zoo]
    assert len(facts) == count
    assert max(fact.parameters for fact in facts) <= parameters
    assert parameters < 1e12 or max(fact.parameters for fact in facts) > 30e6


def test_names_and_entries_narrow_and_extend_it() -> None:
    named = choose_models(run(models=["convnext_tiny*"], image_size=160))
    assert set(named.zoo) <= {name for name in automatic() if name.startswith("convnext_tiny")}
    assert all(entry["image_size"] == 160 for entry in named.zoo.values())
    mine = choose_models(run(zoo={"auto": None, "mine": {"model": "resnet18"}}, budget={"models": 300}))
    assert mine.zoo["mine"] == {"model": "resnet18"}


def test_many_removed_models_are_counted_by_limit() -> None:
    removed = choose_models(run(budget={"parameters": 30e6, "license": "permissive", "models": 20})).removed
    lines = removal_lines(removed)
    assert len(lines) == 3
    assert sum(int(line.split()[1]) for line in lines) == len(removed)
    assert removal_lines({"a": "reason"}) == ["removed a: reason"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": {"parameters": 10}}, r"none of \d+ candidates is within it\. The nearest, \S+: .*M parameters"),
        ({"budget": {"license": "permisive"}}, r"budget\.license=permisive: not known\. Did you mean 'permissive'"),
        ({"models": ["convnxt*"]}, r"models=convnxt\*: not known\..*conv"),
        ({"budget": {"memory": 3}}, r"budget\.memory: not known|setting=budget\.memory: not known"),
    ],
)
def test_a_mistake_is_one_line_through_each_door(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        choose_models(run(**settings))
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingError, match=message):
        itm.estimate("no/such/folder", zoo="auto", **settings)


@pytest.mark.parametrize("script", ["estimate.py", "train_groundtruth.py"])
def test_a_plan_is_listed_before_any_image_is_read(script: str, tmp_path: Path) -> None:
    words = ["zoo=auto", "budget.models=3", "budget.parameters=30e6", "data=/no/such/folder", "plan=true"]
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept = choose_models(run(budget={"models": 3, "parameters": 30e6})).zoo
    assert all(name in done.stdout for name in kept)
    assert "models by budget.parameters, such as" in done.stdout


def test_an_unknown_zoo_is_named_from_python() -> None:
    with pytest.raises(SettingError, match=r"zoo=dmeo: not known\. Did you mean 'demo'"):
        itm.estimate("no/such/folder", zoo="dmeo")
