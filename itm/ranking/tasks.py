"""Source tasks: their conductance and accuracies for :class:`itm.scorers.DCD`, and the controls beside it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pandas as pd
import torch.nn.functional as F

from itm.core.errors import ItmError, SettingError
from itm.core.features import Features
from itm.core.splits import stratified_sample
from itm.extraction.pool import ExtractedPool, ExtractionSettings, extract_pool
from itm.models.backbone import load_backbone
from itm.models.prompts import class_embeddings, has_text
from itm.scorers import DCD, Scorer
from itm.scorers.dcd import mean_rank
from itm.scorers.known import Known

IMAGES = 32
"""Images of a task whose mean conductance is its profile."""
MEAN_RANK, ZERO_SHOT = "mean_rank_elsewhere", "zero_shot_few"
"""Names of the controls that use the source tasks, and a few labelled images."""

_log = logging.getLogger(__name__)


def check_tasks(
    scorers: Mapping[str, Scorer], tasks: object, table: pd.DataFrame | None, target: str, models: Sequence[str]
) -> list[str]:
    """Return the source tasks of a run; refuse those that cannot be used, before any image is read.

    Args:
        scorers: Scores by the name of their ranking; tasks are checked where one is a DCD without sources.
        tasks: Datasets of the source tasks, the setting ``sources``.
        table: True accuracies by model and task, or None.
        target: The dataset of the run.
        models: Names of the run's models.

    Returns:
        The tasks without the target, so that one list serves a multirun over targets; empty where no score needs them.

    Raises:
        SettingError: If there are fewer than two tasks, one is named twice or without accuracies, or none of a task's
            accuracies is of the run's models.
    """
    if not _lacking(scorers):
        return []
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise SettingError(f"sources={tasks}: expected names of datasets, as in sources=[a,b].")
    others = [task for task in tasks if task != target]
    if len(others) < 2:
        raise SettingError(f"sources={tasks}: scorer=dcd needs two source tasks or more, as in sources=[a,b].")
    known = [] if table is None else [str(column) for column in table.columns]
    for place, task in enumerate(others):
        if task in others[:place]:
            raise SettingError(f"sources: {task!r} stands there twice; name each task once.")
        if table is None or task not in known:
            raise SettingError(
                f"sources: no accuracies on {task!r}; known: {', '.join(known) or 'none'}. Set source_table=<csv>."
            )
        _check_models(task, table[task], models)
    return others


def _check_models(task: str, accuracy: pd.Series[float], models: Sequence[str]) -> None:
    if accuracy.reindex(list(models)).isna().all():
        raise SettingError(
            f"sources: the accuracies on {task!r} are of other models ({', '.join(map(str, accuracy.index[:3]))}, "
            f"...) than the zoo's ({', '.join(models[:3])}, ...). Set source_table=<csv>."
        )


def with_conductance(
    scorers: Mapping[str, Scorer], tasks: Sequence[str], table: pd.DataFrame | None, extraction: ExtractionSettings
) -> dict[str, Scorer]:
    """Give conductance on the images and on source tasks, and the accuracies there, to :class:`itm.scorers.DCD`.

    Args:
        scorers: Scores by the name of their ranking.
        tasks: Datasets of the source tasks, by name or folder, as :func:`check_tasks` accepts them.
        table: True accuracies by model and source task.
        extraction: Settings of the run's own extraction; a seeded sample of :data:`IMAGES` is read.

    Returns:
        The scores in their order; nothing is extracted where none is a DCD without sources.

    Raises:
        SettingError: If a network has fewer than two blocks.
        DataError: If a task's images are not there or cannot be read.
    """
    lacking = _lacking(scorers)
    if not lacking:
        return dict(scorers)
    found = {task: task_conductance(extraction, task) for task in tasks}
    own = _conductance(replace(extraction, data={**extraction.data, "limit": None}))
    return {
        name: replace(one, sources=found, accuracy=table, conductance=own) if name in lacking else one  # type: ignore[call-arg]
        for name, one in scorers.items()
    }


def task_conductance(extraction: ExtractionSettings, task: str) -> Mapping[str, Features]:
    """Read the conductance of all models on a sample of another task's images.

    Args:
        extraction: Settings of the run's own extraction; those of its own images do not apply.
        task: The dataset, by name or folder.

    Raises:
        DataError: If the images are not there or cannot be read.
        SettingError: If a network has fewer than two blocks.
    """
    plain = {"range": None, "bands": None, "columns": None, "config": None}
    data = {**extraction.data, **plain, "name": task, "limit": None}
    try:
        return _conductance(replace(extraction, data=data, images=None))
    except ItmError as error:
        raise type(error)(f"sources: {task}: {error}") from error


@lru_cache(maxsize=64)  # a task is a source in most jobs of a multirun over targets
def _conductance(extraction: ExtractionSettings) -> Mapping[str, Features]:
    images = extraction.load_images()
    count = min(max(IMAGES, len(images.classes)), len(images))  # a sample holds each class
    sample = images.select(stratified_sample(images.labels, count, extraction.seed))
    pool = extract_pool(replace(extraction, images=sample, conductance=True))
    for name, reason in pool.failed.items():
        raise SettingError(f"{name}: {reason.removeprefix(f'{name}: ')}")
    return pool.features


def controls(
    tasks: Sequence[str],
    table: pd.DataFrame,
    pool: ExtractedPool,
    zoo: Mapping[str, Mapping[str, Any] | None],
    templates: Sequence[str] | None = None,
) -> dict[str, Scorer]:
    """Return the controls that stand beside DCD, each a ranking of its own.

    Args:
        tasks: The source tasks.
        table: True accuracies by model and source task.
        pool: Features of the run's own images, labelled, and facts of the models.
        zoo: Settings of the models.
        templates: Prompts of the zero-shot control; None: each model's own.

    Returns:
        The mean rank on the source tasks, which DCD is with equal weights; zero-shot accuracy on :data:`IMAGES`
        labelled images, where every model has a text encoder; number of parameters; ImageNet accuracy, where known.
    """
    few = zero_shot_few(pool, zoo, templates)
    imagenet = {name: facts.source_accuracy for name, facts in pool.candidates.items()}
    values: dict[str, Mapping[str, float | None]] = {
        MEAN_RANK: mean_rank(table, list(tasks), list(pool.features)),
        ZERO_SHOT: few,
        "parameters": {name: float(facts.parameters) for name, facts in pool.candidates.items()},
        "imagenet_accuracy": imagenet,
    }
    known = {name: {model: x for model, x in found.items() if x is not None} for name, found in values.items()}
    return {name: Known(values=found) for name, found in known.items() if found}


def zero_shot_few(
    pool: ExtractedPool, zoo: Mapping[str, Mapping[str, Any] | None], templates: Sequence[str] | None = None
) -> dict[str, float]:
    """Return zero-shot accuracy on :data:`IMAGES` labelled images in per cent, by model.

    Args:
        pool: Features of the images, which are embeddings where a model has a text encoder.
        zoo: Settings of the models.
        templates: Prompts; None: each model's own.

    Returns:
        Empty where a model has no text encoder or a class no name: not all models could be compared.
    """
    found: dict[str, float] = {}
    for name in pool.features:
        backbone = load_backbone(name, **(zoo[name] or {}))
        if not has_text(backbone):
            return {}
        try:
            texts = class_embeddings(backbone, pool.images.classes, templates)
        except SettingError as error:
            _log.warning("%s is left out: %s", ZERO_SHOT, error)
            return {}
        features = pool.features[name]
        count = min(max(IMAGES, len(pool.images.classes)), len(features.y))
        rows = stratified_sample(features.y, count, 0)
        predicted = (F.normalize(features.x[rows].float()) @ texts.T).argmax(1)
        found[name] = 100 * float((predicted == features.y[rows]).float().mean())
    return found


def _lacking(scorers: Mapping[str, Scorer]) -> set[str]:
    return {name for name, one in scorers.items() if isinstance(one, DCD) and one.sources is None}
