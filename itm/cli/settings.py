"""Check the settings of a run before its work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from itm.core.devices import Accelerator, PrecisionChoice, check_device
from itm.core.errors import SettingError
from itm.core.settings import Count, OnError, settings
from itm.data.tables import ColumnSettings
from itm.extraction.readouts.dense import MaskSettings
from itm.groundtruth.protocol import Keep
from itm.ranking.race import Race

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""First of the seeds; scikit-learn takes none above 2**32."""
Limit = Annotated[int, Field(ge=2)] | None
OnFailure = Literal["stop", "skip"]
"""Effect of a model without features on the exit status of ``estimate.py``."""
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
"""A text that is not blank."""
Workers = Annotated[int, Field(ge=0, le=1024)] | None


@settings("data")
class DataSettings:
    """Settings ``data`` of both commands; ``test_limit`` exists in ``train_groundtruth.py`` alone."""

    name: str | int
    limit: Limit = None
    test_limit: Limit = None
    on_error: OnError = "stop"
    root: Text | None = None
    rows: Count | None = None
    columns: dict[str, Any] | None = None
    config: Text | None = None


@settings("source")
class SourceSettings:
    """Settings ``source`` of ``estimate.py``."""

    name: Text | int | None = None
    limit: Limit = None


@settings("trainer")
class TrainerSettings:
    """Settings ``trainer`` of both commands."""

    accelerator: Accelerator = "cpu"
    precision: PrecisionChoice = "32"
    batch_size: Annotated[int, Field(ge=1, le=2**20)] = 64
    workers: Workers = None


@settings("")
class EstimateSettings:
    """Settings of ``estimate.py`` that are in no group."""

    seed: Seed = 0
    seeds: Annotated[int, Field(ge=1, le=10_000)] = 3
    resamples: Annotated[int, Field(ge=1, le=10_000)] = 30
    jobs: Annotated[int, Field(ge=1, le=1024)] | None = None
    worker: Annotated[int, Field(ge=0)] | None = None
    store: Text = ""
    groundtruth: Text | None = None
    models: Text | list[Text] | None = None
    pretrained: bool = True
    optimise: Text | None = None
    plan: bool = False
    on_failure: OnFailure = "stop"
    image_size: Count | None = None
    sources: list[Text | int] = field(default_factory=list)
    source_table: Text | None = None
    templates: list[str] | None = None


@settings("")
class GroundtruthSettings:
    """Settings of ``train_groundtruth.py`` that are in no group."""

    seed: Seed = 0
    image_size: Count | None = None
    records: Text = ""
    table: Text | None = None
    models: Text | list[Text] | None = None
    pretrained: bool = True
    plan: bool = False
    keep: Keep = "nothing"
    gradient_checkpointing: bool = False
    compile: bool = False


def check_estimate(run: Mapping[str, Any]) -> None:
    """Check the settings of a run of ``estimate.py``.

    Args:
        run: The resolved settings.

    Raises:
        SettingError: For the first wrong setting.
    """
    _check(EstimateSettings, "", run)
    _check_data(run.get("data"))
    _check(SourceSettings, "source", run.get("source"))
    _check(MaskSettings, "masks", run.get("masks"))
    _check_trainer(run.get("trainer"), extraction=True)
    _check_mapping("budget", run.get("budget"))
    Race.from_setting(run.get("race"))
    _check_entries("zoo", run.get("zoo"), "zoo=demo")
    _check_entries("scorer", run.get("scorer"), "scorer=[itm]")


def check_groundtruth(run: Mapping[str, Any]) -> None:
    """Check the settings of a run of ``train_groundtruth.py``.

    Args:
        run: The resolved settings.

    Raises:
        SettingError: For the first wrong setting.
    """
    _check(GroundtruthSettings, "", run)
    _check_data(run.get("data"))
    _check(TrainerSettings, "trainer", run.get("trainer"))
    for group in ("grid", "protocol", "budget"):
        _check_mapping(group, run.get(group))
    _check_entries("zoo", run.get("zoo"), "zoo=demo")


def _check_data(node: object) -> None:
    _check(DataSettings, "data", node)
    ColumnSettings(**(_check_mapping("data", node).get("columns") or {}))


def _check(kind: type, group: str, node: object) -> None:
    """Check those settings of a group that a class describes; packages check the others themselves."""
    values = dict(_check_mapping(group, node))
    if "precision" in values:
        values["precision"] = str(values["precision"])  # a command line gives the number 16
    kind(**{one.name: values[one.name] for one in fields(kind) if one.name in values})


def _check_trainer(node: object, *, extraction: bool = False) -> None:
    """Check settings ``trainer``; ``precision=auto`` is for extraction alone."""
    _check(TrainerSettings, "trainer", node)
    trainer = _check_mapping("trainer", node)
    precision = str(trainer.get("precision", "32"))
    check_device(
        str(trainer.get("accelerator", "cpu")),
        "32" if extraction and precision == "auto" else precision,
        accelerator="trainer.accelerator",
        prefix="trainer.",
    )


def _check_mapping(group: str, node: object) -> Mapping[str, Any]:
    if isinstance(node, Mapping):
        return node
    raise SettingError(f"{group}={node}: expected settings by name, as in {group}={{name: value}}.")


def _check_entries(group: str, node: object, example: str) -> None:
    """Check a group whose entries have names of the user's own."""
    if not node:
        raise SettingError(f"{group}: nothing is chosen; set for example {example}.")
    for name, entry in _check_mapping(group, node).items():
        if not str(name).strip() or not isinstance(entry, Mapping | None):
            raise SettingError(f"{group}.{name}={entry}: expected settings by name, as in {example}.")
