"""From records of trials to tables of accuracies after fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from itm.core.errors import SettingError
from itm.groundtruth.protocol import OPTIMISTIC, VALIDATED
from itm.groundtruth.trials import Record

MIOU = "mIoU"
"""Measure of segmentation, in the column ``measure``, which tables of classification alone lack."""
KEYS = ["dataset", "model"]
"""Columns that a model on a dataset is found by."""
SETTING = ["lr", "weight_decay"]
"""Columns that distinguish the settings of a grid."""


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row per trial: its settings, best epoch with its accuracy in percent, seconds and hardware.

    Trials with the same value under ``comparable`` saw the same images under the same protocol and adaptation. The
    column ``selection`` says which images chose the best epoch and setting.
    """
    return pd.DataFrame([_row(record) for record in records])


def _row(record: Record) -> dict[str, object]:
    trial, protocol, facts = record.trial, record.trial.protocol, record.facts
    best = record.best if record.error is None else {}
    return {
        "dataset": trial.dataset,
        "model": trial.model,
        "adaptation": trial.adaptation,
        "protocol": protocol.label,
        "comparable": trial.comparable,
        "lr": trial.lr,
        "weight_decay": trial.weight_decay,
        "seed": trial.seed,
        "accuracy": best.get("accuracy"),
        "epoch": best.get("epoch"),
        "class_accuracy": best.get("class_accuracy"),
        "last_accuracy": record.history[-1]["accuracy"] if best else None,
        "validation_accuracy": best.get("validation_accuracy"),
        "selection": protocol.note,
        "epochs": protocol.epochs,
        "batch_size": protocol.batch_size,
        "schedule": protocol.schedule,
        "image_size": protocol.image_size,
        "limit": protocol.limit,
        "test_limit": protocol.test_limit,
        "precision": protocol.precision,
        "seconds": facts.get("seconds"),
        "images_per_second": facts.get("images_per_second"),
        "peak_memory": facts.get("peak_memory"),
        "trainable": facts.get("trainable"),
        "device": facts.get("device"),
        "commit": facts.get("commit"),
        "error": record.error,
        "cell": trial.digest[:16],  # the name of the tables' first version
        **({"test_images": facts["test_images"]} if "test_images" in facts else {}),
        **({"measure": MIOU} if best and "pixel_accuracy" in best else {}),
    }


def choose(frame: pd.DataFrame, protocol: str | None = None) -> pd.DataFrame:
    """Return the trials of one protocol per dataset.

    Args:
        frame: Trials, as :func:`to_frame` returns them.
        protocol: The protocol's label, or a value of the column ``comparable``; None where each dataset has only one.

    Raises:
        SettingError: If a dataset has trials of several protocols or a model in several versions, which do not belong
            in one column, or if none is of that protocol.
    """
    if protocol is not None:
        chosen = frame[(frame["protocol"] == protocol) | (frame["comparable"] == protocol)]
        if chosen.empty:
            raise SettingError(f"--protocol {protocol}: no record is of that protocol. {_protocols(frame)}")
        frame = chosen
    mixed = frame.groupby("dataset")["comparable"].nunique()
    if (mixed > 1).any():
        raise SettingError(
            "--protocol: the records of one dataset are of several protocols, which are not comparable; "
            f"choose one. {_protocols(frame)}"
        )
    twice = frame[frame.duplicated([*KEYS, *SETTING, "seed"])]
    if len(twice):
        row = twice.iloc[0]
        raise SettingError(
            f"{row['model']} on {row['dataset']} was trained from two sets of weights or at two image sizes under the "
            "same name; give each its own name in the zoo or its own folder of records."
        )
    return frame


def _protocols(frame: pd.DataFrame) -> str:
    """Return a description of every protocol of the records."""
    columns = ["dataset", "protocol", "comparable", "adaptation", "epochs", "image_size", "limit", "test_limit"]
    kinds = frame[[*columns, "precision"]].drop_duplicates().astype("object")
    described = [
        f"{row.dataset}: {row.protocol} = {row.comparable} ({row.adaptation}, {row.epochs} epochs, "
        f"{_or(row.image_size, 'the models own')} px, {_or(row.limit, 'all')} training and "
        f"{_or(row.test_limit, 'all')} test images, precision {row.precision})"
        for row in kinds.itertuples()
    ]
    return "There are: " + "; ".join(described) + "."


def _or(value: object, missing: str) -> str:
    return missing if pd.isna(value) else f"{value:g}"  # type: ignore[call-overload]


def best_accuracies(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the test accuracy of each model's best setting.

    The accuracy of a setting is the mean over its seeds of each one's best epoch; the best setting has the largest mean
    on the images that choose (column ``selection``; the test split where the column is missing). Where some settings
    were trained with more seeds than others (``grid.best_seeds``), only those with the most count: a single lucky seed
    of another setting does not win.

    Args:
        frame: Trials that :func:`choose` returned.

    Returns:
        Percent, index ``model``, columns ``dataset``, NaN where no trial finished; both in the order of the trials.
    """
    by_setting = frame.assign(chosen_by=_chosen_by(frame)).groupby([*KEYS, *SETTING], sort=False)
    settings = by_setting.agg(
        accuracy=("accuracy", "mean"), chosen_by=("chosen_by", "mean"), seeds=("accuracy", "count")
    )
    most = settings.groupby(KEYS, sort=False)["seeds"].transform("max")
    complete = settings[(settings["seeds"] == most) & (most > 0)]
    ordered = complete.sort_values("chosen_by", ascending=False, kind="stable")
    table = ordered.groupby(KEYS, sort=False)["accuracy"].first().unstack("dataset")
    table = table.reindex(index=frame["model"].unique(), columns=frame["dataset"].unique())
    return table.astype("float64").rename_axis(index="model", columns="dataset")


def _chosen_by(frame: pd.DataFrame) -> pd.Series[float]:
    """Return the accuracy of each trial on the images that choose the best setting."""
    if "selection" not in frame:  # a table written before the setting existed
        return frame["accuracy"]
    return frame["accuracy"].where(frame["selection"] != VALIDATED, frame["validation_accuracy"])


def selection(frame: pd.DataFrame) -> str:
    """Return the note on how the best epochs and settings were chosen: optimistic where any was on the test split."""
    notes = set(frame["selection"]) if "selection" in frame else {OPTIMISTIC}
    return notes.pop() if len(notes) == 1 else OPTIMISTIC


def measure(frame: pd.DataFrame) -> str:
    """Return the name of what the column ``accuracy`` holds: accuracy, mIoU of segmentation, or both."""
    if "measure" not in frame:
        return "Accuracy"
    return MIOU if frame["measure"].notna().all() else f"Accuracy (segmentation: {MIOU})"


def noise(frame: pd.DataFrame) -> pd.Series[float]:
    """Return the seed noise: the standard deviation of an accuracy within a setting, pooled over settings.

    Returns:
        Percentage points by dataset, without those where no setting was trained with two seeds.
    """
    groups = frame[frame["accuracy"].notna()].groupby([*KEYS, *SETTING])["accuracy"]
    freedom = (groups.count() - 1).groupby("dataset").sum()
    squares = (groups.var() * (groups.count() - 1)).groupby("dataset").sum()
    pooled: pd.Series[float] = (squares[freedom > 0] / freedom[freedom > 0]) ** 0.5
    return pooled


def gaps(frame: pd.DataFrame) -> list[str]:
    """Name the models that lack trials which other models of their dataset have."""
    finished = frame[frame["accuracy"].notna()]
    grids = frame.groupby(KEYS).size().groupby("dataset").max()
    counts = finished.groupby(KEYS).size()
    return [
        f"{model} on {dataset}: {counts.get((dataset, model), 0)} of {grids[dataset]} trials"
        for dataset, model in frame[KEYS].drop_duplicates().itertuples(index=False)
        if counts.get((dataset, model), 0) < grids[dataset]
    ]


def compare(table: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Compare accuracies with published ones, where both tables have the model and the dataset.

    Returns:
        Columns ``dataset``, ``model``, ``own``, ``published`` and ``difference``, percent; empty where nothing matches.
    """
    table = table.rename_axis(index="model")
    own = table.melt(var_name="dataset", value_name="own", ignore_index=False).set_index("dataset", append=True)
    other = published.reindex(index=table.index, columns=table.columns)
    both = own.assign(published=other.melt(value_name="published")["published"].to_numpy()).dropna().reset_index()
    both["difference"] = both["own"] - both["published"]
    return both[["dataset", "model", "own", "published", "difference"]]
