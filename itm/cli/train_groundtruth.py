"""Fine-tune every model of a zoo on a dataset with every setting of a grid: the ground truth.

python train_groundtruth.py data=cifar10 zoo=paper20 trainer=v100          the paper's grid
python train_groundtruth.py data=/my/images protocol.epochs=20             your own images
python train_groundtruth.py -m worker=1,2,3 hydra/launcher=ray             three workers share the grid

The same command continues an interrupted run: it skips finished trials and resumes others after their last epoch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from itm.cli import command
from itm.cli.folders import configs_folder
from itm.cli.targets import build, resolved


def main() -> None:
    """Run the command line ``train_groundtruth.py`` or ``itm-groundtruth``."""
    try:
        command.run(job, "train_groundtruth", __doc__)
    except Exception as error:
        from itm.groundtruth.grid import CellsFailedError

        if isinstance(error, CellsFailedError):  # a job of a multirun
            sys.exit(str(error))
        raise


@hydra.main(version_base="1.3", config_path=str(configs_folder()), config_name="train_groundtruth")
def job(cfg: DictConfig) -> None:
    """Train the trials that have no record and write the tables."""
    from itm.groundtruth.grid import CellsFailedError

    with command.exit_on_user_error():
        failed = train(cfg, Path(HydraConfig.get().runtime.output_dir))
    if failed and HydraConfig.get().mode == RunMode.MULTIRUN:  # an exit would end the other jobs
        raise CellsFailedError(failed)
    if failed:
        sys.exit(str(CellsFailedError(failed)))


def train(cfg: DictConfig, output: Path) -> list[str]:
    """Run the trials of the grid that the config describes; return the failed ones, with the reason."""
    # imported here: torch and Lightning take longer than `--help` and the mistakes in a command line need
    from itm.cli.settings import check_groundtruth
    from itm.core.console import console
    from itm.groundtruth import summary, tables
    from itm.groundtruth.grid import Grid, Walk, load_both
    from itm.groundtruth.hardware import Machine
    from itm.groundtruth.trials import Cells

    run = resolved(cfg)
    check_groundtruth(run)
    OmegaConf.save(cfg, output / "config.yaml", resolve=True)
    grid, machine = Grid.of(run), Machine.of(run)
    tracker = build("tracking", cfg.tracking, run["trust"]) if "_target_" in cfg.tracking else None
    images = load_both(run["data"], run["seed"])
    zoo = {name: {**(entry or {}), **grid.protocol.overrides()} for name, entry in run["zoo"].items()}
    walk = Walk(zoo, *images, Cells(run["records"]), machine)
    if tracker is not None:
        walk.recorded = lambda record: tracker.log_cell(record, output)
    records, failed = walk.run(grid)
    summary.finish(records, output / "groundtruth.csv", run["table"], tables.published(), console())
    return failed
