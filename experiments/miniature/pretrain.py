"""Pre-train the benchmark's models on the corpus of small images.

python experiments/miniature/pretrain.py                       all models, by the recipe for two CPU cores
python experiments/miniature/pretrain.py recipe=gpu            longer, for one GPU
python experiments/miniature/pretrain.py 'only=[dino,mae]'     some of them

The same command, started once more beside the first, shares the work; started later, it goes on where it was stopped.
"""

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from itm.cli import overrides as cli
from itm.core.errors import SettingError, unknown
from itm.miniature.corpus import build_corpus, read_corpus
from itm.miniature.module import Pretraining
from itm.miniature.pictures import Corpus, Pictures
from itm.miniature.pretraining import Job, Machine, Walk

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
WEIGHTS = Path(__file__).resolve().parent / "weights"

_log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="pretrain")
def main(cfg: DictConfig) -> None:
    """Train what is not finished yet."""
    with cli.one_line():
        failed = train(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    if failed:
        sys.exit("\n".join(["error: some models failed; the same command tries them again.", *failed]))


def train(cfg: dict[str, Any]) -> list[str]:
    """Pre-train the models that the config describes; returns what failed, with the reason."""
    recipe, models = cfg["recipe"], cfg["models"]
    for name in cfg["only"] or ():
        if name not in models:
            raise unknown("only", name, models)
    corpus = read(cfg["corpus"], recipe["limit"])
    machine = Machine(recipe["accelerator"], recipe["precision"], cfg["minutes"])
    weights = Path(cfg["weights"] or WEIGHTS)
    walk = Walk(
        Pictures(corpus.images, corpus.labels), corpus.digest, weights, Path(cfg["state"]).expanduser(), machine
    )
    chosen = {name: scaled(models[name], recipe) for name in cfg["only"] or models}
    return [
        f"  {name}: {why}"
        for name, why in walk.run([job(*item, len(corpus.classes)) for item in chosen.items()]).items()
    ]


def read(file: str | None, limit: int | None) -> Corpus:
    """The corpus in a file; without one, that of this machine or, built anew, a sample of it."""
    return build_corpus(limit) if file is None and limit is not None else read_corpus(Path(file) if file else None)


def scaled(spec: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """A model's settings for a recipe, which multiplies some of them."""
    for key in ("images", "batch_size", "lr"):
        if key not in spec:
            raise SettingError(f"models: {key} is missing in {spec}; each model says what a recipe multiplies.")
    times = {key: type(spec[key])(spec[key] * recipe[key]) for key in ("images", "batch_size", "lr")}
    return {**spec, **times, "precision": recipe["precision"]}


def job(name: str, settings: dict[str, Any], num_classes: int) -> Job:
    """A model to train, built when its turn comes."""
    return Job(name, settings, partial(build, name, {**settings, "num_classes": num_classes}))


def build(name: str, settings: dict[str, Any]) -> Pretraining:
    """The untrained module; what is wrong with its settings names the model."""
    arguments = {key: value for key, value in settings.items() if key != "precision"}
    try:
        return instantiate(arguments, _convert_="all")
    except InstantiationException as error:
        raise SettingError(f"models.{name}: {error.__cause__ or error}") from error


if __name__ == "__main__":
    cli.run(main, CONFIGS, "pretrain")
