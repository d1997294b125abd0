"""Every table of a run on the console."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pandas as pd
from rich.table import Table

from itm.core.console import cell, frame_tables, number_format, plain_table, printable
from itm.evaluation.comparison import Row, TruthComparison
from itm.extraction.candidate import Candidate
from itm.ranking.ranking import Ranking

Accuracy = Mapping[str, float]
"""True accuracy by model, percent; empty where it is not known."""

_LONG_NAME = 14
MOST_ROWS = 40
"""Models that the console lists; the files have all models."""


def ranking_tables(
    ranking: Ranking,
    chances: Mapping[str, float],
    candidates: Mapping[str, Candidate],
    title: str,
    truth: Accuracy,
    width: int,
) -> Iterator[Table]:
    """Turn one scorer's ranking with each model's facts into tables, best first, that fit the width.

    Args:
        ranking: The ranking.
        chances: Probability of being the best by model; empty where it is not known.
        candidates: Facts by model.
        title: Name of the images.
        truth: True accuracies.
        width: Characters of a line.
    """
    models = ranking.order
    facts = [candidates[model] for model in models]
    frame = pd.DataFrame({"model": [printable(model) for model in models], "score": _scores(ranking)})
    if chances:
        frame["P(best)"] = _numbers((chances.get(model) for model in models), ".2f")
    if truth:
        frame["true %"] = _numbers((truth.get(model) for model in models), ".2f")
    frame["params"] = [f"{model.parameters / 1e6:.1f} M" for model in facts]
    frame["pixels"] = [str(model.input_size) for model in facts]
    frame["dim"] = [str(model.dim) for model in facts]
    if any(model.stride for model in facts):
        frame["stride"] = _numbers((model.stride for model in facts), ".0f")
    frame["extract s"] = [f"{model.seconds:.1f}" + (" (stored)" if model.cached else "") for model in facts]
    frame["score s"] = _numbers([entry.seconds for entry in ranking.entries], ".1f")
    frame.index = pd.Index([str(place) for place in range(1, len(models) + 1)], name="#")
    yield from frame_tables(frame.head(MOST_ROWS), f"{ranking.name} on {title}{_cut(len(frame))}", width, left=[0])


def scores_tables(
    rankings: Sequence[Ranking],
    chances: Mapping[str, float],
    candidates: Mapping[str, Candidate],
    title: str,
    taus: pd.Series[float],
    truth: Accuracy,
    width: int,
) -> Iterator[Table]:
    """Turn several rankings into tables that fit the width: a row per model, a column per scorer with score and place.

    Args:
        rankings: The first one orders the models.
        chances: Probability of being the best by model; empty where it is not known.
        candidates: Facts by model.
        title: Name of the images.
        taus: Kendall's tau with the first ranking, by scorer; the last row.
        truth: True accuracies.
        width: Characters of a line. Scorers that do not fit follow in a further table.
    """
    places = {model: place for place, model in enumerate(rankings[0].order, 1)}
    models = sorted(candidates, key=lambda model: places.get(model, len(candidates) + 1))
    columns: dict[str, list[str]] = {}
    if chances:
        columns["P(best)"] = _numbers((chances.get(model) for model in models), ".2f")
    if truth:
        columns["true %"] = _numbers((truth.get(model) for model in models), ".2f")
    heads = {ranking.name: _breakable(ranking.name) for ranking in rankings}
    for ranking in rankings:
        form = number_format(ranking.scores.values())
        order = {model: place for place, model in enumerate(ranking.order, 1)}
        columns[heads[ranking.name]] = [
            f"{ranking.scores[model]:{form}} ({order[model]})" if model in order else "-" for model in models
        ]
    columns |= _prior_columns(rankings[0], candidates, models)
    frame = pd.DataFrame(columns, index=pd.Index([printable(model) for model in models], name="model")).head(MOST_ROWS)
    last = {heads[ranking.name]: f"{taus[ranking.name]:.2f}" for ranking in rankings}
    frame.loc[f"tau with {rankings[0].name}"] = [last.get(name, "") for name in frame.columns]
    yield from frame_tables(frame, f"Scores (place) on {title}{_cut(len(models))}", width)


def truth_table(comparison: TruthComparison) -> Table:
    """Turn the comparison into a table: how well each scorer, and below each prior, orders the models."""
    count = len(comparison.models)
    table = plain_table(f"Against the true accuracy on {comparison.truth.dataset} ({count} models)")
    intervals = any(row.interval for row in comparison.rows)
    seeds = any(row.seeds for row in comparison.rows)
    table.add_column("", no_wrap=True)
    headers = ["tau_w scipy\n± seeds" if seeds else "tau_w scipy"]
    headers += ["95 % interval"] if intervals else []
    for header in [*headers, "tau_w paper", "Kendall", "regret,\npoints"]:
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("picks", overflow="fold")
    for place, row in enumerate(comparison.rows):
        if row.prior and place and not comparison.rows[place - 1].prior:
            table.add_section()
        table.add_row(*_truth_cells(row, count, intervals, seeds))
    return table


def _truth_cells(row: Row, count: int, intervals: bool, seeds: bool) -> list[str]:
    name = f"prior: {row.name}" if row.prior else row.name
    if row.models != count:
        name += f", {row.models} models"
    deviation = f" ± {row.seeds.std:.2f}" if row.seeds else ""
    cells = [cell(name), f"{row.tau_w:.2f}" + (f"{deviation:<7}" if seeds else "")]
    if intervals:
        cells.append(f"{row.interval.low:.2f} .. {row.interval.high:.2f}" if row.interval else "-")
    others = f" (+{len(row.picks) - 1} equal)" if len(row.picks) > 1 else ""
    numbers = (row.tau_w_paper, row.kendall_tau, row.regret)
    return [*cells, *(f"{value:.2f}" for value in numbers), cell(row.picks[0] + others)]


def _scores(ranking: Ranking) -> list[str]:
    form = number_format(ranking.scores.values())
    return [
        format(entry.score, form) + ("" if entry.std is None else f" ± {entry.std:{form}}") for entry in ranking.entries
    ]


def _numbers(values: Iterable[float | None], form: str) -> list[str]:
    return ["-" if value is None else format(value, form) for value in values]


def _prior_columns(
    ranking: Ranking, candidates: Mapping[str, Candidate], models: Sequence[str]
) -> dict[str, list[str]]:
    """Return the columns of the priors that some model has a value of."""
    elsewhere = {entry.model: entry.details["prior"] for entry in ranking.entries if "prior" in entry.details}
    priors = {
        "params": [f"{candidates[model].parameters / 1e6:.1f} M" for model in models],
        "stride": _numbers((candidates[model].stride for model in models), ".0f"),  # of segmentation
        "ImageNet %": _numbers((candidates[model].source_accuracy for model in models), ".1f"),
        "rank elsewhere": _numbers((elsewhere.get(model) for model in models), ".2f"),
    }
    return {name: values for name, values in priors.items() if set(values) != {"-"}}


def _breakable(name: str) -> str:
    """Return a long name with a space after each underscore, where a narrow column may break it."""
    return name.replace("_", "_ ") if len(name) > _LONG_NAME else name


def _cut(models: int) -> str:
    return f"; the first {MOST_ROWS} of {models} models" if models > MOST_ROWS else ""
