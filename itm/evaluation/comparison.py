"""Compare predicted rankings, and priors that do not use the images, with the true ranking."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from itm.evaluation.priors import ModelFacts, mean_rank_elsewhere, parameter_count, source_accuracy
from itm.evaluation.truth import LEAST_MODELS, Truth
from itm.metrics.single import kendall_tau, regret, weighted_kendall_tau
from itm.metrics.uncertainty import LEAST_FOR_INTERVAL, Summary, bootstrap, chance, summarize
from itm.ranking.ranking import Ranking


@dataclass(frozen=True)
class Row:
    """How well one ranking orders the models.

    Args:
        name: Of the scorer or the prior.
        prior: Whether it does not use the images.
        models: Number of models compared.
        tau_w: Weighted Kendall tau, scipy's definition (see :func:`itm.metrics.single.weighted_kendall_tau`).
        tau_w_paper: The same by the formula printed in the ITM paper.
        kendall_tau: Kendall's tau-b.
        regret: Accuracy points lost by taking the best-scored model instead of the best one.
        picks: The best-scored models; more than one where they share the first place.
        interval: Bootstrap of ``tau_w`` over models; None with fewer models than
            :data:`~itm.metrics.uncertainty.LEAST_FOR_INTERVAL`.
        seeds: ``tau_w`` of each seed on its own; None with one seed.
    """

    name: str
    prior: bool
    models: int
    tau_w: float
    tau_w_paper: float
    kendall_tau: float
    regret: float
    picks: tuple[str, ...]
    interval: Summary | None = None
    seeds: Summary | None = None


@dataclass(frozen=True)
class TruthComparison:
    """Rankings compared with the true one.

    Args:
        truth: The true accuracies.
        rows: Scorers, best ``tau_w`` first, then priors likewise; empty where fewer than :data:`LEAST_MODELS` models
            have both a score and a true accuracy.
        models: Models compared: scored by some scorer and in the table.
        missing: Scored models that the table lacks.
    """

    truth: Truth
    rows: tuple[Row, ...]
    models: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def accuracy(self) -> dict[str, float]:
        """True accuracy of the compared models, percent, best first."""
        values = self.truth.accuracy
        return {model: values[model] for model in sorted(self.models, key=lambda model: -values[model])}

    def notes(self) -> list[str]:
        """Return what a reader has to know about the numbers, one sentence each."""
        count, protocol = len(self.models), self.truth.protocol or "how they were trained is not recorded"
        said = [f"True accuracies: {self.truth.source}, column {self.truth.column}; {protocol}.", self.truth.caution]
        if self.missing:
            said.append(f"Not compared, as the table lacks them: {', '.join(self.missing)}.")
        if not self.rows:
            return [*said, f"Models with a score and a true accuracy: {count}. A comparison needs {LEAST_MODELS}."]
        said.append(f"Over {count} models a random order has tau_w (scipy) 0 ± {self.chance():.2f}.")
        if all(row.interval is None for row in self.rows):
            said.append(f"Interval: n/a, too narrow where there are fewer than {LEAST_FOR_INTERVAL} models.")
        else:
            said.append("The interval is the 95 % bootstrap of tau_w (scipy) over models.")
        return said

    def chance(self) -> float:
        """Return the standard deviation of ``tau_w`` (scipy's) when the compared models are ordered at random."""
        return chance(list(self.accuracy.values()))

    def to_frame(self) -> pd.DataFrame:
        """Return one line per row: its fields, the spreads as ``low`` and ``high`` (over models) and ``seed_std``."""
        lines = []
        for row in self.rows:
            line = vars(row) | {"picks": ", ".join(row.picks)}
            interval, seeds = line.pop("interval"), line.pop("seeds")
            line["low"] = interval.low if interval else float("nan")
            line["high"] = interval.high if interval else float("nan")
            line["seed_std"] = seeds.std if seeds else float("nan")
            lines.append(line)
        return pd.DataFrame(lines).rename(columns={"name": "scorer"})

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return {
            "dataset": self.truth.dataset,
            "source": self.truth.source,
            "column": self.truth.column,
            "protocol": self.truth.protocol,
            "selection": self.truth.selection,
            "true_accuracy": self.accuracy,
            "missing": list(self.missing),
            "definitions": {"tau_w": "scipy.stats.weightedtau", "tau_w_paper": "formula of the ITM paper"},
            "chance_std": self.chance() if self.rows else None,
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }


def compare_with_truth(
    rankings: Sequence[Ranking], truth: Truth, priors: Mapping[str, Mapping[str, float]] | None = None
) -> TruthComparison:
    """Compare rankings with the true one, over the models that have both a score and a true accuracy.

    Args:
        rankings: One per scorer.
        truth: The true accuracies.
        priors: Scores that do not use the images, by name and model, see :func:`known_priors`. One that lacks a
            compared model is left out: on fewer models its numbers could not be set beside the others.

    Returns:
        The comparison; without rows where there are too few models.
    """
    scored = dict.fromkeys(model for ranking in rankings for model in ranking.order)
    models = truth.shared(scored)
    missing = tuple(model for model in scored if model not in truth.accuracy)
    rows = [_row(ranking, truth) for ranking in rankings if len(truth.shared(ranking.order)) >= LEAST_MODELS]
    known = {name: scores for name, scores in (priors or {}).items() if set(models) <= set(scores)}
    beside = [_evaluate(name, models, truth, scores, prior=True) for name, scores in known.items() if rows]
    ordered = [*sorted(rows, key=lambda row: -row.tau_w), *sorted(beside, key=lambda row: -row.tau_w)]
    return TruthComparison(truth, tuple(ordered), tuple(models), missing)


def known_priors(facts: Mapping[str, ModelFacts], truth: Truth) -> dict[str, dict[str, float]]:
    """Return scores that do not use the images: size, ImageNet accuracy, and mean rank on the table's other datasets.

    Args:
        facts: What is known of each model, by name.
        truth: The true accuracies; ranks are taken among the models of ``facts`` alone.

    Returns:
        Higher is better, by prior and model. Models without a value are left out of a prior, empty priors altogether.
    """
    priors = {"parameters": parameter_count(facts), "ImageNet accuracy": source_accuracy(facts)}
    table = truth.table.loc[truth.shared(facts)]
    if table.shape[1] > 1:
        priors["mean rank elsewhere"] = mean_rank_elsewhere(table, truth.column)
    return {name: scores for name, scores in priors.items() if scores}


def _row(ranking: Ranking, truth: Truth) -> Row:
    models = truth.shared(ranking.order)
    row = _evaluate(ranking.name, models, truth, ranking.scores, prior=False)
    runs = {entry.model: entry.values for entry in ranking.entries}
    by_seed = zip(*[runs[model] for model in models], strict=True)
    values = [truth.accuracy[model] for model in models]
    taus = [weighted_kendall_tau(values, scores) for scores in by_seed]
    return dataclasses.replace(row, seeds=summarize(taus) if len(taus) > 1 else None)


def _evaluate(name: str, models: Sequence[str], truth: Truth, scores: Mapping[str, float], *, prior: bool) -> Row:
    values, found = [truth.accuracy[model] for model in models], [scores[model] for model in models]
    return Row(
        name=name,
        prior=prior,
        models=len(models),
        tau_w=weighted_kendall_tau(values, found),
        tau_w_paper=weighted_kendall_tau(values, found, definition="paper"),
        kendall_tau=kendall_tau(values, found),
        regret=regret(values, found),
        picks=tuple(model for model in models if scores[model] == max(found)),
        interval=bootstrap(values, found) if len(models) >= LEAST_FOR_INTERVAL else None,
    )
