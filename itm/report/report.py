"""A run's rankings as a table on the console, CSV, JSON and one HTML page."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import torch
from PIL import Image
from rich.console import Console
from rich.markup import escape

from itm.core.errors import DataError
from itm.data.image_set import ImageSet
from itm.evaluation.comparison import TruthComparison
from itm.extraction.pool import Candidate
from itm.metrics.single import kendall_tau
from itm.ranking.ranking import Ranking
from itm.report import console as tables
from itm.report import figures

PACKAGES = ("itm", "torch", "torchvision", "timm", "lightning", "scikit-learn", "numpy", "pillow")


@dataclass(frozen=True)
class Report:
    """Everything one run found.

    Args:
        images: The images that the features are of.
        rankings: One ranking per scorer; the first one orders the tables.
        candidates: Every model with features, by name.
        failed: Models without features, with the reason.
        left_out: Scorers that could not run, with the reason.
        settings: The resolved settings of the run.
        comparison: The rankings beside the true one; None where the true accuracies are not known.
    """

    images: ImageSet
    rankings: Sequence[Ranking]
    candidates: Mapping[str, Candidate]
    failed: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    comparison: TruthComparison | None = None

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
        """One row per scorer and model, best first: the ranking's columns and the candidate's numbers.

        Where the truth is known, ``true_accuracy`` (percent) and ``true_rank`` stand beside them; equal accuracies
        share the better rank.
        """
        frames = []
        for ranking in self.rankings:
            frame = ranking.to_frame()
            frame.insert(0, "scorer", ranking.name)
            for column in ("parameters", "input_size", "dim", "pretraining"):
                frame[column] = [getattr(self.candidates[model], column) for model in frame["model"]]
            frame["extraction_seconds"] = [self.candidates[model].seconds for model in frame["model"]]
            if self.truth:
                truth = pd.Series(self.truth)
                frame["true_accuracy"] = frame["model"].map(truth)
                frame["true_rank"] = frame["model"].map(truth.rank(ascending=False, method="min")).astype("Int64")
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain values, as ``ranking.json`` holds it."""
        return {
            "dataset": self.dataset,
            "rankings": [_ranking_dict(ranking) for ranking in self.rankings],
            "models": {name: dataclasses.asdict(candidate) for name, candidate in self.candidates.items()},
            "failed": dict(self.failed),
            "left_out": dict(self.left_out),
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "settings": dict(self.settings),
            "versions": versions(),
        }

    def write(self, folder: Path) -> list[Path]:
        """Write ``ranking.csv``, ``ranking.json``, ``report.html`` and, where there is one, ``comparison.csv``.

        Args:
            folder: Where to; made if need be.

        Returns:
            The files' paths.
        """
        folder.mkdir(parents=True, exist_ok=True)
        compared = self.comparison is not None and len(self.comparison.rows) > 0
        names = ("ranking.csv", "ranking.json", *["comparison.csv"] * compared, "report.html")
        paths = [folder / name for name in names]
        self.to_frame().to_csv(paths[0], index=False)
        content = json.dumps(_null_for_nan(self.to_dict()), indent=2, ensure_ascii=False, allow_nan=False)
        paths[1].write_text(content, encoding="utf-8")
        if self.comparison is not None and compared:
            self.comparison.to_frame().to_csv(paths[2], index=False)
        paths[-1].write_text(self.to_html(), encoding="utf-8")
        return paths

    def to_html(self) -> str:
        """The report as one page that needs no other file and no network."""
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        template = environment.from_string((files("itm.report") / "templates" / "report.html.j2").read_text("utf-8"))
        pictures = []
        for ranking in self.rankings:
            drawn = (figures.score_bars(ranking), figures.score_curves(ranking))
            pictures.append([figures.as_data_uri(figure) for figure in drawn if figure is not None])
        truth = figures.truth_scatter(self.rankings, self.truth) if self.comparison and self.comparison.rows else None
        return template.render(
            report=self,
            truth_picture=truth and figures.as_data_uri(truth),
            pictures=pictures,
            samples=[(label, _thumbnail(image)) for label, image in sample_images(self.images)],
            versions=versions(),
            verdicts=[verdict(ranking) for ranking in self.rankings],
            settings=json.dumps(self.settings, indent=2, ensure_ascii=False),
            failures=self.failures(),
            agreement=agreement(self.rankings) if len(self.rankings) > 1 else None,
        )

    def failures(self) -> dict[str, str]:
        """Whatever has no score and why: models without features, models a scorer refused, scorers left out."""
        refused = {
            f"{model} ({ranking.name})": reason for ranking in self.rankings for model, reason in ranking.failed.items()
        }
        return {**self.failed, **refused, **{f"scorer {name}": reason for name, reason in self.left_out.items()}}

    def show(self, console: Console) -> None:
        """Print the table, the margin of the winner and what failed."""
        facts = self.candidates, self._title()
        if len(self.rankings) == 1:
            console.print(tables.ranking_table(self.rankings[0], *facts, self.truth))
        else:
            taus = agreement(self.rankings)[self.rankings[0].name]
            for table in tables.scores_tables(self.rankings, *facts, taus, self.truth, console.width):
                console.print(table)
        console.print(escape(verdict(self.rankings[0])), highlight=False)
        if self.comparison is not None:
            if self.comparison.rows:
                console.print(tables.truth_table(self.comparison))
            console.print(escape(" ".join(self.comparison.notes())), highlight=False)
        for name, reason in self.failures().items():
            console.print(f"[red]no score[/red] {escape(f'{name}: {reason}')}", highlight=False)
        skipped = sorted({item for candidate in self.candidates.values() for item in candidate.skipped})
        if skipped:
            console.print(
                f"[yellow]{len(skipped)} image(s) could not be read[/yellow] and were skipped: {escape(skipped[0])}"
            )

    def _title(self) -> str:
        return "{name} ({images} images, {classes} classes)".format(**self.dataset)


def sample_images(images: ImageSet, count: int = 12) -> list[tuple[str, Image.Image]]:
    """A few images with the name of their class, spread over the classes; unreadable ones are passed over."""
    order = torch.argsort(images.labels, stable=True)
    samples = []
    for index in order[torch.linspace(0, len(order) - 1, min(count, len(order))).long()].tolist():
        with contextlib.suppress(DataError):
            samples.append((images.classes[int(images.labels[index])], images.image(index)))
    return samples


def verdict(ranking: Ranking) -> str:
    """One sentence on the winner and how clear its lead is against the spread over seeds."""
    if len(ranking.entries) < 2:
        return f"{ranking.name}: one model only, so there is nothing to compare it with."
    best, second = ranking.entries[:2]
    margin = best.score - second.score
    if margin == 0:
        *others, last = [entry.model for entry in ranking.entries if entry.score == best.score]
        return f"{ranking.name}: {', '.join(others)} and {last} share the first place."
    words = f"{ranking.name}: {best.model} leads {second.model} by {margin:.3g}"
    spread = max(best.std or 0.0, second.std or 0.0)
    if spread == 0:
        return words + "."
    clear = "a clear lead" if margin > 2 * spread else "too close to call"
    return f"{words}, {margin / spread:.1f} times the spread over seeds: {clear}."


def agreement(rankings: Sequence[Ranking]) -> pd.DataFrame:
    """Kendall's tau between the orders of every two scorers, over the models that both scored."""
    names = [ranking.name for ranking in rankings]
    frame = pd.DataFrame(1.0, index=names, columns=names)
    for a in rankings:
        for b in rankings:
            shared = [model for model in a.scores if model in b.scores]
            if a is not b:
                first, second = [a.scores[m] for m in shared], [b.scores[m] for m in shared]
                known = len(set(first)) > 1 and len(set(second)) > 1
                frame.loc[a.name, b.name] = kendall_tau(first, second) if known else float("nan")
    return frame


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a score."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _null_for_nan(value: Any) -> Any:
    """The same values with None in place of every number that JSON cannot write."""
    if isinstance(value, Mapping):
        return {key: _null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ranking_dict(ranking: Ranking) -> dict[str, Any]:
    settings = {f.name: getattr(ranking.scorer, f.name) for f in dataclasses.fields(ranking.scorer)}
    return {
        "scorer": ranking.name,
        "settings": {name: value for name, value in settings.items() if isinstance(value, int | float | str | None)},
        "entries": [
            {
                "rank": place,
                "model": entry.model,
                "score": entry.score,
                "std": entry.std,
                "seconds": entry.seconds,
                "runs": [{"score": run.value, "seconds": run.seconds, **run.details} for run in entry.runs],
            }
            for place, entry in enumerate(ranking.entries, 1)
        ],
        "failed": dict(ranking.failed),
    }


def _thumbnail(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((96, 96))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
