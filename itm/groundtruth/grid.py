"""The grid of one dataset: the settings that every model of a zoo is trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from itertools import product
from statistics import fmean
from typing import Annotated, Any

from pydantic import Field, Strict

from itm.core.errors import SettingError
from itm.core.settings import NonNegative, Positive, settings
from itm.data.image_set import is_segmentation
from itm.groundtruth.adaptation import check_adaptation
from itm.groundtruth.images import ImageSplits, default_select
from itm.groundtruth.protocol import Adaptation, Protocol
from itm.groundtruth.segmentation import segmentation_text
from itm.groundtruth.trials import Record, Trial, comparable_digest
from itm.models.backbone import Backbone
from itm.models.prompts import TEMPLATES, check_templates, check_text, class_words, text_digest

IMAGES: Mapping[str, Any] = {"batch_size": 64, "crop_scale": (0.08, 1.0)}
"""Batch size and crop scale for images with labels where the settings leave them open."""
MASKED: Mapping[str, Any] = {"batch_size": 8, "crop_scale": (0.25, 1.0)}
"""The same for images with masks (ours; the paper gives no recipe)."""
UNTRAINED_LR = 1.0
"""Learning rate in the record of a trial without training, where it has no effect."""

_Seed = Annotated[int, Field(ge=0)]
_OneOrMore = Field(min_length=1)


@settings("grid")
class Grid:
    """The settings that every model is trained with.

    Args:
        lr: Highest learning rates.
        weight_decay: Weight decays of AdamW.
        seeds: Seeds of the head, the order of the images and the augmentation.
        best_seeds: Further seeds for the best setting of each model alone. They show the noise of a difference between
            models without a second run of the whole grid.
        adaptation: Which weights of the backbone train, see :mod:`itm.groundtruth.adaptation`.
        protocol: The settings that all trials share.

    Raises:
        SettingError: If a list is empty, a number is out of range or the adaptation is unknown.
    """

    # Strict(False): a YAML list becomes a tuple; its numbers are still checked strictly
    lr: Annotated[tuple[Positive, ...], Strict(False), _OneOrMore] = (1e-5, 2e-5, 5e-5)
    weight_decay: Annotated[tuple[NonNegative, ...], Strict(False), _OneOrMore] = (1e-2, 1e-4)
    seeds: Annotated[tuple[_Seed, ...], Strict(False), _OneOrMore] = (0,)
    best_seeds: Annotated[tuple[_Seed, ...], Strict(False)] = ()
    adaptation: Adaptation = "full"
    protocol: Protocol = field(default_factory=Protocol)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Grid:
        """Build from a run's settings ``grid``, ``adaptation``, ``protocol``, ``image_size``, ``data``, ``trainer``.

        ``protocol.select=null`` becomes ``test`` for a dataset by name and ``validation`` for a folder. A batch size or
        crop scale of null becomes that of :data:`IMAGES` or :data:`MASKED`.

        Raises:
            SettingError: If a setting is unknown or has a value that it cannot take, or the adaptation's package is
                missing.
        """
        data = settings["data"]
        shared: dict[str, Any] = {
            **settings["protocol"],
            "image_size": settings["image_size"],
            "precision": str(settings["trainer"]["precision"]),
            "limit": data["limit"],
            "test_limit": data["test_limit"],
        }
        if shared.get("select") is None:
            shared["select"] = default_select(str(data["name"]))
        if settings["adaptation"] == "zero_shot":
            return cls._zero_shot(settings, shared)
        defaults = MASKED if is_segmentation(str(data["name"])) else IMAGES
        shared |= {name: value for name, value in defaults.items() if shared.get(name) is None}
        check_adaptation(settings["adaptation"])  # now rather than in every trial
        shared.pop("templates", None)  # prompts are for zero-shot accuracy alone
        return cls(**settings["grid"], adaptation=settings["adaptation"], protocol=Protocol(**shared))

    @classmethod
    def _zero_shot(cls, settings: Mapping[str, Any], shared: Mapping[str, Any]) -> Grid:
        """Build the grid of one trial per model, without training; settings of the training play no part."""
        name = str(settings["data"]["name"])
        if is_segmentation(name):
            raise SettingError(f"adaptation=zero_shot: {name} has masks; zero-shot accuracy needs one class per image.")
        given = shared.get("templates")
        templates = check_templates(TEMPLATES if given is None else given, "protocol.templates")
        kept = ("name", "image_size", "precision", "limit", "test_limit")
        protocol = Protocol.zero_shot(templates, **{key: shared.get(key) for key in kept})
        return cls(lr=(UNTRAINED_LR,), weight_decay=(0.0,), adaptation="zero_shot", protocol=protocol)

    def trials(self, backbone: Backbone, images: ImageSplits) -> list[Trial]:
        """Return the trials of one model, seed by seed.

        Raises:
            SettingError: If zero-shot accuracy is asked of a model without a text encoder, or of classes without names.
        """
        zero_shot = self.adaptation == "zero_shot"
        if zero_shot:
            check_text(backbone)
            class_words(images.train.classes)
        return [
            Trial(
                dataset=images.train.name,
                train=images.fingerprint,
                test=images.test.fingerprint,
                model=backbone.name,
                architecture=backbone.model,
                weights=text_digest(backbone) if zero_shot else backbone.weights_digest,
                transform=backbone.transform_text if images.train.masks is None else segmentation_text(backbone),
                pooling=backbone.pooling,
                lr=lr,
                weight_decay=weight_decay,
                seed=seed,
                adaptation=self.adaptation,
                protocol=self.protocol,
            )
            for seed, lr, weight_decay in product(self.seeds, self.lr, self.weight_decay)
        ]

    def comparable(self, images: ImageSplits) -> str:
        """Return the value of the column ``comparable`` that all trials of the grid have."""
        return comparable_digest(images.fingerprint, images.test.fingerprint, self.adaptation, self.protocol)

    def repeats(self, records: Sequence[Record]) -> list[Trial]:
        """Return the trials of ``best_seeds``: the best setting of each model, the first of equal ones.

        Args:
            records: Records of the grid's trials; failed ones are ignored.
        """
        new_seeds = [seed for seed in self.best_seeds if seed not in self.seeds]
        return [replace(best.trial, seed=seed) for best in best_records(records) for seed in new_seeds]


def best_records(records: Sequence[Record]) -> list[Record]:
    """Return, for each model, the first record of its best setting.

    A setting is as good as the mean over its seeds of the accuracy that ``protocol.select`` chooses by. Only the
    settings with the most seeds count, as in :func:`itm.groundtruth.summary.best_accuracies`.

    Args:
        records: Records of one grid; failed ones are ignored.
    """
    settings: dict[str, dict[tuple[float, float], list[Record]]] = {}
    for record in records:
        if record.error is None:
            trial = record.trial
            settings.setdefault(trial.model, {}).setdefault((trial.lr, trial.weight_decay), []).append(record)
    best = []
    for of_model in settings.values():
        most = max(len(runs) for runs in of_model.values())
        best.append(max((runs for runs in of_model.values() if len(runs) == most), key=_mean_accuracy)[0])
    return best


def _mean_accuracy(records: Sequence[Record]) -> float:
    return fmean(record.trial.protocol.chosen_by(record.best) for record in records)
