"""Batches of one dataset: from cached features for several seeds, and from images."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from itm.core.datamodule import TransferData
from itm.core.features import Features
from itm.core.splits import split_indices
from itm.data.image_set import load_images


def data_of(n: int, seeds: list[int], **settings: Any) -> TransferData:
    """Batches of features whose rows hold their own number."""
    features = Features(torch.arange(n, dtype=torch.float32)[:, None].repeat(1, 3), torch.arange(n) % 4)
    splits = [split_indices(features.y, 0.8, seed) for seed in seeds]
    train, held_out = (torch.stack(rows) for rows in zip(*splits, strict=True))
    return TransferData.from_features(features, train, held_out, seeds=seeds, **settings)


def rows(loader: Iterable[Any]) -> list[Tensor]:
    """Row numbers of every batch, ``[S, B]``; the class beside each is checked on the way."""
    shown = []
    for chunk in loader:
        for x, y in chunk:
            assert torch.equal(x[..., 0].long() % 4, y)
            shown.append(x[..., 0].long())
    return shown


def test_features_come_in_chunks_of_stacked_batches():
    data = data_of(103, [3, 4], batch_size=32, iterations=5, evaluate_every=2)
    train, held_out = rows(data.train_dataloader()), rows(data.val_dataloader())
    assert [batch.shape for batch in train] == [(2, 32)] * 5
    assert [batch.shape for batch in held_out] == [(2, 21)]
    assert len(data.train_dataloader()) == 3
    for seed in range(2):
        trained = {int(row) for batch in train for row in batch[seed]}
        held = held_out[0][seed].tolist()
        assert not trained & set(held)
        assert held != sorted(held)
    assert torch.equal(held_out[0], rows(data.test_dataloader())[0])


def test_a_seed_s_batches_do_not_depend_on_the_seeds_beside_it():
    settings = {"batch_size": 32, "iterations": 7}
    together = rows(data_of(103, [3, 4], **settings).train_dataloader())
    for i, seed in enumerate((3, 4)):
        alone = rows(data_of(103, [seed], **settings).train_dataloader())
        assert all(torch.equal(a[i], b[0]) for a, b in zip(together, alone, strict=True))


def test_a_small_training_part_is_one_batch_and_the_transform_sees_every_batch():
    data = data_of(10, [0], batch_size=256, iterations=2, transform=lambda x: x.mul_(4))
    shown = [x for chunk in data.train_dataloader() for x, _ in chunk]
    assert data.batch_size == 8
    assert [x.shape for x in shown] == [(1, 8, 3)] * 2
    assert all((x % 4 == 0).all() for x in shown)
    (chunk,) = data.val_dataloader()
    assert all((x % 4 == 0).all() for x, _ in chunk)


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class Recorder(lightning.LightningModule):
    """Records which images each epoch shows."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[list[int]] = []
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.epochs[-1] += batch[0].flatten(1).sum(1).int().tolist()
        return self.weight * 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(images: Any, tmp_path: Path, epochs: int, resume: Path | None = None) -> tuple[list[list[int]], Path]:
    module = Recorder()
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0,
    )  # fmt: skip
    data = TransferData.from_images(images, images, train_transform=pixels, eval_transform=pixels, batch_size=4)
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return module.epochs, tmp_path / "last.ckpt"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*LeafSpec:FutureWarning")
def test_resumed_training_sees_the_batches_it_would_have_seen(image_folder: Path, tmp_path: Path) -> None:
    images = load_images(image_folder)
    whole, _ = fit(images, tmp_path, 3)
    assert sorted(whole[0]) == sorted(whole[1])
    assert whole[0] != whole[1] != whole[2]
    first, checkpoint = fit(images, tmp_path, 1)
    rest, _ = fit(images, tmp_path, 3, checkpoint)
    assert first + rest[-2:] == whole


def test_batches_of_images(image_folder: Path) -> None:
    train, test = load_images(image_folder), load_images(image_folder, "test")
    data = TransferData.from_images(
        train, test, train_transform=lambda image: 255 - pixels(image), eval_transform=pixels, batch_size=6
    )
    assert [x.shape for x, _ in data.train_dataloader()] == [(6, 3, 8, 12)] * 2
    ((x, y),) = data.val_dataloader()
    assert y.tolist() == test.labels.tolist()
    assert torch.equal(x, torch.stack([pixels(image) for image, _ in (test[i] for i in range(4))]))
    shown = {tuple((255 - image[:, 0, 0]).tolist()) for x, _ in data.train_dataloader() for image in x}
    assert shown <= {train.image(i).getpixel((0, 0)) for i in range(16)}
