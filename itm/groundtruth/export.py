"""Keep the weights of trials while they train, and write those of each model's best setting at the end of a grid.

A folder of fine-tuned weights holds ``model.safetensors`` (the weights and the arguments that build the network),
``preprocessing.json``, ``labels.json`` and a model card ``README.md``; :mod:`itm.groundtruth.finetuned` loads it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from itm.core.errors import ItmError, StoreError
from itm.core.files import folder_name, storage_errors, write_atomic
from itm.groundtruth.finetuned import FORMAT, load_finetuned, source_head
from itm.groundtruth.grid import best_records
from itm.groundtruth.images import ImageSplits
from itm.groundtruth.module import FineTuneModule
from itm.groundtruth.trials import KEPT, Record, Trial, TrialStore
from itm.models.backbone import Backbone
from itm.models.entry import ZooEntry

_log = logging.getLogger(__name__)


class BestWeights:
    """The weights of a trial's best epoch so far, in the trial's folder.

    Args:
        trial: The trial.
        folder: Folder of the trial.
    """

    def __init__(self, trial: Trial, folder: Path) -> None:
        self.trial, self.path = trial, folder / "best.safetensors"

    def update(self, module: FineTuneModule) -> None:
        """Save the weights if the last epoch is the best one, the first of equal ones.

        Raises:
            StoreError: If they cannot be written.
        """
        best = Record(self.trial, None, module.history).best
        if best is not module.history[-1]:
            return
        facts = {"trial": self.trial.digest, "epoch": str(best["epoch"])}
        with storage_errors("records", "write", self.path, KEPT):
            write_atomic(self.path, save(_weights(module), facts))

    def read(self, epoch: float) -> dict[str, Tensor] | None:
        """Return the weights of an epoch, or None if they are missing or of another epoch."""
        try:
            with safe_open(self.path, "pt") as file:
                facts = file.metadata()
                if facts != {"trial": self.trial.digest, "epoch": str(epoch)}:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError):
            return None

    def remove(self) -> None:
        """Remove the weights."""
        with storage_errors("records", "remove", self.path, KEPT):
            self.path.unlink(missing_ok=True)


def export_best(
    records: Sequence[Record],
    store: TrialStore,
    images: ImageSplits,
    zoo: Mapping[str, Mapping[str, Any] | None],
    build: Callable[[str], Backbone],
    output: Path,
) -> list[Path]:
    """Write a folder with the weights of each model's best trial, and remove those of its other trials.

    The best trial is the one with the first seed of the best setting.

    Args:
        records: Records of a grid whose trials kept their weights.
        store: Folder of the records.
        images: Images of the trials.
        zoo: Settings of the models by name.
        build: Builds a model of the zoo before fine-tuning, by name.
        output: Folder in which each model gets a folder.

    Returns:
        The folders. A model whose best trial has no weights, or whose network cannot be built again, is left out and
        named in the log.

    Raises:
        StoreError: If a file cannot be written.
    """
    best = {record.trial.model: record for record in best_records(records)}
    written = []
    for model, record in best.items():
        weights = BestWeights(record.trial, store.folder(record.trial)).read(record.best["epoch"])
        if weights is None:
            _log.warning(
                "%s: its best trial ran without keep=weights; to train it again, remove %s and repeat the command.",
                *(model, store.folder(record.trial)),
            )
            continue
        folder = output / folder_name([model], record.trial.digest)
        try:
            _export(record, weights, images, ZooEntry.read(model, zoo[model]), build(model), folder)
            load_finetuned(folder)  # a network that cannot be built again is found now
        except StoreError:
            raise
        except ItmError as error:
            _log.error("%s: its fine-tuned weights cannot be loaded again: %s", model, error)
            continue
        written.append(folder)
    for record in records:
        if record.trial.model in best and record.trial != best[record.trial.model].trial:
            BestWeights(record.trial, store.folder(record.trial)).remove()
    return written


def _export(
    record: Record,
    weights: Mapping[str, Tensor],
    images: ImageSplits,
    entry: ZooEntry,
    backbone: Backbone,
    folder: Path,
) -> None:
    trial, pixels = record.trial, images.train.pixels
    network = {
        "name": trial.model,
        "model": entry.model_name,
        "model_args": dict(entry.model_args or {}),
        "layout": entry.layout,
        "image_size": entry.image_size,
        "pooling": backbone.pooling,
        "adaptation": trial.adaptation,
        "rank": trial.protocol.rank,
        "prompts": trial.protocol.prompts,
    }
    preprocessing = {**backbone.preprocessing, "range": pixels.range, "bands": pixels.bands}
    metadata = {"format": FORMAT, "network": json.dumps(network)}
    with storage_errors("hydra.run.dir", "write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "model.safetensors", save(dict(weights), metadata))
        write_atomic(folder / "preprocessing.json", _json(preprocessing))
        write_atomic(folder / "labels.json", _json(list(images.train.classes)))
        write_atomic(folder / "README.md", _card(record, images, backbone).encode())


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _card(record: Record, images: ImageSplits, backbone: Backbone) -> str:
    trial, protocol, best = record.trial, record.trial.protocol, record.best
    count = len(images.train.classes)
    return f"""# {trial.model} fine-tuned on {trial.dataset}

Accuracy on {len(images.test)} test images: {best["accuracy"]:.2f} % (mean over the {count} classes
{best["class_accuracy"]:.2f} %) after epoch {best["epoch"]:g} of {protocol.epochs}; {protocol.note}.

- network: {backbone.model}, {backbone.num_parameters:,} parameters, pooling {backbone.pooling}
- weights before fine-tuning: {backbone.pretraining}; licence: {backbone.license}
- trained: {trial.adaptation}, AdamW, learning rate {trial.lr:g}, weight decay {trial.weight_decay:g}, batch size
  {protocol.batch_size}, schedule {protocol.schedule}, precision {protocol.precision}, seed {trial.seed}
- training images: {len(images.train)} of {trial.dataset}; licence: {images.train.license}
- preprocessing: {backbone.transform_text} (`preprocessing.json`)
- trial: {trial.digest}

```python
import itm

model = itm.load_finetuned("this/folder")
model.predict(["photo.jpg"])  # names of classes, as in labels.json
```
"""


def _weights(module: FineTuneModule) -> dict[str, Tensor]:
    """Return all weights but those of the source head, on the CPU."""
    heads = set(source_head(module))
    state = module.state_dict()
    kept = {name: value for name, value in state.items() if name not in heads}
    # copies: the format refuses tensors that share memory
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in kept.items()}
