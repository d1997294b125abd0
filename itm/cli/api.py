"""The Python door: a whole estimate in one call, without Hydra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from itm.cli.models import AUTO, Models, choose_models, named_zoo
from itm.cli.pipeline import run_estimate
from itm.core.devices import Accelerator, PrecisionChoice
from itm.core.errors import SettingError
from itm.core.files import home_folder
from itm.core.settings import Count, OnError, settings
from itm.data.image_set import load_images
from itm.models.budget import Budget
from itm.ranking.race import Race
from itm.ranking.ranking import Ranking
from itm.ranking.recommend import RESAMPLES, Recommendation
from itm.report.report import Report
from itm.scorers.base import Scorer
from itm.scorers.common.names import by_name

DEFAULT_SCORERS = ("combined", "itm", "logme", "regularized_hscore")
"""Scorers of a run that names none; the first one decides."""


@settings("")
class _Arguments:
    """Types and bounds of the arguments of :func:`estimate`."""

    models: str | list[str] | tuple[str, ...] | dict[str, Any] | None
    zoo: str
    image_size: Count | None
    scorer: str | Scorer | list[str | Scorer] | tuple[str | Scorer, ...]
    pretrained: bool
    seeds: Count
    seed: Annotated[int, Field(ge=0)]
    resamples: Count
    limit: Annotated[int, Field(ge=2)] | None
    budget: dict[str, Any] | Budget | None
    race: bool | dict[str, Any] | Race
    groundtruth: str | Path | None
    sources: list[str]
    source_table: str | Path | None
    templates: list[str] | None
    on_error: OnError
    columns: dict[str, str | None] | None
    config: str | None
    store: str | Path | None
    device: Accelerator
    precision: PrecisionChoice
    batch_size: Count
    workers: Annotated[int, Field(ge=0)] | None
    jobs: Count | None


@dataclass(frozen=True, repr=False)
class Estimate:
    """Result of :func:`estimate`; prints as a table, and a notebook shows it as one.

    Args:
        found: The whole report: images, models, rankings, failures, comparison with the ground truth.
        removed: Models that the budget removed, with the reason.
    """

    found: Report
    removed: Mapping[str, str]

    @property
    def rankings(self) -> tuple[Ranking, ...]:
        """One ranking per scorer, in the order given."""
        return tuple(self.found.rankings)

    @property
    def ranking(self) -> Ranking:
        """The ranking of the first scorer."""
        return self.rankings[0]

    @property
    def recommendation(self) -> Recommendation:
        """The model to fine-tune, and the probability that each model is the best."""
        return self.found.recommendation

    def to_frame(self) -> pd.DataFrame:
        """Return one row per scorer and model, best first, see :meth:`itm.report.report.Report.to_frame`."""
        return self.found.to_frame()

    def report(self, folder: str | Path) -> Path:
        """Write ``ranking.csv``, ``ranking.json`` and ``report.html``, and return the page.

        Raises:
            StoreError: If the folder cannot be written.
        """
        return self.found.write(Path(folder).expanduser(), setting="folder")[-1]

    def __str__(self) -> str:
        said = [*self.found.all_warnings(), str(self.recommendation), *self._notes()]
        return "\n".join([*(str(ranking) for ranking in self.rankings), *said])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        frame = self.to_frame()
        columns = ["rank", "model", "score", "std", "p_best", "parameters"]
        if len(self.rankings) > 1:
            columns.insert(0, "scorer")
        parts = [frame[columns].to_html(index=False, float_format="{:.3f}".format, na_rep="")]
        said = [*self.found.all_warnings(), str(self.recommendation), *self._notes()]
        parts += [f"<p>{escape(line)}</p>" for line in said]
        return "\n".join(parts)

    def _notes(self) -> list[str]:
        race = self.found.race
        notes = [] if race is None else race.sentences()
        notes += [f"no score: {name}: {reason}" for name, reason in self.found.failures().items()]
        return notes + [f"removed: {name}: {reason}" for name, reason in self.removed.items()]


def estimate(
    data: Any,
    models: Models | None = None,
    scorer: str | Scorer | Sequence[str | Scorer] = DEFAULT_SCORERS,
    *,
    zoo: str = "demo",
    image_size: int | None = None,
    pretrained: bool = True,
    seeds: int = 3,
    seed: int = 0,
    resamples: int = RESAMPLES,
    limit: int | None = None,
    budget: Mapping[str, Any] | Budget | None = None,
    race: bool | Mapping[str, Any] | Race = False,
    groundtruth: str | Path | None = "shipped",
    sources: Sequence[str] = (),
    source_table: str | Path | None = None,
    templates: Sequence[str] | None = None,
    on_error: OnError = "stop",
    columns: Mapping[str, str | None] | None = None,
    config: str | None = None,
    store: str | Path | None = None,
    device: Accelerator = "cpu",
    precision: PrecisionChoice = "32",
    batch_size: int = 64,
    workers: int | None = None,
    jobs: int | None = None,
) -> Estimate:
    """Rank pre-trained models for fine-tuning on labelled images.

    Args:
        data: A folder, a dataset's name, a table, a DataFrame, or a sequence of pairs of image and label; see
            :func:`itm.load_images`, whose result is also taken as it is.
        models: Names of models, also with ``*`` and ``?`` over timm's pretrained ids; settings of
            :func:`itm.load_backbone` by name; the name of a zoo; or None, for the whole ``zoo``.
        scorer: Name of a scorer, a scorer, or several; the first one decides the order and the recommendation.
        zoo: Name of a zoo of ``configs/zoo``, or ``"auto"``: of all that timm has, the models that fit the budget and
            differ most. Without limits on number or cost: 24 models of at most 30 million parameters.
        image_size: Side in pixels that every model sees; None keeps each model's own.
        pretrained: Fetch published weights; False builds randomly initialised controls. Models with a ``checkpoint``
            and the models of a zoo keep theirs.
        seeds: Number of seeds of a scorer with randomness.
        seed: First of the seeds, and seed of the splits.
        resamples: Number of random halves of the images that the first scorer also sees, for the probability of each
            model to be the best.
        limit: Number of images of a seeded, stratified sample; None takes all.
        budget: Limits on the models, see :class:`itm.models.budget.Budget`, as in ``{"parameters": 30e6}``.
        race: Whether to drop weak models before they see all images; or the settings of :class:`itm.ranking.race.Race`,
            as in ``{"start": 200}``.
        groundtruth: ``"shipped"``, ``"paper"``, a CSV file or None: accuracies to compare the ranking with.
        sources: Datasets of the source tasks of :class:`itm.scorers.DCD`, by name or folder.
        source_table: Accuracies on them: a CSV file or an address, also of open_clip's results; None: a shipped table.
        templates: Prompts of DCD's control ``zero_shot_few``; None: each model's own.
        on_error: ``"stop"`` or ``"skip"``: what an unreadable image does to the run.
        columns: Names of the columns ``image``, ``label`` and ``split``; by default they are found.
        config: Configuration of a Hugging Face dataset.
        store: Folder of the stored features; ``$ITM_HOME/features`` or ``~/.cache/itm/features`` where not given.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        precision: ``"32"``, ``"16"`` or ``"bf16"``, of the extraction; ``"auto"`` takes ``"bf16"`` where the device has
            units for it and the features agree.
        batch_size: Images of a forward pass.
        workers: Processes that decode images.
        jobs: Processes that score models.

    Returns:
        The rankings, a recommendation and the report.

    Raises:
        SettingError: If an argument is wrong; the message names it.
        ItmError: If the images, the models or the store fail.
    """
    _Arguments(
        models=_plain(models), zoo=zoo, image_size=image_size, scorer=_plain(scorer), pretrained=pretrained,
        seeds=seeds, seed=seed, resamples=resamples, limit=limit, budget=_plain(budget), race=_plain(race),
        groundtruth=groundtruth, sources=_plain(sources), source_table=source_table, templates=_plain(templates),
        on_error=on_error, columns=_plain(columns), config=config, store=store, device=device,
        precision=precision, batch_size=batch_size, workers=workers, jobs=jobs,
    )  # fmt: skip
    scorers = _scorers([scorer] if isinstance(scorer, str | Scorer) else scorer)
    known = {AUTO: {}} if zoo == AUTO else named_zoo(zoo)
    images = None
    if not isinstance(data, str | Path):
        images = load_images(data, seed=seed, limit=limit, columns=columns, config=config, on_error=on_error)
    name = str(data) if images is None else images.name
    described = {
        "name": name, "limit": limit, "on_error": on_error, "root": None, "range": None, "bands": None,
        "columns": _plain(columns), "config": config,
    }  # fmt: skip
    chosen = choose_models(
        {"zoo": known, "models": models, "pretrained": pretrained, "image_size": image_size, "budget": budget,
         "data": described, "seed": seed},
        images,
    )  # fmt: skip
    run = {
        "data": described,
        "zoo": chosen.zoo,
        "trainer": {"accelerator": device, "precision": precision, "batch_size": batch_size, "workers": workers},
        "source": {"name": None, "limit": None},
        "sources": list(sources),
        "source_table": None if source_table is None else str(source_table),
        "templates": None if templates is None else list(templates),
        "race": race,
        "groundtruth": None if groundtruth is None else str(groundtruth),
        "seed": seed,
        "seeds": seeds,
        "resamples": resamples,
        "jobs": jobs,
        "store": str(store or default_store()),
        "scorer": list(scorers),
    }
    found = run_estimate(run, scorers, images)
    return Estimate(found, chosen.removed)


def default_store() -> Path:
    """Return the folder of stored features: ``$ITM_HOME/features``, or ``~/.cache/itm/features``."""
    return home_folder() / "features"


def _scorers(chosen: Sequence[str | Scorer]) -> dict[str, Scorer]:
    scorers = {}
    for one in chosen:
        scorer = by_name(one) if isinstance(one, str) else one
        scorers[scorer.name] = scorer
    if not scorers:
        raise SettingError("scorer: empty; name at least one, as in scorer='itm'.")
    return scorers


def _plain(value: Any) -> Any:
    """Return a mapping as a dict and a sequence as a list, which is what the arguments' types ask for."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return list(value)
    return value
