"""Rank pre-trained backbones on a dataset: features, scores, ranking, report.

python estimate.py                                  the demo
python estimate.py data=/my/images zoo=demo         your own images
python estimate.py +experiment=ablation_batch       an ablation
"""

import json
import sys
from pathlib import Path
from typing import Any, get_args

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from itm.cli import overrides as cli
from itm.cli.folders import configs_folder, groundtruth_folder
from itm.core.errors import SettingError
from itm.core.parallel import processes
from itm.evaluation.comparison import compare_with_truth, known_priors
from itm.evaluation.truth import find_truth
from itm.extraction.extract import OnError, Precision
from itm.extraction.pool import SETTINGS, features_of_zoo
from itm.ranking.ranking import rank_all
from itm.ranking.source import with_source_features
from itm.report.report import Report


def main() -> None:
    """Run the command line ``estimate.py`` or ``itm-estimate``."""
    cli.run(job, "estimate", sampled=True)


@hydra.main(version_base="1.3", config_path=str(configs_folder()), config_name="estimate")
def job(cfg: DictConfig) -> None:
    """Run one estimate and write its folder."""
    with cli.exit_on_user_error():
        estimate(cfg, Path(HydraConfig.get().runtime.output_dir))


def estimate(cfg: DictConfig, output: Path) -> None:
    """Rank the models that the config names on the images that it names."""
    OmegaConf.save(cfg, output / "config.yaml", resolve=True)
    check(cfg)
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    # before the hours: a misspelt setting stops here
    scorers = {str(name): instantiate(node) for name, node in cfg.scorer.items()}
    source = None if cfg.groundtruth is None else str(cfg.groundtruth)
    truth = find_truth(source, str(cfg.data.name), list(cfg.zoo), groundtruth_folder())
    extraction = {key: settings[key] for key in SETTINGS}
    images, pool, candidates, failed = features_of_zoo(json.dumps(extraction))
    scorers = with_source_features(scorers, settings["source"], extraction)
    rankings, left_out = rank_all(pool, scorers, seed=cfg.seed, seeds=cfg.seeds, jobs=cfg.jobs or processes())
    compared = None if truth is None else compare_with_truth(rankings, truth, known_priors(candidates, truth))
    report = Report(images, rankings, candidates, failed, left_out, settings, compared)

    written = report.write(output)
    report.show(Console(width=None if sys.stdout.isatty() else 110))
    print(f"Report: {written[-1]}")
    if "_target_" in cfg.tracking:  # an experiment adds its group to `tracking=none`, too
        print(f"W&B run: {instantiate(cfg.tracking).log(report, output)}")


def check(cfg: DictConfig) -> None:
    """Refuse settings of the wrong kind before any image is read."""
    cli.check_whole(cfg, "seed", least=0)
    cli.check_whole(cfg, "seeds", "trainer.batch_size", least=1)
    cli.check_whole(cfg, "trainer.workers", least=0, null=True)
    cli.check_whole(cfg, "jobs", least=1, null=True)
    cli.check_whole(cfg, "data.limit", "source.limit", least=2, null=True)
    cli.check_word(cfg, "data.on_error", get_args(OnError))
    cli.check_word(cfg, "trainer.precision", get_args(Precision))
    cli.check_word(cfg, "trainer.accelerator", ("cpu", "cuda"))
    for group, example in (("zoo", "zoo=demo"), ("scorer", "scorer=[itm]")):
        if not cfg.get(group):
            raise SettingError(f"{group}: nothing is chosen; set for example {example}.")
