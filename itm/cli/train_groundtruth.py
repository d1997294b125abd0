"""Fine-tune every model of a zoo on a dataset with every setting of a grid: the ground truth.

python train_groundtruth.py data=cifar10 zoo=paper20 trainer=v100          the paper's grid
python train_groundtruth.py data=/my/images protocol.epochs=20             your own images
python train_groundtruth.py models=[efficientnet_lite1] keep=weights       one model, with its weights kept
python train_groundtruth.py zoo=open_clip10 adaptation=zero_shot           vision-language models, without training
python train_groundtruth.py -m worker=1,2,3 hydra/launcher=ray             three workers share the grid

The same command continues an interrupted run: it skips finished trials and resumes others after their last epoch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from itm.cli import command
from itm.cli.folders import configs_folder
from itm.cli.targets import build, resolved

if TYPE_CHECKING:
    from itm.groundtruth.trials import TrialStore


def main() -> None:
    """Run the command line ``train_groundtruth.py`` or ``itm-groundtruth``."""
    try:
        command.run(job, "train_groundtruth", __doc__)
    except Exception as error:
        from itm.groundtruth.worker import TrialsFailedError

        if isinstance(error, TrialsFailedError):  # a job of a multirun
            sys.exit(str(error))
        raise


@hydra.main(version_base="1.3", config_path=str(configs_folder()), config_name="train_groundtruth")
def job(cfg: DictConfig) -> None:
    """Train the trials that have no record and write the tables."""
    from itm.groundtruth.worker import TrialsFailedError

    with command.exit_on_user_error():
        failed = train(cfg, Path(HydraConfig.get().runtime.output_dir))
    if failed and HydraConfig.get().mode == RunMode.MULTIRUN:  # an exit would end the other jobs
        raise TrialsFailedError(failed)
    if failed:
        sys.exit(str(TrialsFailedError(failed)))


def train(cfg: DictConfig, output: Path) -> list[str]:
    """Run the trials of the grid that the config describes; return the failed ones, with the reason."""
    # imported here: torch and Lightning take longer than `--help` and the mistakes in a command line need
    from itm.cli.models import choose_models, removal_lines, show_plan
    from itm.cli.settings import check_groundtruth
    from itm.groundtruth import collect
    from itm.groundtruth.export import export_best
    from itm.groundtruth.grid import Grid
    from itm.groundtruth.hardware import Hardware
    from itm.groundtruth.images import load_splits
    from itm.groundtruth.table_files import check_protocol
    from itm.groundtruth.trials import TrialStore
    from itm.groundtruth.worker import Worker

    run = resolved(cfg)
    check_groundtruth(run)
    chosen = choose_models(run)
    if run["plan"]:
        show_plan(chosen)
        return []
    print(*removal_lines(chosen.removed), sep="\n", end="\n" if chosen.removed else "")
    cfg.zoo = run["zoo"] = chosen.zoo
    OmegaConf.save(cfg, output / "config.yaml", resolve=True)
    grid, hardware = Grid.from_settings(run), Hardware.from_settings(run)
    tracker = build("tracking", cfg.tracking, run["trust"]) if "_target_" in cfg.tracking else None
    store = TrialStore(run["records"])
    _check_places(run, store)
    images = load_splits(run["data"], run["seed"], grid.protocol.select)
    if run["table"] is not None:
        check_protocol(run["table"], images.train.name, grid.comparable(images))
    zoo = {name: {**(entry or {}), **grid.protocol.overrides()} for name, entry in run["zoo"].items()}
    worker = Worker(zoo, images, store, hardware, keep_weights=run["keep"] == "weights")
    if tracker is not None:
        worker.tracker = tracker.for_trials(output)
    records, failed = worker.run(grid)
    collect.finish(records, output / "groundtruth.csv", run["table"])
    if worker.keep_weights:
        for folder in export_best(records, store, images, zoo, worker.backbone, output / "finetuned"):
            print(f"Weights: {folder}")
    return failed


def _check_places(run: Mapping[str, Any], store: TrialStore) -> None:
    """Refuse a folder of records, a table or weights that cannot be written, before images are read.

    Raises:
        ItmError: Naming the setting.
    """
    from itm.core.errors import SettingError
    from itm.core.files import check_writable
    from itm.data.image_set import is_segmentation
    from itm.groundtruth.table_files import check_table

    check_writable("records", store.root)
    if run["table"] is not None:
        check_table(run["table"])
    if run["keep"] == "weights" and is_segmentation(str(run["data"]["name"])):
        raise SettingError("keep=weights: not for images with masks yet; set keep=nothing.")
    if run["keep"] == "weights" and run["adaptation"] == "zero_shot":
        raise SettingError("keep=weights: adaptation=zero_shot trains none; set keep=nothing.")
