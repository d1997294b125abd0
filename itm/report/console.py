"""Every table of the console."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Literal

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from itm.evaluation.comparison import TruthComparison
from itm.extraction.pool import Candidate
from itm.ranking.ranking import Ranking

Accuracy = Mapping[str, float]
"""True accuracy by model, percent; empty where there is none."""

_SCORE = len("  0.0123 (14)")
_BESIDE_SCORES = len("  regularized_hscore  tau with")


def ranking_table(ranking: Ranking, candidates: Mapping[str, Candidate], title: str, truth: Accuracy) -> Table:
    """One scorer's ranking, best first, with each model's facts."""
    table = _plain_table(f"{ranking.name} on {escape(title)}")
    known = ["true %"] * bool(truth)
    _columns(table, "#", "<model", "score", *known, "params", "pixels", "dim", "extract s", "score s")
    for place, entry in enumerate(ranking.entries, 1):
        model = candidates[entry.model]
        score = f"{entry.score:.4g}" if entry.std is None else f"{entry.score:.3f} ± {entry.std:.3f}"
        table.add_row(
            str(place),
            escape(entry.model),
            score,
            *([_accuracy(truth, entry.model)] if truth else []),
            f"{model.parameters / 1e6:.1f} M",
            str(model.input_size),
            str(model.dim),
            f"{model.seconds:.1f}" + (" (stored)" if model.cached else ""),
            f"{entry.seconds:.1f}",
        )
    return table


def scores_tables(
    rankings: Sequence[Ranking],
    candidates: Mapping[str, Candidate],
    title: str,
    taus: pd.Series[float],
    truth: Accuracy,
    width: int,
) -> Iterator[Table]:
    """A row per scorer: each model's score and its place in that scorer's own order; facts and truth stand below.

    Args:
        rankings: The first one orders the models.
        candidates: Facts by model.
        title: What the images are.
        taus: Kendall's tau with the first ranking, by scorer.
        truth: True accuracies.
        width: Characters of a line. Models that do not fit stand in a further table.
    """
    places = [{m: place for place, m in enumerate(ranking.order, 1)} for ranking in rankings]
    models = sorted(candidates, key=lambda m: places[0].get(m, len(candidates) + 1))
    fit = max(1, (width - _BESIDE_SCORES) // _SCORE)
    for start in range(0, len(models), fit):
        part = f"; models {start + 1} to {min(start + fit, len(models))} of {len(models)}" if len(models) > fit else ""
        table = _plain_table(f"Scores on {escape(title)}; (place){part}")
        _fill_scores(table, rankings, candidates, models[start : start + fit], places, taus, truth)
        yield table


def _fill_scores(
    table: Table,
    rankings: Sequence[Ranking],
    candidates: Mapping[str, Candidate],
    models: Sequence[str],
    places: Sequence[Mapping[str, int]],
    taus: pd.Series[float],
    truth: Accuracy,
) -> None:
    table.add_column("scorer", no_wrap=True)
    for model in models:
        table.add_column(escape(model), justify="right", overflow="fold")
    table.add_column(f"tau with {rankings[0].name}", justify="right")
    for ranking, place in zip(rankings, places, strict=True):
        cells = [f"{ranking.scores[m]:.3g} ({place[m]})" if m in place else "-" for m in models]
        table.add_row(ranking.name, *cells, f"{taus[ranking.name]:.2f}")
    table.add_section()
    table.add_row("parameters", *(f"{candidates[m].parameters / 1e6:.1f} M" for m in models), "")
    accuracies = (candidates[m].source_accuracy for m in models)
    table.add_row("ImageNet %", *("-" if value is None else f"{value:.1f}" for value in accuracies), "")
    if truth:
        table.add_row("true %", *(_accuracy(truth, m) for m in models), "")


def truth_table(comparison: TruthComparison) -> Table:
    """How well each scorer, and below them each prior, orders the models by their true accuracy."""
    count = len(comparison.models)
    table = _plain_table(f"Against the true accuracy on {escape(comparison.truth.dataset)} ({count} models)")
    intervals = any(row.interval for row in comparison.rows)
    seeds = "\n± seeds" if any(row.seeds for row in comparison.rows) else ""
    known = ["95 % interval"] * intervals
    _columns(table, "<", f"tau_w scipy{seeds}", *known, "tau_w paper", "Kendall", "regret,\npoints")
    table.add_column("picks", overflow="fold")
    for prior, rows in groupby(comparison.rows, key=lambda row: row.prior):
        if prior:
            table.add_section()
        for row in rows:
            name = f"prior: {row.name}" if prior else row.name
            others = f" (+{len(row.picks) - 1} equal)" if len(row.picks) > 1 else ""
            interval = f"{row.interval.low:.2f} .. {row.interval.high:.2f}" if row.interval else "-"
            table.add_row(
                name if row.models == count else f"{name}, {row.models} models",
                f"{row.tau_w:.2f}" + (f" ± {row.seeds.std:.2f}" if row.seeds else " " * 7 * bool(seeds)),
                *[interval] * intervals,
                f"{row.tau_w_paper:.2f}",
                f"{row.kendall_tau:.2f}",
                f"{row.regret:.2f}",
                escape(row.picks[0] + others),
            )
    return table


def _accuracy(truth: Accuracy, model: str) -> str:
    return f"{truth[model]:.2f}" if model in truth else "-"


def _plain_table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1))


def _columns(table: Table, *headers: str) -> None:
    """Add columns that do not wrap, numbers to the right; ``<`` before a header sets words to the left."""
    for header in headers:
        justify: Literal["left", "right"] = "left" if header.startswith("<") else "right"
        table.add_column(header.removeprefix("<"), justify=justify, no_wrap=True)
