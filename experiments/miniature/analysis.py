"""Analyses of stored rankings: differences between scores, and which models a score puts too high or too low.

``python -m experiments.miniature.analysis`` reads ``results/miniature_rankings.csv`` and writes its tables and figure
beside it, in about a minute and without scoring anything.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from itm.core.console import print_frame
from itm.core.errors import ItmError
from itm.evaluation.registered import by_part, truth_noise
from itm.evaluation.registration import check_registered, read_registration
from itm.models.backbone import UNTRAINED
from itm.report.figures import Figure, save
from itm.report.figures.style import COLOURS, legend_beside, panels
from itm.report.output import write_csv

FOLDER = Path(__file__).parent
SHOWN = ("itm", "linear_probe", "knn", "logme", "regularized_hscore", "sfda")
"""Scores whose errors are shown."""
_WIDTHS = {"1 to 128 wide": 128, "129 to 200 wide": 200, "above 200 wide": 100_000}
"""Classes of feature widths, each with its largest width."""


def rank_errors(rankings: pd.DataFrame) -> pd.DataFrame:
    """Return by how many places each score puts each model too high.

    Args:
        rankings: Rows of ``ranking.csv`` with the columns ``dataset``, ``true_accuracy``, ``pretraining`` and ``dim``.

    Returns:
        One row per dataset, scorer and model: ``error``, the true place minus the place by the score, positive where
        the model is put too high; ``family``, how it was pre-trained; ``width``, its class of feature width.
    """
    known = rankings.dropna(subset=["score", "true_accuracy"])
    by = known.groupby(["dataset", "scorer"])
    places = {name: by[name].rank(ascending=False) for name in ("true_accuracy", "score")}
    family = known["pretraining"].str.partition(", ")[2].str.partition(" (")[0]
    return known[["dataset", "scorer", "model"]].assign(
        error=places["true_accuracy"] - places["score"],
        family=family.replace("", "untrained"),
        width=pd.cut(known["dim"], [0, *_WIDTHS.values()], labels=list(_WIDTHS)).astype(str),
    )


def mean_errors(errors: pd.DataFrame) -> pd.DataFrame:
    """Average :func:`rank_errors` by family, by width and by model.

    Returns:
        Columns ``by``, ``group``, ``models`` (rows that are averaged), then one column per scorer.
    """
    tables = []
    for by in ("family", "width", "model"):
        table = errors.pivot_table(index=by, columns="scorer", values="error", aggfunc="mean")
        counts = errors.drop_duplicates(["dataset", "model"]).groupby(by)["model"].count()
        tables.append(table.assign(by=by, models=counts).rename_axis("group").reset_index())
    frame = pd.concat(tables, ignore_index=True).rename_axis(columns=None)
    first = ["by", "group", "models"]
    return frame[[*first, *(name for name in frame if name not in first)]]


def draw_errors(means: pd.DataFrame, title: str) -> Figure:
    """Draw the mean error of :data:`SHOWN` by family and by width, one panel each."""
    kinds = ("family", "width")
    figure, axes = panels(len(kinds), 9.6, 3.4, title)
    for kind, panel in zip(kinds, axes, strict=True):
        rows = means[means["by"] == kind]
        scorers = [name for name in SHOWN if name in rows]
        for place, scorer in enumerate(scorers):
            shift = 0.7 * (place - (len(scorers) - 1) / 2) / len(scorers)
            at = [x + shift for x in range(len(rows))]
            panel.bar(at, rows[scorer], 0.7 / len(scorers), color=COLOURS[place], label=scorer)
        panel.axhline(0, color="0.4", linewidth=0.8)
        groups = rows["group"].str.replace(" image", "\nimage").str.replace(" wide", "\nwide")
        panel.set_xticks(range(len(rows)), groups)
        panel.set_ylabel("places too high")
    legend_beside(axes[-1])
    return figure


def analyse(rankings: Path, truth: Path, page: Path, folder: Path, samples: int = 2_000) -> tuple[pd.DataFrame, ...]:
    """Write both tables and the figure of stored rankings.

    Args:
        rankings: CSV of rankings, as the experiments write it.
        truth: Table of true accuracies, whose trials lie beside it.
        page: Registration of the datasets.
        folder: Where ``differences.csv``, ``rank_errors.csv`` and ``rank_errors.png`` go.
        samples: Draws of the two-way bootstrap.

    Returns:
        Differences between the scores, and mean errors in places.

    Raises:
        SettingError: If a dataset is not registered.
    """
    frame, parts = pd.read_csv(rankings), read_registration(page)
    check_registered(frame["dataset"].unique(), parts, page)
    controls = frame.loc[frame["pretraining"] == UNTRAINED, "model"].unique().tolist()
    table = by_part(frame, parts, truth_noise(truth), controls, samples=samples)
    write_csv(table, folder / "differences.csv")
    means = mean_errors(rank_errors(frame))
    write_csv(means, folder / "rank_errors.csv")
    title = f"How far each score puts models too high, mean over {frame['dataset'].nunique()} datasets"
    save(draw_errors(means, title), folder / "rank_errors")
    return table, means


def main() -> None:
    """Print and write the analyses of stored rankings."""
    parser = argparse.ArgumentParser(prog="python -m experiments.miniature.analysis", description=main.__doc__)
    parser.add_argument("--rankings", type=Path, default=FOLDER / "results" / "miniature_rankings.csv")
    parser.add_argument("--truth", type=Path, default=FOLDER.parent / "groundtruth" / "miniature.csv")
    parser.add_argument("--folder", type=Path, default=FOLDER / "results")
    arguments = parser.parse_args()
    try:
        table, means = analyse(arguments.rankings, arguments.truth, FOLDER / "registration.md", arguments.folder)
    except (ItmError, OSError) as error:
        sys.exit(f"error: {error}")
    columns = ["part", "mean", "low", "high", "difference", "difference low", "difference high", "wins", "loses"]
    print_frame(table[table["controls"] == "out"].set_index("scorer")[columns], "Differences to ITM", digits=2)
    print_frame(means.set_index("group")[[name for name in SHOWN if name in means]], "Places too high", digits=1)


if __name__ == "__main__":
    main()
