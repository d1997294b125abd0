"""Settings are checked by pydantic, and a mistake is one line."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field
from torch import Tensor

from itm.core.errors import SettingError
from itm.core.settings import settings


@settings("scorer.toy")
class Toy:
    """Settings of every kind."""

    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-3
    steps: Annotated[int, Field(ge=1)] | None = None
    loss: Literal["mse", "mae", "ce"] = "mse"
    flip: bool = False
    rows: Tensor | None = None
    labels: Sequence[str] = ()
    name: ClassVar[str] = "toy"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0}, "scorer.toy.lr=0: expected a number above 0."),
        ({"lr": float("nan")}, "scorer.toy.lr=nan: expected a finite number."),
        ({"lr": float("inf")}, "scorer.toy.lr=inf: expected a finite number."),
        ({"lr": "fast"}, "scorer.toy.lr=fast: expected a number."),
        ({"lr": True}, "scorer.toy.lr=True: expected a number."),
        ({"steps": 0}, "scorer.toy.steps=0: expected a number of at least 1."),
        ({"steps": 2.5}, "scorer.toy.steps=2.5: expected a whole number."),
        ({"loss": "msee"}, "scorer.toy.loss=msee: not known. Did you mean 'mse'? Allowed: ce, mae, mse."),
        ({"flip": 1}, "scorer.toy.flip=1: expected true or false."),
        ({"stepz": 1}, "setting=scorer.toy.stepz: not known. Did you mean 'scorer.toy.steps'?"),
    ],
)
def test_a_mistake_is_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        Toy(**values)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.1, 0), "scorer.toy.steps=0: expected a number of at least 1."),
        ((0.1, 1, "msee"), "scorer.toy.loss=msee: not known. Did you mean 'mse'?"),
        ((0.1, 1, "mse", True, None, (), 7), "scorer.toy: 7 is one value too many; there are 6 settings."),
        ((0.1, 1, "mse", True, "a\n" * 100), f"scorer.toy.rows={'a ' * 38}a...: expected Tensor."),
    ],
)
def test_a_value_given_by_position_is_named(values: tuple[object, ...], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        Toy(*values)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_class_without_settings_says_so() -> None:
    @settings("scorer.bare")
    class Bare:
        name: ClassVar[str] = "bare"

    with pytest.raises(SettingError, match=r"^scorer\.bare\.lr: not known; scorer\.bare has no settings\.$"):
        Bare(lr=1)  # type: ignore[call-arg]


def test_settings_are_frozen_replaced_and_pickled() -> None:
    toy = Toy(lr=1, steps=3)
    assert replace(toy, loss="ce") == Toy(lr=1, steps=3, loss="ce")
    assert pickle.loads(pickle.dumps(toy)) == toy
    with pytest.raises(FrozenInstanceError):
        toy.lr = 2  # type: ignore[misc]
    with pytest.raises(SettingError, match="expected a number above 0"):
        replace(toy, lr=-1)


def test_a_prefix_takes_the_value_of_a_field_and_a_description_states_what_is_expected() -> None:
    @settings("zoo.{name}")
    class Entry:
        name: str
        size: Annotated[int, Field(description="pixels")] = 1

    for build in (lambda: Entry("a", "big"), lambda: Entry(name="a", size="big")):  # type: ignore[arg-type]
        with pytest.raises(SettingError, match=r"^zoo\.a\.size=big: expected pixels, found str\.$"):
            build()
