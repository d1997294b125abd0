"""Pre-train the models of the benchmark in miniature on its corpus of small images.

python -m experiments.miniature.pretrain                       all models, with the recipe for two CPU cores
python -m experiments.miniature.pretrain family=second         the second family of models
python -m experiments.miniature.pretrain recipe=gpu            longer, for one GPU
python -m experiments.miniature.pretrain 'only=[dino,simmim]'  some of them

Run it from the root of a clone. Several processes of the same command share the work; a later one resumes it.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from experiments.miniature.contrastive import DINO, MoCoV3, SimCLR
from experiments.miniature.corpus import build_corpus, read_corpus
from experiments.miniature.masked import MAE, SimMIM
from experiments.miniature.module import Pretraining
from experiments.miniature.pictures import Corpus, Pictures
from experiments.miniature.pretraining import Job, PretrainingSettings, PretrainingWorker
from experiments.miniature.supervised import Supervised
from itm.cli import command
from itm.cli.folders import configs_folder
from itm.core.errors import ItmError, SettingError, unknown

CONFIGS = configs_folder()
WEIGHTS = Path(__file__).resolve().parent / "weights"
METHODS: Mapping[str, type[Pretraining]] = {
    method.__name__: method for method in (DINO, MAE, MoCoV3, SimCLR, SimMIM, Supervised)
}
"""Classes that ``models.<name>.method`` may name."""

_NOT_OF_THE_MODULE = ("method", "precision", "share", "sources")
_log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="pretrain")
def main(cfg: DictConfig) -> None:
    """Train the models that are not finished yet."""
    with command.exit_on_user_error():
        failed = train(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    if failed:
        sys.exit("\n".join(["error: some models failed; the same command tries them again.", *failed]))


def train(cfg: dict[str, Any]) -> list[str]:
    """Pre-train the models of the config; return one line per failed model, with its reason."""
    recipe, models = cfg["recipe"], cfg["models"]
    for name in cfg["only"] or ():
        if name not in models:
            raise unknown("only", name, models)
    corpus = read(cfg["corpus"], recipe["limit"])
    worker = PretrainingWorker(
        pictures=Pictures(corpus.images, corpus.labels),
        corpus=corpus.digest,
        weights=Path(cfg["weights"] or WEIGHTS),
        state=Path(cfg["state"]).expanduser(),
        trainer=PretrainingSettings(recipe["accelerator"], recipe["precision"], cfg["minutes"]),
    )
    chosen = {name: scaled(models[name], recipe) for name in cfg["only"] or models}
    failed = worker.run([job(name, spec, corpus.classes) for name, spec in chosen.items()])
    return [f"  {name}: {reason}" for name, reason in failed.items()]


def read(file: str | None, limit: int | None) -> Corpus:
    """Read the corpus from ``file``, or the default one; with a ``limit`` and no file, build a sample."""
    if file is None and limit is not None:
        return build_corpus(limit)
    return read_corpus(Path(file) if file else None)


def scaled(spec: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a model's settings with those multiplied that the recipe scales."""
    for key in ("images", "batch_size", "lr"):
        if key not in spec:
            raise SettingError(f"models: {key} is missing in {spec}; set it for each model, the recipe multiplies it.")
    times = {key: type(spec[key])(spec[key] * recipe[key]) for key in ("images", "batch_size", "lr")}
    return {**spec, **times, "precision": recipe["precision"]}


def job(name: str, settings: dict[str, Any], classes: Sequence[str]) -> Job:
    """Return the job of a model, whose module is built when its training starts."""
    facts = {**settings, "num_classes": len(classes)}
    return Job(name, settings, partial(build, name, facts), choose=partial(part_of, name, settings, classes))


def part_of(name: str, settings: Mapping[str, Any], classes: Sequence[str], pictures: Pictures) -> Pictures:
    """Return the images that a model may see: of its ``sources`` alone, and a random ``share`` of these.

    Args:
        name: Name of the model.
        settings: Its settings; without ``sources`` and ``share`` it may see all images.
        classes: Names of the classes, ``<source>/<name>``.
        pictures: The images to train with.

    Raises:
        SettingError: If a source is not known or the share is not above 0 and at most 1.
    """
    known = [label.partition("/")[0] for label in classes]
    sources, share = settings.get("sources", known), settings.get("share", 1.0)
    for source in sources:
        if source not in known:
            raise unknown(f"models.{name}.sources", source, sorted(set(known)))
    if not 0 < share <= 1:
        raise SettingError(f"models.{name}.share={share}: expected a share of the images, above 0 and at most 1.")
    allowed = torch.tensor([source in sources for source in known])
    rows = torch.nonzero(allowed[pictures.labels]).flatten()
    generator = torch.Generator().manual_seed(settings.get("seed", 0))
    order = torch.randperm(len(rows), generator=generator) if share < 1 else torch.arange(len(rows))
    return pictures.take(rows[order[: round(share * len(rows))]])


def build(name: str, settings: dict[str, Any]) -> Pretraining:
    """Build the untrained module.

    Raises:
        SettingError: If a setting is wrong; the message names the model.
    """
    arguments = {key: value for key, value in settings.items() if key not in _NOT_OF_THE_MODULE}
    method = METHODS.get(settings.get("method", ""))
    if method is None:
        raise unknown(f"models.{name}.method", str(settings.get("method")), METHODS)
    try:
        return method(**arguments)
    except (TypeError, ItmError) as error:
        raise SettingError(f"models.{name}: {error}") from error


if __name__ == "__main__":
    command.run(main, "pretrain")
