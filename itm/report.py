"""A run's rankings as a table on the console, CSV, JSON and one HTML page."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
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
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from itm import figures
from itm.data import ImageSet
from itm.errors import DataError
from itm.metrics import kendall_tau
from itm.ranking import Ranking
from itm.zoo import Candidate

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
    """

    images: ImageSet
    rankings: Sequence[Ranking]
    candidates: Mapping[str, Candidate]
    failed: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

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

    def to_frame(self) -> pd.DataFrame:
        """One row per scorer and model, best first: the ranking's columns and the candidate's numbers."""
        frames = []
        for ranking in self.rankings:
            frame = ranking.to_frame()
            frame.insert(0, "scorer", ranking.scorer.name)
            for column in ("parameters", "input_size", "dim", "pretraining"):
                frame[column] = [getattr(self.candidates[model], column) for model in frame["model"]]
            frame["extraction_seconds"] = [self.candidates[model].seconds for model in frame["model"]]
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
            "settings": dict(self.settings),
            "versions": versions(),
        }

    def write(self, folder: Path) -> list[Path]:
        """Write ``ranking.csv``, ``ranking.json`` and ``report.html`` into a folder.

        Args:
            folder: Where to; made if need be.

        Returns:
            The files' paths.
        """
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / name for name in ("ranking.csv", "ranking.json", "report.html")]
        self.to_frame().to_csv(paths[0], index=False)
        paths[1].write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False), encoding="utf-8")
        paths[2].write_text(self.to_html(), encoding="utf-8")
        return paths

    def to_html(self) -> str:
        """The report as one page that needs no other file and no network."""
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        template = environment.from_string((files("itm") / "templates" / "report.html.j2").read_text("utf-8"))
        pictures = []
        for ranking in self.rankings:
            drawn = (figures.score_bars(ranking), figures.score_curves(ranking))
            pictures.append([figures.as_data_uri(figure) for figure in drawn if figure is not None])
        return template.render(
            report=self,
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
            f"{model} ({ranking.scorer.name})": reason
            for ranking in self.rankings
            for model, reason in ranking.failed.items()
        }
        return {**self.failed, **refused, **{f"scorer {name}": reason for name, reason in self.left_out.items()}}

    def show(self, console: Console) -> None:
        """Print the table, the margin of the winner and what failed."""
        console.print(self._table() if len(self.rankings) == 1 else self._comparison())
        console.print(escape(verdict(self.rankings[0])), highlight=False)
        for name, reason in self.failures().items():
            console.print(f"[red]no score[/red] {escape(f'{name}: {reason}')}", highlight=False)
        skipped = sorted({item for candidate in self.candidates.values() for item in candidate.skipped})
        if skipped:
            console.print(
                f"[yellow]{len(skipped)} image(s) could not be read[/yellow] and were skipped: {escape(skipped[0])}"
            )

    def _title(self) -> str:
        return escape("{name} ({images} images, {classes} classes)".format(**self.dataset))

    def _table(self) -> Table:
        (ranking,) = self.rankings
        table = _plain_table(f"{ranking.scorer.name} on {self._title()}")
        for header, justify in (
            ("#", "right"),
            ("model", "left"),
            ("score", "right"),
            ("params", "right"),
            ("pixels", "right"),
            ("dim", "right"),
            ("extract s", "right"),
            ("score s", "right"),
        ):
            table.add_column(header, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for place, entry in enumerate(ranking.entries, 1):
            model = self.candidates[entry.model]
            seconds = f"{model.seconds:.1f}" + (" (stored)" if model.cached else "")
            table.add_row(
                str(place),
                escape(entry.model),
                _spread(entry.score, entry.std),
                f"{model.parameters / 1e6:.1f} M",
                str(model.input_size),
                str(model.dim),
                seconds,
                f"{entry.seconds:.1f}",
            )
        return table

    def _comparison(self) -> Table:
        """A row per scorer: each model's score and its place in that scorer's own order; the priors stand below."""
        table = _plain_table(f"Scores on {self._title()}; (place)")
        places = [{m: place for place, m in enumerate(ranking.order, 1)} for ranking in self.rankings]
        models = sorted(self.candidates, key=lambda m: places[0].get(m, len(self.candidates) + 1))
        first = self.rankings[0].scorer.name
        table.add_column("scorer", no_wrap=True)
        for model in models:
            table.add_column(escape(model), justify="right", overflow="fold")
        table.add_column(f"tau with {first}", justify="right")
        taus = agreement(self.rankings)[first]
        for ranking, place in zip(self.rankings, places, strict=True):
            cells = [f"{ranking.scores[m]:.3g} ({place[m]})" if m in place else "-" for m in models]
            table.add_row(ranking.scorer.name, *cells, f"{taus[ranking.scorer.name]:.2f}")
        table.add_section()
        facts = [self.candidates[model] for model in models]
        table.add_row("parameters", *(f"{fact.parameters / 1e6:.1f} M" for fact in facts), "")
        accuracies = (fact.source_accuracy for fact in facts)
        table.add_row("ImageNet %", *("-" if value is None else f"{value:.1f}" for value in accuracies), "")
        return table


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
        return f"{ranking.scorer.name}: one model only, so there is nothing to compare it with."
    best, second = ranking.entries[:2]
    margin = best.score - second.score
    if margin == 0:
        return f"{ranking.scorer.name}: {best.model} and {second.model} share the first place."
    words = f"{ranking.scorer.name}: {best.model} leads {second.model} by {margin:.3g}"
    spread = max(best.std or 0.0, second.std or 0.0)
    if spread == 0:
        return words + "."
    clear = "a clear lead" if margin > 2 * spread else "too close to call"
    return f"{words}, {margin / spread:.1f} times the spread over seeds: {clear}."


def agreement(rankings: Sequence[Ranking]) -> pd.DataFrame:
    """Kendall's tau between the orders of every two scorers, over the models that both scored."""
    names = [ranking.scorer.name for ranking in rankings]
    frame = pd.DataFrame(1.0, index=names, columns=names)
    for a in rankings:
        for b in rankings:
            shared = [model for model in a.scores if model in b.scores]
            if a is not b:
                first, second = [a.scores[m] for m in shared], [b.scores[m] for m in shared]
                known = len(set(first)) > 1 and len(set(second)) > 1
                frame.loc[a.scorer.name, b.scorer.name] = kendall_tau(first, second) if known else float("nan")
    return frame


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a score."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _plain_table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1))


def _ranking_dict(ranking: Ranking) -> dict[str, Any]:
    settings = {f.name: getattr(ranking.scorer, f.name) for f in dataclasses.fields(ranking.scorer)}
    return {
        "scorer": ranking.scorer.name,
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


def _spread(score: float, std: float | None) -> str:
    return f"{score:.4g}" if std is None else f"{score:.3f} ± {std:.3f}"


def _thumbnail(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((96, 96))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
