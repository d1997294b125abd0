"""The grid of one dataset: every model of a zoo with every setting, walked by as many workers as there are."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache, partial
from itertools import product
from statistics import fmean
from types import UnionType
from typing import Any, TypeVar

from itm.core.errors import ItmError, SettingError, unknown
from itm.data.image_set import ImageSet, count_shared, load_images
from itm.groundtruth.adaptation import ADAPTATIONS, check_packages
from itm.groundtruth.checkpoint import LastCheckpoint
from itm.groundtruth.hardware import Machine
from itm.groundtruth.protocol import Protocol, check_number
from itm.groundtruth.train import train_cell
from itm.groundtruth.trials import Cell, Cells, Record
from itm.models.backbone import Backbone, load_backbone

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grid:
    """The settings that every model is trained with.

    Args:
        lr: Highest learning rates.
        weight_decay: Weight decays of AdamW.
        seeds: Of the head, the order of the images and the augmentation.
        best_seeds: Further seeds for the best setting of each model alone, so that what a difference between models is
            worth can be seen without training the whole grid again.
        adaptation: What of the backbone is trained, see :mod:`itm.groundtruth.adaptation`.
        protocol: What all cells share.

    Raises:
        SettingError: If a list is empty or holds what is no such number, or the adaptation is unknown.
    """

    lr: Sequence[float] = (1e-5, 2e-5, 5e-5)
    weight_decay: Sequence[float] = (1e-2, 1e-4)
    seeds: Sequence[int] = (0,)
    best_seeds: Sequence[int] = ()
    adaptation: str = "full"
    protocol: Protocol = field(default_factory=Protocol)

    def __post_init__(self) -> None:
        _check_list("grid.lr", self.lr, "a number above 0", lambda x: 0 < x < math.inf)
        _check_list("grid.weight_decay", self.weight_decay, "0 or a number above it", lambda x: 0 <= x < math.inf)
        _check_list("grid.seeds", self.seeds, "a whole number of at least 0", lambda n: n >= 0, int)
        if self.best_seeds not in ([], ()):
            _check_list("grid.best_seeds", self.best_seeds, "a whole number of at least 0", lambda n: n >= 0, int)
        if self.adaptation not in ADAPTATIONS:
            raise unknown("adaptation", self.adaptation, ADAPTATIONS)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Grid:
        """The grid of a run's settings ``grid``, ``adaptation``, ``protocol``, ``image_size``, ``data``, ``trainer``.

        Raises:
            SettingError: If one of them has a value that it cannot take or is not known, or the adaptation lacks its
                package.
        """
        data = settings["data"]
        known = {"image_size": settings["image_size"], "precision": str(settings["trainer"]["precision"])}
        known |= {"limit": data["limit"], "test_limit": data["test_limit"]}
        protocol = _build(Protocol, "protocol", {**settings["protocol"], **known})
        grid = _build(cls, "grid", {**settings["grid"], "adaptation": settings["adaptation"], "protocol": protocol})
        check_packages(grid.adaptation)  # now, not in every cell
        return grid

    def cells(self, backbone: Backbone, train: ImageSet, test: ImageSet) -> list[Cell]:
        """The cells of one model, seed by seed."""
        return [
            Cell(
                dataset=train.name,
                train=train.fingerprint,
                test=test.fingerprint,
                model=backbone.name,
                architecture=backbone.model,
                weights=backbone.weights_digest,
                transform=backbone.transform_text,
                pooling=backbone.pooling,
                lr=float(lr),
                weight_decay=float(weight_decay),
                seed=seed,
                adaptation=self.adaptation,
                protocol=self.protocol,
            )
            for seed, lr, weight_decay in product(self.seeds, self.lr, self.weight_decay)
        ]


class CellsFailedError(Exception):
    """Some cells failed, after the others were trained.

    Args:
        failed: What failed, each with its reason.
    """

    def __init__(self, failed: Sequence[str]) -> None:
        super().__init__(failed)
        self.failed = failed

    def __str__(self) -> str:
        lines = "\n".join(f"  {line}" for line in self.failed)
        return f"error: {len(self.failed)} failed; the same command tries them again.\n{lines}"


def load_both(data: Mapping[str, Any], seed: int) -> tuple[ImageSet, ImageSet]:
    """The training and the test images of the settings ``data``, or samples of them.

    Raises:
        SettingError: If the dataset is unknown or a sample cannot show every class.
        DataError: If the images are not there.
    """
    load = partial(
        load_images, str(data["name"]), root=data["root"], seed=seed, range=data.get("range"), bands=data.get("bands")
    )
    train = load("train", limit=data["limit"])
    try:
        test = load("test", limit=data["test_limit"])
    except SettingError as error:
        raise SettingError(str(error).replace("data.limit=", "data.test_limit=")) from error
    if shared := count_shared(train, test):
        _log.warning(
            "data=%s: %d of %d test images are identical to training images, so the accuracies are too high.",
            train.name, shared, len(test),
        )  # fmt: skip
    return train, test


@dataclass
class Walk:
    """One worker's way through the grid.

    A cell that was recorded is skipped, one that another worker holds is passed by and come back to, until every cell
    is recorded. A failure that was recorded before the walk began is tried again, once by all workers together.

    Args:
        zoo: Settings of :func:`itm.models.backbone.load_backbone` by the model's name.
        train: Training images.
        test: Test images.
        cells: Where the records are.
        machine: How to train.
        patience: Seconds between two looks at what others hold.
        recorded: Called with each record that this worker adds.
    """

    zoo: Mapping[str, Mapping[str, Any] | None]
    train: ImageSet
    test: ImageSet
    cells: Cells
    machine: Machine = field(default_factory=Machine)
    patience: float = 10.0
    recorded: Callable[[Record], None] = lambda record: None

    def __post_init__(self) -> None:
        self._backbone = lru_cache(maxsize=1)(lambda name: load_backbone(name, **(self.zoo[name] or {})))
        self._old: dict[str, Record] = {}

    def run(self, grid: Grid) -> tuple[list[Record], list[str]]:
        """Train what nobody has trained.

        Returns:
            The records of all cells, whoever trained them, and what failed: models that could not be built, and cells,
            each with its reason.

        Raises:
            DataError: If an image cannot be read.
            StoreError: If the folder of the records cannot be written.
        """
        plan, unusable = self._plan(grid)
        records = self._train(plan)
        if grid.best_seeds:
            records += self._train(_repeats(records, [seed for seed in grid.best_seeds if seed not in grid.seeds]))
        failed = [f"{record.cell}: {record.error}" for record in records if record.error is not None]
        return records, [*(f"{name}: {reason}" for name, reason in unusable.items()), *failed]

    def _train(self, plan: Sequence[Cell]) -> list[Record]:
        """Train the cells of the plan that nobody has trained, and read the records of all."""
        found = {cell.digest: self.cells.read(cell) for cell in plan}
        self._old = {digest: record for digest, record in found.items() if record is not None and record.error}
        finished = sum(record is not None and not record.error for record in found.values())
        _log.info("%d cells, %d of them recorded, in %s.", len(plan), finished, self.cells.root)
        pending = plan
        while left := [cell for cell in pending if not self._settle(cell)]:
            if len(left) == len(pending):
                time.sleep(self.patience)
            else:
                _log.info("%d cells are left, which other workers hold.", len(left))
            pending = left
        return [record for cell in plan if (record := self.cells.read(cell)) is not None]

    def _plan(self, grid: Grid) -> tuple[list[Cell], dict[str, str]]:
        """Every cell, after each model was built once: one that cannot be is known before the hours, not after."""
        plan: list[Cell] = []
        unusable = {}
        for name in self.zoo:
            try:
                plan += grid.cells(self._backbone(name), self.train, self.test)
            except (ItmError, RuntimeError) as error:
                unusable[name] = " ".join(str(error).split())
                _log.error("%s: %s", name, unusable[name])
        return plan, unusable

    def _settle(self, cell: Cell) -> bool:
        """Whether the cell is recorded, after training it if nobody has or does."""
        if self._ended(cell):
            return True
        with self.cells.claim(cell) as mine:
            if not mine:
                return False
            if self._ended(cell):  # by a worker that let go of it just now
                return True
            _log.info("%s", cell)
            record = train_cell(cell, self._backbone(cell.model), self.train, self.test, self.cells, self.machine)
            self.cells.write(record)
            if record.error is None:
                LastCheckpoint(self.cells.folder(cell)).remove()
        _tell(record)
        try:
            self.recorded(record)
        except Exception as error:  # the hours are in the record; tracking is not worth the rest of the grid
            _log.warning("%s is recorded, but not tracked: %s", cell, error)
        return True

    def _ended(self, cell: Cell) -> bool:
        record = self.cells.read(cell)
        return record is not None and (record.error is None or record != self._old.get(cell.digest))


def _repeats(records: Sequence[Record], seeds: Sequence[int]) -> list[Cell]:
    """The best cell of each model, of the first of equal ones, with other seeds."""
    settings: dict[str, dict[tuple[float, float], list[Record]]] = {}
    for record in records:
        if record.error is None:
            cell = record.cell
            settings.setdefault(cell.model, {}).setdefault((cell.lr, cell.weight_decay), []).append(record)
    best = [
        max(of_model.values(), key=lambda runs: fmean(run.best["accuracy"] for run in runs))
        for of_model in settings.values()
    ]
    return [replace(runs[0].cell, seed=seed) for runs in best for seed in seeds]


_T = TypeVar("_T", Protocol, Grid)


def _build(kind: type[_T], group: str, settings: Mapping[str, Any]) -> _T:
    names = {item.name for item in fields(kind)}
    for key in settings:
        if key not in names:
            raise unknown("setting", f"{group}.{key}", [f"{group}.{name}" for name in names])
    return kind(**settings)


def _check_list(
    setting: str,
    values: object,
    expected: str,
    fits: Callable[[Any], bool],
    kind: type | UnionType = int | float,
) -> None:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise SettingError(f"{setting}={values}: expected a list, as in {setting}=[1].")
    for value in values:
        check_number(setting, value, f"{expected} for each", fits, kind)


def _tell(record: Record) -> None:
    if record.error is not None:
        _log.error("%s failed: %s", record.cell, record.error)
        return
    best, facts = record.best, record.facts
    _log.info(
        "%s: %.2f %% in epoch %d (%.0f s, %.0f images/s).",
        *(record.cell, best["accuracy"], best["epoch"], facts["seconds"], facts["images_per_second"]),
    )
