"""Analyses of the published tables that need no images: the priors, and the two definitions of the weighted tau.

``python -m itm.evaluation priors`` prints how well the priors rank the paper's ten models, ``... segmentation`` what
each definition of the weighted tau gives for the paper's segmentation table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pandas as pd

from itm.core.console import print_frame
from itm.core.errors import SettingError
from itm.evaluation.priors import mean_rank_elsewhere
from itm.groundtruth.tables import PAPER10, load, missing_cells, parameters, reported
from itm.metrics import functional
from itm.metrics.single import weighted_kendall_tau


def prior_taus(table: pd.DataFrame, definition: functional.Definition = "scipy") -> pd.DataFrame:
    """Compute the weighted tau of the priors on each dataset.

    Args:
        table: Accuracies of models that :func:`itm.groundtruth.tables.parameters` knows, without a missing cell.
        definition: Of the weighted tau, see :func:`itm.metrics.single.weighted_kendall_tau`.

    Returns:
        Rows: the datasets. Columns: ``mean rank elsewhere`` and ``parameters``, values in -1..1.

    Raises:
        SettingError: If a cell is missing.
    """
    missing = missing_cells(table)
    if missing:
        model, dataset = missing[0]
        raise SettingError(f"{model} has no accuracy on {dataset}; complete the table or leave one out.")
    size = parameters()[table.index].to_numpy()
    rows = {}
    for dataset in table.columns:
        truth, ranks = table[dataset].to_numpy(), mean_rank_elsewhere(table, dataset)
        elsewhere = [ranks[model] for model in table.index]
        rows[dataset] = {
            "mean rank elsewhere": weighted_kendall_tau(truth, elsewhere, definition),
            "parameters": weighted_kendall_tau(truth, size, definition),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def segmentation_taus() -> pd.DataFrame:
    """Compute weighted taus of the paper's segmentation table (table 3) by both definitions, beside the printed value.

    Neither definition gives the printed values from the printed accuracies and scores.

    Returns:
        Rows: the datasets. Columns: ``scipy``, ``paper`` and ``reported``.
    """
    table = reported("table3_segmentation")
    columns = table.columns.drop("weighted_tau")
    truth = table.xs("mIoU", level="quantity")[columns]
    scores = table.xs("ITM score", level="quantity")
    taus = {
        definition: functional.weighted_kendall_tau(truth.to_numpy(), scores[columns].to_numpy(), definition)
        for definition in functional.DEFINITIONS
    }
    return pd.DataFrame(taus, index=truth.index).assign(reported=scores["weighted_tau"])


def print_priors(definition: functional.Definition = "scipy") -> None:
    """Print the priors' weighted tau on the paper's ten models beside the published ones of ITM and LogME."""
    table = load("paper").drop(columns="VOC").loc[list(PAPER10)]
    taus = prior_taus(table, definition)
    published = reported("table1_weighted_tau").loc[["ITM", "LogME"]].T.rename(columns="{}, published".format)
    rows = pd.concat([taus, taus.mean().to_frame("Avg").T]).join(published)
    print_frame(rows, f"Weighted tau ({definition}) of priors on the paper's ten models")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print an analysis of the published tables."""
    parser = argparse.ArgumentParser(prog="python -m itm.evaluation", description=main.__doc__)
    parser.add_argument("analysis", choices=("priors", "segmentation"))
    parser.add_argument("--definition", choices=functional.DEFINITIONS, default="scipy", help="of the weighted tau")
    chosen = parser.parse_args(arguments)
    if chosen.analysis == "priors":
        print_priors(chosen.definition)
    else:
        print_frame(segmentation_taus(), "Weighted tau of the paper's segmentation table")
