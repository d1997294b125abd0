"""Fine-tune every model of a zoo on a dataset with every setting of a grid: the true ranking.

python train_groundtruth.py data=cifar10 zoo=paper20 trainer=v100          the paper's grid
python train_groundtruth.py data=/my/images protocol.epochs=20             your own images
python train_groundtruth.py -m worker=1,2,3 hydra/launcher=ray             three workers share the grid

The same command continues what was interrupted: finished cells are skipped, others go on after their last epoch.
"""

import sys
from pathlib import Path
from typing import Any, get_args

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from itm.cli import overrides as cli
from itm.cli.folders import configs_folder
from itm.core.errors import SettingError
from itm.extraction.extract import Precision
from itm.groundtruth import summary as collect
from itm.groundtruth import tables as groundtruth
from itm.groundtruth.grid import CellsFailedError, Grid, Walk, load_both
from itm.groundtruth.hardware import Machine
from itm.groundtruth.trials import Cells


def main() -> None:
    """Run the command line ``train_groundtruth.py`` or ``itm-groundtruth``."""
    try:
        cli.run(job, "train_groundtruth")
    except CellsFailedError as error:
        sys.exit(str(error))


@hydra.main(version_base="1.3", config_path=str(configs_folder()), config_name="train_groundtruth")
def job(cfg: DictConfig) -> None:
    """Train what is not recorded yet and write the tables."""
    with cli.exit_on_user_error():
        failed = train(cfg, Path(HydraConfig.get().runtime.output_dir))
    if failed and HydraConfig.get().mode == RunMode.MULTIRUN:  # where an exit would end the other jobs
        raise CellsFailedError(failed)
    if failed:
        sys.exit(str(CellsFailedError(failed)))


def train(cfg: DictConfig, output: Path) -> list[str]:
    """Walk the grid that the config describes; returns what failed, with the reason."""
    OmegaConf.save(cfg, output / "config.yaml", resolve=True)
    check(cfg)
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    grid, machine = Grid.of(settings), Machine.of(settings)
    tracker = instantiate(cfg.tracking) if "_target_" in cfg.tracking else None
    images = load_both(settings["data"], cfg.seed)
    zoo = {name: {**(spec or {}), **grid.protocol.overrides()} for name, spec in settings["zoo"].items()}
    walk = Walk(zoo, *images, Cells(cfg.records), machine)
    if tracker is not None:
        walk.recorded = lambda record: tracker.log_cell(record, output)
    records, failed = walk.run(grid)
    collect.finish(records, output / "groundtruth.csv", cfg.table, groundtruth.published(), Console())
    return failed


def check(cfg: DictConfig) -> None:
    """Refuse settings of the wrong kind before any image is read."""
    cli.check_whole(cfg, "seed", least=0)
    cli.check_whole(cfg, "trainer.batch_size", least=1)
    cli.check_whole(cfg, "trainer.workers", least=0, null=True)
    cli.check_whole(cfg, "data.limit", "data.test_limit", least=2, null=True)
    cli.check_whole(cfg, "image_size", least=1, null=True)
    cli.check_word(cfg, "trainer.precision", get_args(Precision))
    cli.check_word(cfg, "trainer.accelerator", ("cpu", "cuda"))
    for key in ("compile", "gradient_checkpointing"):
        cli.check_word(cfg, key, ("True", "False"))
    if not cfg.get("zoo"):
        raise SettingError("zoo: nothing is chosen; set for example zoo=demo.")
