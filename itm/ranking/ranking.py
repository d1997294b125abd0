"""Rank the models of a pool of features by a score."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import pandas as pd
import torch

from itm.core.console import encodable
from itm.core.errors import FeatureError, SettingError
from itm.core.features import Features
from itm.core.parallel import map_forked
from itm.core.progress import show_progress
from itm.scorers.base import Score, Scorer
from itm.scorers.common.names import by_name

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One model of a ranking.

    Args:
        model: Its name in the pool.
        runs: Its score under each seed; one for a scorer without randomness.
    """

    model: str
    runs: tuple[Score, ...]

    @property
    def values(self) -> list[float]:
        """Score under each seed."""
        return [run.value for run in self.runs]

    @property
    def score(self) -> float:
        """Mean score over the seeds."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds; None where there is one seed."""
        return statistics.stdev(self.values) if len(self.runs) > 1 else None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of scoring, all seeds together."""
        return sum(run.seconds for run in self.runs)

    @property
    def details(self) -> Mapping[str, Any]:
        """Details that the scorer recorded with the first seed's score."""
        return self.runs[0].details


@dataclass(frozen=True)
class Ranking:
    """Models in the order that a scorer predicts for fine-tuning, best first.

    Args:
        scorer: The scorer with its settings.
        entries: Scored models, best first; equal scores keep the order of the pool.
        failed: Models without a score, with the reason.
        label: Name that distinguishes it from rankings by the same scorer with other settings.
    """

    scorer: Scorer
    entries: tuple[Entry, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    label: str | None = None

    @property
    def name(self) -> str:
        """The label, or the scorer's name."""
        return self.label or self.scorer.name

    @property
    def scores(self) -> dict[str, float]:
        """Score by model, best first; higher is better."""
        return {entry.model: entry.score for entry in self.entries}

    @property
    def order(self) -> list[str]:
        """Names of the models, best first."""
        return [entry.model for entry in self.entries]

    def to_frame(self) -> pd.DataFrame:
        """Return the ranking as a table, best first.

        Returns:
            Columns ``rank`` (equal scores share the better one), ``model``, ``score``, ``std`` (over seeds; NaN for one
            seed), ``seconds``, then the scorer's plain numbers (ITM: ``n``, ``distance``, ...).
        """
        rows = []
        for entry in self.entries:
            std = float("nan") if entry.std is None else entry.std
            row = {"model": encodable(entry.model), "score": entry.score, "std": std, "seconds": entry.seconds}
            numbers = {k: v for k, v in entry.details.items() if isinstance(v, int | float) and not isinstance(v, bool)}
            rows.append(row | {k: v for k, v in numbers.items() if k not in ("rank", *row)})
        frame = pd.DataFrame(rows, columns=None if rows else ["model", "score", "std", "seconds"])
        frame.insert(0, "rank", frame["score"].rank(ascending=False, method="min").astype(int))
        return frame

    def _repr_html_(self) -> str:
        """Show the ranking as a table in a notebook."""
        table = self.to_frame()[["rank", "model", "score", "std"]]
        parts = [f"<p>{escape(self.name)}</p>", table.to_html(index=False, float_format="{:.4f}".format, na_rep="")]
        parts += [f"<p>{escape(f'no score: {model}: {reason}')}</p>" for model, reason in self.failed.items()]
        return "\n".join(parts)

    def __str__(self) -> str:
        lines = [f"{self.name}:"]
        lines += [f"{rank:>3}. {entry.model}  {entry.score:.4f}" for rank, entry in enumerate(self.entries, 1)]
        lines += [f"  -  {model}  no score: {reason}" for model, reason in self.failed.items()]
        return "\n".join(lines)


def rank(
    pool: Mapping[str, Features],
    scorer: str | Scorer = "itm",
    *,
    seed: int | None = None,
    seeds: int = 1,
    jobs: int = 1,
) -> Ranking:
    """Rank the models of a pool by a score.

    A model that cannot be scored is named in ``Ranking.failed``, and the others go on.

    Args:
        pool: Features of the same images by model name.
        scorer: A scorer, or the name of one with its default settings.
        seed: First seed of a scorer with randomness; its own where not given.
        seeds: Number of seeds, counted upwards from ``seed``; a scorer without randomness runs once.
        jobs: Processes that share the models of a scorer with randomness, see
            :func:`itm.core.parallel.map_forked`.
            Scorers without randomness are quick and share what they compute for one model: they stay in this process.

    Returns:
        The ranking.

    Raises:
        SettingError: If the pool is empty, the scorer is not known, or ``seeds`` or ``jobs`` is below 1.
        FeatureError: If the models do not share one set of classes and one number of rows, or no model could be scored.
    """
    check_pool(pool)
    for setting, value in (("seeds", seeds), ("jobs", jobs)):
        if value < 1:
            raise SettingError(f"{setting}={value}: expected a number of at least 1.")
    chosen = by_name(scorer) if isinstance(scorer, str) else scorer
    _warn_of_sample(chosen, len(next(iter(pool.values())).y))
    runs, failed = _run(chosen, _seeds(chosen, seed, seeds), pool, jobs if hasattr(chosen, "seed") else 1)
    entries = [Entry(model, tuple(scores)) for model, scores in runs.items() if model not in failed]
    if not entries:
        first = next(iter(failed))
        others = f" ({len(failed) - 1} more models likewise)" if len(failed) > 1 else ""
        raise FeatureError(f"No model could be scored. {first}: {failed[first]}{others}")
    return Ranking(chosen, tuple(sorted(entries, key=lambda entry: -entry.score)), failed)


def rank_all(
    pool: Mapping[str, Features],
    scorers: Mapping[str, Scorer],
    *,
    seed: int | None = None,
    seeds: int = 1,
    jobs: int = 1,
) -> tuple[list[Ranking], dict[str, str]]:
    """Rank the pool by several scorers; one that can score no model is left out and named with its reason.

    Args:
        pool: As in :func:`rank`.
        scorers: The scorers by the name of their ranking, in the order of the result; one scorer with several settings
            goes by several names.
        seed: As in :func:`rank`.
        seeds: As in :func:`rank`.
        jobs: As in :func:`rank`.

    Returns:
        The rankings, and the reason of each scorer that was left out by its name.

    Raises:
        FeatureError: If every scorer had to be left out.
    """
    rankings, left_out = [], {}
    for name, scorer in scorers.items():
        _log.info("Scoring %d models with %s", len(pool), name)
        try:
            ranking = rank(pool, scorer, seed=seed, seeds=seeds, jobs=jobs)
        except FeatureError as error:
            left_out[name] = str(error)
        else:
            rankings.append(dataclasses.replace(ranking, label=name))
    if not rankings:
        raise FeatureError(" ".join(left_out.values()))
    return rankings, left_out


def check_pool(pool: object) -> None:
    """Check that a pool can be ranked.

    Raises:
        SettingError: If it is not a mapping of names to features, or empty.
        FeatureError: If the models have different classes or numbers of rows.
    """
    if not isinstance(pool, Mapping):
        raise SettingError(f"pool: expected features by model name, found {type(pool).__name__}.")
    if not pool:
        raise SettingError("pool: empty; give features by model name, as in {'resnet50': itm.Features(x, y)}.")
    for model, features in pool.items():
        if not isinstance(model, str) or model.strip().casefold() in ("", "nan", "none"):
            raise SettingError(f"pool: {model!r} cannot name a model; tables would show it as missing.")
        if not isinstance(features, Features):
            found = type(features).__name__
            raise SettingError(f"pool[{model!r}]: expected itm.Features(x, y), found {found}.")
    first, *others = pool
    classes = torch.unique(pool[first].y)
    for model in others:
        if not torch.equal(torch.unique(pool[model].y), classes):
            raise FeatureError(f"{model} and {first} have different classes; compare models on one dataset only.")
        if len(pool[model].y) != len(pool[first].y):
            raise FeatureError(
                f"{model} has {len(pool[model].y)} rows and {first} {len(pool[first].y)}; compare models on the "
                "same images only."
            )


def _warn_of_sample(scorer: Scorer, rows: int) -> None:
    """Warn that a slow scorer sees a sample of the rows."""
    most = getattr(scorer, "max_rows", None)
    if most is not None and rows > most:
        _log.warning(
            "%s scores a random sample of %d of the %d rows, since its time or memory grows fast with them; "
            "scorer.%s.max_rows=null scores all.",
            *(scorer.name, most, rows, scorer.name),
        )


def _seeds(scorer: Scorer, seed: int | None, seeds: int) -> list[int]:
    """Return the seeds of a scorer with randomness; none for another one."""
    own = getattr(scorer, "seed", None)
    if own is None:
        return []
    first = own if seed is None else seed
    return list(range(first, first + seeds))


def _run(
    scorer: Scorer, seeds: Sequence[int], pool: Mapping[str, Features], jobs: int
) -> tuple[dict[str, list[Score]], dict[str, str]]:
    """Return every model's scores by seed, and the reasons of those that cannot be scored."""
    if scorer.relative:
        return scorer.evaluate_sound(pool, seeds)
    with show_progress(f"Scoring with {scorer.name}", len(pool), unit="models") as advance:
        outcomes = map_forked(
            lambda model: scorer.evaluate_sound({model: pool[model]}, seeds), list(pool), jobs, advance
        )
    runs: dict[str, list[Score]] = {}
    failed: dict[str, str] = {}
    for scores, reasons in outcomes:
        runs.update(scores)
        failed.update(reasons)
    return runs, failed
