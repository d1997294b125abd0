"""Fine-tuning: weights that learn and weights that stay, the schedule, the numbers of an epoch, and resuming."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from torch import Tensor

from itm.core.datamodule import TransferData
from itm.core.errors import SettingError
from itm.core.lightning import no_driver_probe, quiet_lightning
from itm.core.seeding import derive_seed
from itm.data.image_set import ImageSet
from itm.groundtruth.adaptation import ADAPTATIONS
from itm.groundtruth.module import FineTuneModule, FineTuneSettings, accuracies, lr_factor, train_transform
from itm.models.backbone import Backbone, load_backbone

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE, CLASSES = 32, 3
TRAINED = [mode for mode in ADAPTATIONS if mode != "zero_shot"]


def backbone(model: str = "test_vit", **spec: Any) -> Backbone:
    return load_backbone("x", model=model, image_size=SIDE, **spec)


def toy(count: int, seed: int = 0) -> ImageSet:
    """Images with a colour per class under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = rng.integers(0, 150, (count, 40, 40, 3))
    pixels[np.arange(count), :, :, labels] += 100
    return ImageSet("toy", "train", ("a", "b", "c"), torch.from_numpy(labels), pixels.astype(np.uint8))


def batches(net: Backbone, workers: int = 0, seed: int = 0) -> TransferData:
    crops, whole = train_transform(net, scale=(0.5, 1.0)), net.transform
    data = {"train_transform": crops, "eval_transform": whole, "batch_size": 12, "workers": workers, "seed": seed}
    return TransferData.from_images(toy(36), toy(15, seed=1), **data)


def trainer(epochs: int, folder: Path | None = None, **options: Any) -> L.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(
        accelerator="cpu", max_epochs=epochs, enable_checkpointing=False, default_root_dir=folder, **quiet, **options
    )


def fit(module: FineTuneModule, epochs: int, resume: Path | None = None, workers: int = 0, **options: Any) -> L.Trainer:
    with quiet_lightning(), no_driver_probe():
        run = trainer(epochs, **options)
        run.fit(module, datamodule=batches(module.backbone, workers), ckpt_path=resume)
    return run


def module(net: Backbone | None = None, **settings: Any) -> FineTuneModule:
    settings = {"lr": 1e-3, "weight_decay": 1e-2, "warmup_epochs": 0, **settings}
    return FineTuneModule(backbone() if net is None else net, CLASSES, FineTuneSettings(**settings))


def numbers(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return a history without its times."""
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in history]


@pytest.mark.parametrize("model", ["test_vit", "test_resnet"])
def test_learns(model: str) -> None:
    tuned = module(backbone(model), lr=2e-3)
    fit(tuned, 8)
    first, last = tuned.history[0], tuned.history[-1]
    assert [entry["epoch"] for entry in tuned.history] == list(range(1, 9))
    assert last["train_loss"] < 0.6 * first["train_loss"]
    assert last["accuracy"] > 80
    assert all(entry["seconds"] > 0 for entry in tuned.history)


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        *(pytest.param("test_vit", mode, marks=[pytest.mark.peft] * (mode == "lora")) for mode in TRAINED),
        *(("test_resnet", mode) for mode in ("full", "linear", "bitfit")),
    ],
)
def test_only_the_weights_that_train_change(model: str, mode: str) -> None:
    net = backbone(model)
    net.net.reset_classifier(7)  # a source head, as published weights have
    for weight in net.parameters():  # batch norms that start at zero would stop some gradients
        torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    tuned = module(net, adaptation=mode)
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    fit(tuned, 1)
    changed = {name for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
    named = dict(tuned.named_parameters())
    source = {name for name, _ in named.items() if name.startswith(("backbone.net.head.", "backbone.net.fc."))}
    statistics = {name for name in before if "running_" in name or "num_batches" in name}
    expected = {
        "full": set(named) - source | statistics,
        "linear": set(),
        "lora": {name for name in named if "lora_" in name},
        "vpt": {name for name in named if name.endswith("tokens")},
        "vpt_deep": {name for name in named if name.endswith("tokens")},
        "bitfit": {name for name in named if name.endswith(".bias")} - source,
    }[mode] | {"head.weight", "head.bias"}
    assert source
    assert changed == expected
    assert tuned.trainable == sum(named[name].numel() for name in changed if name in named)


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    tuned = module(backbone("test_resnet"), adaptation="linear")
    assert tuned.training
    assert not any(part.training for part in tuned.backbone.modules())
    tuned.eval()
    tuned.train()
    assert tuned.head.training
    assert not any(part.training for part in tuned.backbone.modules())
    assert all(part.training for part in module().backbone.net.modules())


@pytest.mark.parametrize("adaptation", ["full", pytest.param("lora", marks=pytest.mark.peft), "vpt_deep"])
def test_recomputed_activations_give_the_same_gradients(adaptation: str) -> None:
    batch = next(iter(batches(backbone()).train_dataloader()))
    gradients = []
    for again in (False, True):
        tuned = module(adaptation=adaptation, gradient_checkpointing=again)
        tuned.training_step(batch, 0).backward()
        gradients.append({name: weight.grad for name, weight in tuned.named_parameters() if weight.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_the_head_is_seeded() -> None:
    one, same, other = (module(seed=seed).head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_training_loss_is_the_mean_over_images() -> None:
    """With nothing to learn from, an epoch's loss is the smoothed cross-entropy of the first weights."""
    tuned = module(adaptation="linear", lr=1e-12, label_smoothing=0.1)
    loader = batches(tuned.backbone).train_dataloader()
    with torch.no_grad():
        losses = []
        for images, labels in loader:
            logp = tuned(images).log_softmax(dim=1)
            target = torch.full_like(logp, 0.1 / CLASSES).scatter_add_(1, labels[:, None], torch.full((12, 1), 0.9))
            losses += (-(target * logp).sum(dim=1)).tolist()
    fit(tuned, 1)
    assert tuned.history[0]["train_loss"] == pytest.approx(sum(losses) / 36, rel=1e-5)


def test_schedule_by_hand() -> None:
    # 10 steps, 4 of warm-up: 1/5 .. 4/5, then (1 + cos(pi k / 6)) / 2
    falling = [1, (2 + math.sqrt(3)) / 4, 0.75, 0.5, 0.25, (2 - math.sqrt(3)) / 4, 0]
    assert [lr_factor(step, 10, 4) for step in range(11)] == pytest.approx([0.2, 0.4, 0.6, 0.8, *falling], abs=1e-12)
    assert [lr_factor(step, 10, 4, "constant") for step in (0, 3, 4, 9)] == [0.2, 0.8, 1, 1]
    assert lr_factor(0, 10, 0) == 1


@pytest.mark.parametrize("accumulate", [1, 3])
def test_schedule_in_training(accumulate: int) -> None:
    used: list[float] = []

    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
            used.append(optimizer.param_groups[0]["lr"])

    tuned = module(adaptation="linear", lr=0.4, warmup_epochs=1)
    fit(tuned, 3, callbacks=[Watch()], accumulate_grad_batches=accumulate)
    steps = 3 // accumulate  # of an epoch
    assert used == pytest.approx([0.4 * lr_factor(step, 3 * steps, steps) for step in range(3 * steps)])
    assert [entry["lr"] for entry in tuned.history] == pytest.approx(used[steps - 1 :: steps])


def test_accuracies_by_hand() -> None:
    # class a: 8 of 10, b: 1 of 2, c has no image, d: 0 of 4
    confusion = torch.tensor([[8, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [4, 0, 0, 0]])
    assert accuracies(confusion) == pytest.approx((100 * 9 / 16, 100 * (0.8 + 0.5 + 0) / 3))
    labels, found = torch.randint(0, 4, (2, 50), generator=torch.Generator().manual_seed(0)).numpy()
    top, balanced = accuracies(torch.from_numpy(confusion_matrix(labels, found)))
    assert top == pytest.approx(100 * (labels == found).mean())
    assert balanced == pytest.approx(100 * balanced_accuracy_score(labels, found))


def test_history_counts_the_held_out_images() -> None:
    tuned = module()
    run = fit(tuned, 1)
    test = toy(15, seed=1)
    tuned.eval()
    with torch.no_grad():
        found = tuned(torch.stack([tuned.backbone.transform(image) for image, _ in (test[i] for i in range(15))]))
    hits = found.argmax(dim=1) == test.labels
    assert tuned.history[0]["accuracy"] == pytest.approx(100 * float(hits.float().mean()))
    assert tuned.history[0]["class_accuracy"] == pytest.approx(
        100 * float(torch.stack([hits[test.labels == c].float().mean() for c in range(CLASSES)]).mean())
    )
    with quiet_lightning():
        (again,) = run.validate(tuned, datamodule=batches(tuned.backbone), verbose=False)
    assert again["accuracy"] == pytest.approx(tuned.history[0]["accuracy"])
    assert len(tuned.history) == 1  # evaluation alone adds no epoch


def dropping(net: Backbone) -> Backbone:
    """The same network with dropout in it."""
    for part in net.net.blocks:
        part.attn.proj_drop = torch.nn.Dropout(0.3)
    return net


class Save(L.Callback):
    """Saves a checkpoint after the second epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize(
    ("kind", "workers"),
    [("dropout", 0), ("dropout", 2), ("resnet", 0), pytest.param("lora", 0, marks=pytest.mark.peft)],
)
def test_resumed_training_has_the_numbers_it_would_have_had(kind: str, workers: int, tmp_path: Path) -> None:
    def build(seed: int = 0) -> FineTuneModule:
        net = backbone("test_resnet" if kind == "resnet" else "test_vit")
        mode = "lora" if kind == "lora" else "full"
        return module(dropping(net) if kind == "dropout" else net, warmup_epochs=1, adaptation=mode, seed=seed)

    whole = build()
    fit(whole, 4, workers=workers, callbacks=[Save(tmp_path / "second.ckpt")])
    torch.manual_seed(1234)  # a new process has other random numbers
    resumed = build()
    fit(resumed, 4, resume=tmp_path / "second.ckpt", workers=workers)
    assert len(whole.history) == 4
    assert numbers(resumed.history) == numbers(whole.history)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_dropout_depends_on_the_seed_and_the_epoch() -> None:
    def loss(seed: int, epoch: int) -> float:
        tuned = module(dropping(backbone()), seed=seed)
        run = trainer(9)
        run.fit_loop.epoch_progress.current.processed = run.fit_loop.epoch_progress.current.completed = epoch
        tuned.trainer = run
        tuned.on_train_epoch_start()
        return tuned.training_step(next(iter(batches(tuned.backbone).train_dataloader())), 0).item()

    with quiet_lightning():
        assert loss(0, 1) == loss(0, 1)
        assert len({loss(0, 0), loss(0, 1), loss(1, 0), loss(1, 1)}) == 4


def test_views_depend_on_seed_epoch_and_image_alone() -> None:
    net = backbone()

    def shown(workers: int, epoch: int, seed: int = 0) -> list[Tensor]:
        loader = batches(net, workers, seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [images for images, _ in loader]

    first = shown(0, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, shown(2, 1), strict=True))
    assert not torch.equal(first[0], shown(0, 0)[0])
    assert not torch.equal(first[0], shown(0, 1, seed=1)[0])
    torch.manual_seed(5)
    random.seed(5)
    expected = (torch.rand(1), random.random())
    torch.manual_seed(5)
    random.seed(5)
    shown(0, 1)
    assert (torch.rand(1), random.random()) == expected  # dropout goes on as if no image had been transformed


def test_derived_seeds_differ() -> None:
    pairs = [(seed, epoch) for seed in range(-2, 20) for epoch in range(20)]
    assert len({derive_seed(*pair) for pair in pairs}) == len(pairs)
    assert derive_seed(0, 1) == derive_seed(0, 1) != derive_seed(1, 0)


def test_train_transform() -> None:
    net = load_backbone("x", model="test_vit")
    picture = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (150, 1, 3)))  # grows to the right
    crops = [train_transform(net, scale=(1.0, 1.0))(picture) for _ in range(30)]
    assert {(crop.dtype, tuple(crop.shape)) for crop in crops} == {(torch.uint8, (3, 160, 160))}
    mirrored = [bool(crop[0, 0, 0] > crop[0, 0, -1]) for crop in crops]
    assert any(mirrored)
    assert not all(mirrored)
    assert not any(
        bool(c[0, 0, 0] > c[0, 0, -1]) for c in (train_transform(net, flip=False)(picture) for _ in range(20))
    )
    spans = [int(crop.max()) - int(crop.min()) for crop in (train_transform(net)(picture) for _ in range(30))]
    assert min(spans) < 120 < max(spans)  # small and large shares of the picture
    assert train_transform(net).transforms[0].interpolation.value == "bicubic"
    with pytest.raises(SettingError, match=r"scale=0\.5, 0\.2: expected two shares"):
        train_transform(net, scale=(0.5, 0.2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr=0.0: expected a number above 0"),
        ({"lr": math.nan}, "lr=nan: expected a"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0: expected a number of at least 0"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1: expected a number of at least 0"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0: expected a number below 1"),
        ({"schedule": "cosin"}, "schedule=cosin: .*Did you mean 'cosine'"),
        ({"adaptation": "ful"}, "adaptation=ful: .*Did you mean 'full'"),
        ({"adaptation": "zero_shot"}, "adaptation=zero_shot: trains nothing"),
    ],
)
def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        module(**settings)


def test_refused_before_training() -> None:
    with pytest.raises(SettingError, match="num_classes=1: expected 2 or more"):
        FineTuneModule(backbone(), 1, FineTuneSettings(lr=1e-3, weight_decay=0))
    with pytest.raises(SettingError, match="warmup_epochs=5: expected less than the training's 2 epochs"):
        fit(module(warmup_epochs=5), 2)
    with pytest.raises(SettingError, match="gradient_checkpointing=true: torchvision:resnet18 does not support it"):
        module(load_backbone("x", model="torchvision:resnet18"), gradient_checkpointing=True)
