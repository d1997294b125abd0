"""One estimate from resolved settings to a report, without Hydra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from itm.cli.folders import groundtruth_folder
from itm.core.errors import SettingError, unknown
from itm.core.parallel import processes
from itm.data.image_set import ImageSet, is_segmentation
from itm.evaluation.comparison import compare_with_truth, known_priors
from itm.evaluation.difficulty import class_difficulty
from itm.evaluation.predicted_masks import predict_examples
from itm.evaluation.priors import best_table, find_prior
from itm.evaluation.truth import Truth, dataset_of, find_truth, shipped_tables
from itm.extraction.candidate import Candidate
from itm.extraction.pool import ExtractedPool, ExtractionSettings, extract_pool
from itm.groundtruth.open_clip_results import load_accuracies
from itm.models import check_zoo
from itm.models.entry import ZooEntry
from itm.models.pixels import RAW_RGB
from itm.models.prompts import check_templates
from itm.models.vlm import PREFIX
from itm.ranking.race import Race, race
from itm.ranking.ranking import Ranking, rank_all
from itm.ranking.recommend import RESAMPLES, Recommendation, recommend
from itm.ranking.source import with_source_features
from itm.ranking.tasks import check_tasks, controls, with_conductance
from itm.report.report import Report
from itm.scorers import DCD, Combined, Scorer
from itm.scorers.cross_fitted import cross_fitted

_METRICS = ("tau_w", "regret", "mean_score", "seconds")
_NEED_TRUTH = ("tau_w", "regret")


def run_estimate(run: Mapping[str, Any], scorers: Mapping[str, Scorer], images: ImageSet | None = None) -> Report:
    """Extract features, score them, and compare the rankings with the ground truth where it is known.

    Args:
        run: Settings as in ``configs/estimate.yaml``, resolved and checked.
        scorers: Scorers by the name of their ranking.
        images: The images in place of those that the settings name.

    Raises:
        SettingError: If ``groundtruth``, ``optimise`` or an entry of ``zoo`` is wrong; raised before any image is read.
        ItmError: If the images, the features or the store fail.
    """
    if is_segmentation(str(run["data"]["name"])):  # what the colours alone can do, beside the networks
        run = {**run, "zoo": {**run["zoo"], RAW_RGB: {"model": RAW_RGB}}}
    source = None if run["groundtruth"] is None else str(run["groundtruth"])
    truth = find_truth(source, str(run["data"]["name"]), list(run["zoo"]), groundtruth_folder())
    check_optimised(run.get("optimise"), scorers, truth)
    table = source_table(run, scorers)
    if run.get("templates") is not None:
        check_templates(run["templates"])
    tasks = check_tasks(scorers, run.get("sources") or [], table, str(run["data"]["name"]), list(run["zoo"]))
    if run.get("on_failure", "stop") == "stop":
        check_zoo(run["zoo"])
    extraction = ExtractionSettings.from_run(run, images)
    rules = Race.from_setting(run.get("race"))
    pool, raced = (extract_pool(extraction), None) if rules is None else race(extraction, rules)
    left = {name: entry for name, entry in extraction.zoo.items() if name in pool.features}
    scorers = with_source_features(scorers, run["source"], replace(extraction, zoo=left))
    scorers = with_prior(scorers, run, pool.candidates)
    layers = {name: candidate.layers for name, candidate in pool.candidates.items() if candidate.layers}
    scorers = cross_fitted(scorers, layers) if layers else scorers
    scorers = with_conductance(scorers, tasks, table, replace(extraction, zoo=left))
    if table is not None:
        scorers = {**scorers, **_controls_beside(tasks, table, pool, run, truth)}
    jobs = run["jobs"] or processes()
    rankings, left_out = rank_all(pool.features, scorers, seed=run["seed"], seeds=run["seeds"], jobs=jobs)
    recommendation = _recommend(pool, rankings[0], run, jobs)
    difficulty = class_difficulty(recommendation.model, pool.features[recommendation.model], pool.images.classes)
    examples = None
    if pool.images.masks is not None:
        count = (run.get("masks") or {}).get("layers", 1)
        examples = predict_examples(pool.features, rankings[0].order, pool.images, run["zoo"], count)
    compared = None if truth is None else compare_with_truth(rankings, truth, known_priors(pool.candidates, truth))
    return Report(
        pool.images, rankings, recommendation, pool.candidates, pool.failed, left_out, run, compared,
        difficulty=difficulty, race=raced, examples=examples,
    )  # fmt: skip


def with_prior(
    scorers: Mapping[str, Scorer], run: Mapping[str, Any], candidates: Mapping[str, Candidate]
) -> dict[str, Scorer]:
    """Give combinations the mean rank elsewhere as their prior, where they ask for it and a table knows every model.

    Args:
        scorers: Scorers by the name of their ranking.
        run: Settings of the run; of ``groundtruth`` a file counts beside the shipped tables.
        candidates: Facts of the models to score.
    """
    asking = [name for name, one in scorers.items() if isinstance(one, Combined) and one.prior == "elsewhere"]
    if not asking:
        return dict(scorers)
    source = str(run["groundtruth"])
    tables = shipped_tables(groundtruth_folder())
    if source not in ("None", "shipped", "paper"):
        tables.insert(0, source)
    controls = any(candidate.untrained for candidate in candidates.values())
    prior = find_prior(tables, str(run["data"]["name"]), list(candidates), controls=controls)
    return {**scorers, **{name: replace(scorers[name], prior=prior) for name in asking}}  # type: ignore[call-arg]


def source_table(run: Mapping[str, Any], scorers: Mapping[str, Scorer]) -> pd.DataFrame | None:
    """Return the accuracies on the source tasks of DCD; None where no scorer needs them, or no table has them.

    Args:
        run: Settings of the run: ``source_table`` is a file or an address; without it a shipped table, or the file
            ``groundtruth``, that has the most of ``sources`` and then of the run's models.
        scorers: Scorers by the name of their ranking.

    Returns:
        Per cent, index model. The column of a source task has its name in ``sources``, also where that is a folder.

    Raises:
        DataError: If ``source_table`` is not such a table.
    """
    if not any(isinstance(one, DCD) and one.sources is None for one in scorers.values()):
        return None
    listed = run.get("sources") or []
    tasks = [str(task) for task in listed if task != run["data"]["name"]] if isinstance(listed, list) else []
    if run.get("source_table"):
        table: pd.DataFrame | None = load_accuracies(str(run["source_table"]), networks(run["zoo"]))
    else:
        tables = shipped_tables(groundtruth_folder())
        if str(run["groundtruth"]) not in ("None", "shipped", "paper"):
            tables.insert(0, str(run["groundtruth"]))
        table = best_table(tables, [dataset_of(task) for task in tasks], list(run["zoo"]))
    if table is None:
        return None
    names = {dataset_of(task): task for task in tasks if task not in table}
    return table.rename(columns=names)


def networks(zoo: Mapping[str, Mapping[str, Any] | None]) -> dict[str, str]:
    """Return open_clip's ``<architecture>/<tag>`` by the name of each entry of a zoo; timm's name for other models."""
    return {name: ZooEntry.read(name, entry).model_name.removeprefix(PREFIX) for name, entry in zoo.items()}


def _controls_beside(
    tasks: Sequence[str], table: pd.DataFrame, pool: ExtractedPool, run: Mapping[str, Any], truth: Truth | None
) -> dict[str, Scorer]:
    """Return the controls of DCD; those that a comparison with the truth shows as priors are left out."""
    found = controls(tasks, table, pool, run["zoo"], run.get("templates"))
    shown = () if truth is None else ("parameters", "imagenet_accuracy")
    return {name: one for name, one in found.items() if name not in shown}


def _recommend(pool: ExtractedPool, ranking: Ranking, run: Mapping[str, Any], jobs: int) -> Recommendation:
    """Recommend a network; the colours alone are a baseline that cannot be fine-tuned."""
    networks = tuple(entry for entry in ranking.entries if entry.model != RAW_RGB)
    recommendation = recommend(
        pool.features,
        replace(ranking, entries=networks or ranking.entries),
        resamples=run.get("resamples", RESAMPLES),
        seed=run["seed"],
        controls=[name for name, candidate in pool.candidates.items() if candidate.untrained],
        parameters={name: candidate.parameters for name, candidate in pool.candidates.items()},
        jobs=jobs,
    )
    warnings = _colour_warnings(ranking) if networks else []
    return replace(recommendation, warnings=(*warnings, *recommendation.warnings))


def _colour_warnings(ranking: Ranking) -> list[str]:
    """Warn of networks that score below the colours alone."""
    colours = ranking.scores.get(RAW_RGB)
    below = [] if colours is None else [name for name, score in ranking.scores.items() if score < colours]
    if not below:
        return []
    share, names = f"{len(below)} of {len(ranking.entries) - 1}", ", ".join(below)
    return [f"{share} models score below the colours alone ({RAW_RGB}) by {ranking.name}: {names}."]


def check_optimised(metric: str | None, scorers: Mapping[str, Scorer], truth: Truth | None) -> None:
    """Refuse a sweep whose metric its runs will not log.

    Args:
        metric: ``<scorer>/<metric>`` as W&B names it, or None.
        scorers: Scorers of the run.
        truth: Ground truth of the run, if known.

    Raises:
        SettingError: If the run cannot log the metric.
    """
    if metric is None:
        return
    scorer, _, name = metric.rpartition("/")
    if scorer not in scorers or name not in _METRICS:
        raise unknown("optimise", metric, [f"{word}/{known}" for word in scorers for known in _METRICS])
    if name in _NEED_TRUTH and truth is None:
        raise SettingError(
            f"optimise={metric}: the run will not log it: the ground truth of its images and models is not known; "
            f"set groundtruth=paper or groundtruth=<csv>, or optimise {scorer}/mean_score."
        )
