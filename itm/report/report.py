"""A run's rankings as a table on the console, CSV, JSON and one HTML page."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from itm.core.console import cell
from itm.core.files import storage_errors, write_atomic
from itm.core.provenance import versions
from itm.data.image_set import ImageSet
from itm.evaluation.comparison import TruthComparison
from itm.evaluation.difficulty import Difficulty
from itm.evaluation.predicted_masks import MaskExamples
from itm.extraction.candidate import Candidate
from itm.ranking.race_result import RaceResult
from itm.ranking.ranking import Entry, Ranking
from itm.ranking.recommend import Recommendation
from itm.report import console as tables
from itm.report import page
from itm.report.decision import agreement
from itm.report.output import write_csv
from itm.scorers import Combined

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """Everything one run found.

    Args:
        images: The images that the features are of.
        rankings: One ranking per scorer; the first one decides and orders the tables.
        recommendation: The model to fine-tune, by the first ranking.
        candidates: Every model with features, by name.
        failed: Models without features, with the reason.
        left_out: Scorers that could not run, with the reason.
        settings: The resolved settings of the run.
        comparison: The rankings beside the true one; None where the true accuracies are not known.
        command: The command line, as typed; empty where there was none.
        date: When the run ended.
        difficulty: How hard each class is for the recommended model; None where it is not known.
        race: The race that dropped models; None where every model saw all images.
        examples: Images with predicted masks, for segmentation.
    """

    images: ImageSet
    rankings: Sequence[Ranking]
    recommendation: Recommendation
    candidates: Mapping[str, Candidate]
    failed: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    comparison: TruthComparison | None = None
    command: str = ""
    date: datetime = field(default_factory=lambda: datetime.now().astimezone())
    difficulty: Difficulty | None = None
    race: RaceResult | None = None
    examples: MaskExamples | None = None

    @property
    def measure(self) -> str:
        """Name of the true values: the accuracy, or the mean IoU of images with masks."""
        return "accuracy" if self.images.masks is None else "mean IoU"

    @property
    def dataset(self) -> dict[str, Any]:
        """Facts on the images by name: name, split, number of images and classes, licence, fingerprint."""
        return {
            "name": self.images.name,
            "split": self.images.split,
            "images": len(self.images),
            "classes": len(self.images.classes),
            "license": self.images.license,
            "fingerprint": self.images.fingerprint,
        }

    @property
    def truth(self) -> dict[str, float]:
        """True accuracy by model, percent, best first; empty where it is not known."""
        return {} if self.comparison is None else self.comparison.accuracy

    def to_frame(self) -> pd.DataFrame:
        """Return one row per scorer and model, best first: the ranking's columns and the candidate's numbers.

        ``p_best`` is the probability that the model is the best one, by the first scorer; NaN where it is not known.
        Where the truth is known, it has ``true_accuracy`` (percent) and ``true_rank``, too; equal accuracies share the
        better rank. Models that a race dropped follow without rank and score, with ``dropped_in_round`` and ``reason``.
        """
        frames = []
        for ranking in self.rankings:
            frame = ranking.to_frame()
            frame.insert(0, "scorer", ranking.name)
            facts = [self.candidates[model] for model in ranking.order]
            chances = self.recommendation.probabilities
            frame["p_best"] = [chances.get(model, math.nan) for model in ranking.order]
            frame["parameters"] = [model.parameters for model in facts]
            for column in ("input_size", "dim", "pretraining"):
                frame[column] = [getattr(model, column) for model in facts]
            if any(model.stride for model in facts):  # sampled pixels
                frame["stride"] = [model.stride for model in facts]
            frame["extraction_seconds"] = [model.seconds for model in facts]
            if self.truth:
                places = pd.Series(self.truth).rank(ascending=False, method="min")
                frame["true_accuracy"] = [self.truth.get(model, math.nan) for model in ranking.order]
                frame["true_rank"] = pd.array([places.get(model) for model in ranking.order], dtype="Int64")
            frames.append(frame)
        table = pd.concat(frames, ignore_index=True)
        return table if self.race is None else self._with_dropped(table, self.race)

    def _with_dropped(self, table: pd.DataFrame, race: RaceResult) -> pd.DataFrame:
        """Return the table with the models that the race dropped below the others."""
        truth = {} if self.comparison is None else self.comparison.truth.accuracy
        rows = []
        for model, standing in race.dropped.items():
            row: dict[str, Any] = {"scorer": "race", "model": model, "true_accuracy": truth.get(model)}
            row |= {"dropped_in_round": standing.round, "reason": standing.reason}
            facts = race.candidates[model]
            row |= {name: getattr(facts, name) for name in ("parameters", "input_size", "dim", "pretraining")}
            rows.append(row)
        columns = [*table.columns, "dropped_in_round", "reason"]
        joined = pd.DataFrame([*table.to_dict("records"), *rows], columns=columns)
        if "true_rank" in joined:  # among the dropped models, too
            known = joined.drop_duplicates("model").set_index("model")["true_accuracy"]
            joined["true_rank"] = joined["model"].map(known.rank(ascending=False, method="min"))
        whole = [name for name in ("rank", "true_rank", "dropped_in_round") if name in joined]
        return joined.astype(dict.fromkeys(whole, "Int64"))

    def to_dict(self) -> dict[str, Any]:
        """Return the whole report as plain values, the content of ``ranking.json``."""
        return {
            "dataset": self.dataset,
            "decision": self.recommendation.sentence,
            "warnings": self.all_warnings(),
            "recommendation": dataclasses.asdict(self.recommendation),
            "rankings": [_ranking_dict(ranking) for ranking in self.rankings],
            "models": {name: dataclasses.asdict(candidate) for name, candidate in self.candidates.items()},
            "failed": dict(self.failed),
            "left_out": dict(self.left_out),
            "race": None if self.race is None else self.race.to_dict(),
            "difficulty": None if self.difficulty is None else dataclasses.asdict(self.difficulty),
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "settings": dict(self.settings),
            "versions": versions(),
            "command": self.command,
            "date": self.date.isoformat(timespec="seconds"),
        }

    def write(self, folder: Path, setting: str = "hydra.run.dir") -> list[Path]:
        """Write ``ranking.csv``, ``ranking.json``, where there are any ``comparison.csv`` and ``race.csv``, and
        ``report.html``.

        Scores come first. A page that cannot be made or written is a warning in the log.

        Args:
            folder: Output folder; created if missing.
            setting: The setting that decides the folder, for the message of an error.

        Returns:
            Paths of the files written, the page last.

        Raises:
            StoreError: If a table cannot be written.
        """
        written = []
        with storage_errors(setting, "write", folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_csv(self.to_frame(), folder / "ranking.csv")
            content = json.dumps(_null_for_nan(self.to_dict()), indent=2, ensure_ascii=False, allow_nan=False)
            write_atomic(folder / "ranking.json", content.encode("utf-8", "backslashreplace"))
            written += [folder / "ranking.csv", folder / "ranking.json"]
            if self.comparison is not None and self.comparison.rows:
                write_csv(self.comparison.to_frame(), folder / "comparison.csv")
                written.append(folder / "comparison.csv")
            if self.race is not None:
                write_csv(self.race.to_frame(), folder / "race.csv")
                written.append(folder / "race.csv")
        try:
            write_atomic(folder / "report.html", self.to_html().encode("utf-8"))
            written.append(folder / "report.html")
        except Exception as error:  # the scores are on disk; the page must not end the run
            _log.warning("%s: not written (%s); the scores are in ranking.csv.", folder / "report.html", error)
        return written

    def to_html(self) -> str:
        """Return the report as one page that needs no other file and no network."""
        return page.to_html(self)

    def failures(self) -> dict[str, str]:
        """Return what has no score and why: models without features, models a scorer refused, scorers left out."""
        refused = {
            f"{model} ({ranking.name})": reason for ranking in self.rankings for model, reason in ranking.failed.items()
        }
        return {**self.failed, **refused, **{f"scorer {name}": reason for name, reason in self.left_out.items()}}

    def all_warnings(self) -> list[str]:
        """Return the sentences that a reader needs before the decision."""
        said = list(self.recommendation.warnings)
        skipped = {item for candidate in self.candidates.values() for item in candidate.skipped}
        if skipped:
            said.append(f"{len(skipped)} image(s) could not be read and were skipped: {min(skipped)}")
        if self.failed:
            said.append(f"{len(self.failed)} model(s) have no features and no score: {', '.join(self.failed)}.")
        return said

    def show(self, console: Console) -> None:
        """Print the decision, the table of scores, the comparison with the truth and what failed."""
        chances, models, title = self.recommendation.probabilities, self.candidates, self._title()
        if len(self.rankings) == 1:
            shown = tables.ranking_tables(self.rankings[0], chances, models, title, self.truth, console.width)
        else:
            taus = agreement(self.rankings)[self.rankings[0].name]
            shown = tables.scores_tables(self.rankings, chances, models, title, taus, self.truth, console.width)
        for table in shown:
            console.print(table)
        for sentence in self.all_warnings():
            console.print(f"[yellow]warning[/yellow] {cell(sentence)}", highlight=False)
        console.print(cell(self.recommendation.sentence), highlight=False)
        if self.comparison is not None:
            if self.comparison.rows:
                console.print(tables.truth_table(self.comparison))
            console.print(cell(" ".join(self.comparison.notes())), highlight=False)
        for sentence in () if self.race is None else self.race.sentences():
            console.print(cell(sentence), highlight=False)
        for name, reason in self.failures().items():
            console.print(f"[red]no score[/red] {cell(f'{name}: {reason}')}", highlight=False)

    def _title(self) -> str:
        return "{name} ({images} images, {classes} classes)".format(**self.dataset)


def _null_for_nan(value: Any) -> Any:
    """Return the values with None in place of every number that JSON cannot write."""
    if isinstance(value, Mapping):
        return {key: _null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ranking_dict(ranking: Ranking) -> dict[str, Any]:
    settings = {f.name: getattr(ranking.scorer, f.name) for f in dataclasses.fields(ranking.scorer)}
    if isinstance(ranking.scorer, Combined):
        settings["members"] = ", ".join(member.name for member in ranking.scorer.scorers)
    return {
        "scorer": ranking.name,
        "settings": {name: value for name, value in settings.items() if isinstance(value, int | float | str | None)},
        "entries": [_entry_dict(place, entry) for place, entry in enumerate(ranking.entries, 1)],
        "failed": dict(ranking.failed),
    }


def _entry_dict(place: int, entry: Entry) -> dict[str, Any]:
    return {
        "rank": place,
        "model": entry.model,
        "score": entry.score,
        "std": entry.std,
        "seconds": entry.seconds,
        "runs": [{"score": run.value, "seconds": run.seconds, **run.details} for run in entry.runs],
    }
