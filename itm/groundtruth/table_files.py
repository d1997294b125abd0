"""Files of a table of accuracies: checked before training, extended with finished trials.

``<name>.csv`` holds the accuracy of each model's best setting, models by datasets; ``<name>_cells.csv`` holds every
trial.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from itm.core.errors import DataError, SettingError
from itm.core.files import check_writable, storage_errors, write_atomic
from itm.groundtruth.protocol import OPTIMISTIC
from itm.groundtruth.summary import KEYS, SETTING, best_accuracies, choose

# columns that must not be read as numbers
_TEXT_COLUMNS = {"comparable": str, "cell": str, "protocol": str, "precision": str, "selection": str}


def check_table(table: str) -> None:
    """Refuse a table that cannot be written or extended, before training starts.

    Args:
        table: The setting ``table``, a CSV file that need not exist.

    Raises:
        SettingError: If the path is a folder or does not end in ``.csv``.
        DataError: If ``<name>_cells.csv`` exists and is not a table of trials.
        StoreError: If the folder cannot be written.
    """
    path = Path(table).expanduser()
    if path.suffix != ".csv" or path.is_dir():
        raise SettingError(f"table={table}: expected a CSV file, as in table=results/mine.csv.")
    check_writable(f"table={table}", path.parent)
    trials = _trials_path(path)
    if trials.exists():
        _read_trials(trials)


def check_protocol(table: str, dataset: str, comparable: str) -> None:
    """Refuse a table that holds trials of the dataset under another protocol, before training starts.

    Args:
        table: The setting ``table``, checked by :func:`check_table`.
        dataset: Name of the dataset to train on.
        comparable: Value of the column ``comparable`` of the trials to come.

    Raises:
        SettingError: If the table holds other trials of the dataset.
    """
    trials = _trials_path(Path(table).expanduser())
    if not trials.is_file():
        return
    existing = _read_trials(trials)
    if ((existing["dataset"] == dataset) & (existing["comparable"] != comparable)).any():
        raise SettingError(
            f"table={table}: {trials} holds trials of {dataset} on other images or under another protocol; name "
            "another table."
        )


def write(frame: pd.DataFrame, path: Path, setting: str = "hydra.run.dir") -> pd.DataFrame:
    """Write the table of the best accuracies and, beside it, that of all trials.

    Trials that the files already hold stay unless ``frame`` has them, too, so datasets accumulate in one table.

    Args:
        frame: Trials of one protocol per dataset.
        path: The table, ``<name>.csv``; all trials go to ``<name>_cells.csv``.
        setting: The setting that decides the path, for errors.

    Returns:
        The table as written.

    Raises:
        SettingError: If the files hold trials of another protocol of the same dataset.
        DataError: If ``<name>_cells.csv`` exists and is not a table of trials.
        StoreError: If the files cannot be written.
    """
    trials = _trials_path(path)
    if trials.is_file():
        frame = _join(frame, trials)
    table = best_accuracies(frame)
    with storage_errors(setting, "write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(trials, frame.to_csv(index=False).encode())
        write_atomic(path, table.round(4).to_csv().encode())
    return table


def _trials_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}_cells.csv")


def _read_trials(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, dtype=_TEXT_COLUMNS)
        if missing := {*KEYS, *SETTING, "seed", "accuracy", "comparable", "cell"} - {*frame.columns}:
            raise ValueError(f"columns {', '.join(sorted(missing))} are missing")
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a table of trials ({error}); move it away.") from error
    return frame


def _join(frame: pd.DataFrame, trials: Path) -> pd.DataFrame:
    existing = _read_trials(trials)
    existing = existing[~existing["cell"].isin(frame["cell"])]
    if existing.empty:
        return frame
    if "selection" not in existing:  # a table written before the setting existed
        existing = existing.assign(selection=OPTIMISTIC)
    try:
        return choose(pd.concat([existing.astype("object"), frame.astype("object")], ignore_index=True))
    except SettingError as error:
        raise SettingError(f"{trials} holds other trials of the same dataset; name another table. {error}") from error
