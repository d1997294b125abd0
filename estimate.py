"""Rank pre-trained backbones on a dataset: features, scores, ranking, report.

python estimate.py                                  the demo
python estimate.py data=/my/images zoo=demo         your own images
python estimate.py +experiment=ablation_batch       an ablation
"""

import json
import logging
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from itm import cli
from itm.backbones import load_backbone
from itm.data import ImageSet, load_images
from itm.errors import DataError, FeatureError, ItmError, SettingError, StoreError
from itm.extract import OnError, Precision, extract
from itm.features import Features
from itm.ranking import rank_all
from itm.report import Candidate, Report
from itm.store import FeatureStore

CONFIGS = Path(__file__).resolve().parent / "configs"
log = logging.getLogger("itm")


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="estimate")
def main(cfg: DictConfig) -> None:
    """Run one estimate and write its folder."""
    with cli.one_line():
        estimate(cfg, Path(HydraConfig.get().runtime.output_dir))


def estimate(cfg: DictConfig, output: Path) -> None:
    """Rank the models that the config names on the images that it names."""
    OmegaConf.save(cfg, output / "config.yaml", resolve=True)
    check(cfg)
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    scorers = [instantiate(node) for node in cfg.scorer.values()]  # before the hours: a misspelt setting stops here

    extraction = {key: settings[key] for key in ("data", "zoo", "trainer", "store", "seed")}
    images, pool, candidates, failed = features_of_zoo(json.dumps(extraction))
    rankings, left_out = rank_all(pool, scorers, seed=cfg.seed, seeds=cfg.seeds)
    report = Report(images, rankings, candidates, failed, left_out, settings)

    written = report.write(output)
    report.show(Console(width=None if sys.stdout.isatty() else 110))
    print(f"Report: {written[-1]}")
    if cfg.tracking:
        print(f"W&B run: {instantiate(cfg.tracking).log(report, output)}")


def check(cfg: DictConfig) -> None:
    """Refuse settings of the wrong kind before any image is read."""
    cli.check_whole(cfg, "seed", least=0)
    cli.check_whole(cfg, "seeds", "trainer.batch_size", least=1)
    cli.check_whole(cfg, "trainer.workers", least=0, null=True)
    cli.check_whole(cfg, "data.limit", least=2, null=True)
    cli.check_word(cfg, "data.on_error", get_args(OnError))
    cli.check_word(cfg, "trainer.precision", get_args(Precision))
    cli.check_word(cfg, "trainer.accelerator", ("cpu", "cuda"))
    for group, example in (("zoo", "zoo=demo"), ("scorer", "scorer=[itm]")):
        if not cfg.get(group):
            raise SettingError(f"{group}: nothing is chosen; set for example {example}.")


@lru_cache(maxsize=1)  # the jobs of a multirun share one extraction
def features_of_zoo(settings: str) -> tuple[ImageSet, dict[str, Features], dict[str, Candidate], dict[str, str]]:
    """Features of every model of the zoo; a model that fails is named with its reason, and the others go on."""
    cfg = json.loads(settings)
    data, trainer = cfg["data"], cfg["trainer"]
    images = load_images(str(data["name"]), root=data["root"], seed=cfg["seed"], limit=data["limit"])
    store = FeatureStore(str(cfg["store"]))
    pool, candidates, failed = {}, {}, {}
    for name, spec in cfg["zoo"].items():
        try:
            backbone = load_backbone(name, **(spec or {}))
            log.info("%s: %s", name, backbone.transform_text)
            extraction = extract(
                backbone,
                images,
                store,
                device=trainer["accelerator"],
                on_error=data["on_error"],
                **{key: trainer[key] for key in ("batch_size", "workers", "precision")},
            )
        except (DataError, StoreError):
            raise  # every other model would stumble on the same image or disk
        except (ItmError, RuntimeError) as error:  # bad weights, or a forward pass that fails
            log.error("%s: %s", name, error)
            failed[name] = f"{type(error).__name__}: {error}" if isinstance(error, RuntimeError) else str(error)
            continue
        pool[name] = extraction.features
        candidates[name] = Candidate.of(backbone, extraction)
    if not pool:
        raise FeatureError(
            f"zoo: none of {len(failed)} models gave features. " + " ".join(dict.fromkeys(failed.values()))
        )
    return images, pool, candidates, failed


if __name__ == "__main__":
    cli.run(main, CONFIGS, "estimate")
