"""Train the small vision-language models.

python -m experiments.vlm_miniature.pretrain                     all models
python -m experiments.vlm_miniature.pretrain --only vit8_both    some of them

Run it from the root of a clone. Several processes of the same command share the work; a later one resumes it.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from experiments.miniature.pictures import Pictures
from experiments.miniature.pretraining import Job, PretrainingSettings, PretrainingWorker, train_all
from experiments.vlm_miniature.module import Clip, model_config, preprocessing, tokenize
from experiments.vlm_miniature.pairs import KINDS, Pairs, read_pairs
from experiments.vlm_miniature.tokens import learn_merges, write_merges
from itm.core.errors import ItmError, unknown
from itm.core.files import write_atomic
from itm.core.splits import stratified_sample
from itm.data.image_set import default_root

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "weights"
MERGES_FILE = "merges.txt.gz"
_FIXED = {"batch_size": 64, "lr": 1e-3}


def train(
    pairs: Pairs, models: Mapping[str, Mapping[str, Any]], weights: Path, state: Path, scale: float = 1.0
) -> dict[str, str]:
    """Train the models that are not finished.

    Args:
        pairs: All pairs; each model sees its shares.
        models: Settings by model, as in ``models.yaml``.
        weights: Folder of the finished models, one folder each, which open_clip reads as ``local-dir:<folder>``.
        state: Folder of checkpoints and locks.
        scale: Factor on the number of images that each model sees.

    Returns:
        The reason of each failure, by model.
    """
    names = sorted(set(pairs.names))
    merges = weights / MERGES_FILE
    write_merges(learn_merges(pairs.names), merges)
    tokens = tokenize(names, str(merges))
    numbers = {name: number for number, name in enumerate(names)}
    labels = torch.tensor([numbers[name] for name in pairs.names])
    work = []
    for name, spec in models.items():
        settings = {**_FIXED, **spec, "images": int(spec["images"] * scale)}
        rows = share(pairs, settings["icons"], settings["glyphs"])
        worker = PretrainingWorker(
            Pictures(pairs.images[rows], labels[rows].numpy()), pairs.digest, weights, state, PretrainingSettings()
        )
        _write_config(weights / name, settings["vision"])
        job = Job(name, settings, partial(_build, settings, tokens), file="{name}/open_clip_model.safetensors")
        work.append((worker, job))
    return train_all(work)


def share(pairs: Pairs, icons: float, glyphs: float) -> torch.Tensor:
    """Return the rows of a seeded share of each kind, stratified by nothing but the kind, int64."""
    kinds = torch.from_numpy(pairs.kinds)
    chosen = []
    for kind, part in zip(range(len(KINDS)), (icons, glyphs), strict=True):
        rows = (kinds == kind).nonzero().flatten()
        count = round(part * len(rows))
        if count:
            chosen.append(rows[stratified_sample(torch.zeros(len(rows), dtype=torch.int64), count, seed=0)])
    return torch.cat(chosen)


def _build(settings: Mapping[str, Any], tokens: torch.Tensor) -> Clip:
    arguments = {name: value for name, value in settings.items() if name not in KINDS}
    return Clip(tokens=tokens, **arguments)


def _write_config(folder: Path, vision: Mapping[str, Any]) -> None:
    config = model_config(vision)
    config["text_cfg"]["tokenizer_kwargs"] = {"bpe_path": f"../{MERGES_FILE}"}
    content = json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing(), "prompts": ["{}"]}, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "open_clip_config.json", content.encode())


def main() -> None:
    """Train the models that the command line names."""
    models = yaml.safe_load((HERE / "models.yaml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(models), metavar="MODEL", help="names of the models to train")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    only = parser.parse_args().only
    try:
        for name in only:
            if name not in models:
                raise unknown("--only", name, models)
        state = default_root().parent / "miniature" / "vlm_pretraining"
        failed = train(read_pairs(), {name: models[name] for name in only}, WEIGHTS, state)
    except ItmError as error:
        sys.exit(f"error: {error}")
    if failed:
        sys.exit("\n".join([f"error: {name}: {reason}" for name, reason in failed.items()]))


if __name__ == "__main__":
    main()
