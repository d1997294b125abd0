"""Weights that outlive a grid: predictions equal the measured accuracy, damaged folders are refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from breaking import break_in

import itm
from itm.core.errors import CheckpointError, DataError
from itm.data.image_set import load_images
from itm.groundtruth.export import BestWeights, export_best
from itm.groundtruth.grid import Grid
from itm.groundtruth.images import ImageSplits
from itm.groundtruth.protocol import Protocol
from itm.groundtruth.trials import TrialStore
from itm.groundtruth.worker import Worker

PROTOCOL = Protocol(epochs=3, batch_size=8, warmup_epochs=0)
ZOO = {
    "a/b": {"model": "test_vit", "image_size": 32, "preprocessing": {"crop_pct": 0.8, "mean": [0.2, 0.3, 0.4]}},
    "c": {"model": "test_resnet", "image_size": 32},
}


OLD, NEW = b'\\"test_resnet\\"', b'\\"test_vit\\"   '  # the same length, as the file's header needs


@pytest.fixture
def images(image_folder):
    return ImageSplits(*(load_images(image_folder, split) for split in ("train", "test")))


@pytest.fixture
def worker(images, tmp_path, one_thread):
    return Worker(ZOO, images, TrialStore(tmp_path / "records"), keep_weights=True)


def export(worker, grid, output):
    records, failed = worker.run(grid)
    assert failed == []
    return records, export_best(records, worker.store, worker.images, worker.zoo, worker.backbone, output)


def paths_of(images):
    return [images.test.path(index) for index in range(len(images.test))]


def accuracy(tuned, images):
    """Percent of the test images that are classified correctly."""
    truth = [images.test.classes[label] for label in images.test.labels.tolist()]
    hits = sum(one == other for one, other in zip(tuned.predict(paths_of(images)), truth, strict=True))
    return 100 * hits / len(truth)


def test_predictions_of_the_best_trial_have_its_accuracy_to_the_last_digit(worker, images, tmp_path):
    records, folders = export(worker, Grid([1e-5, 3e-3], [1e-2], protocol=PROTOCOL), tmp_path / "out")
    paths = paths_of(images)
    assert len(folders) == 2
    for model, folder in zip(ZOO, folders, strict=True):
        assert sorted(path.name for path in folder.iterdir()) == [
            "README.md", "labels.json", "model.safetensors", "preprocessing.json",
        ]  # fmt: skip
        best = max(r.best["accuracy"] for r in records if r.trial.model == model)
        tuned = itm.load_finetuned(folder)
        assert accuracy(tuned, images) == best
        assert tuned.predict(paths[0]) == tuned.predict(paths)[:1]
        torch.testing.assert_close(tuned.probabilities(paths, batch_size=3), tuned.probabilities(paths))
        assert tuned.probabilities([]).shape == (0, 3)
        card = (folder / "README.md").read_text("utf-8")
        assert f"{best:.2f} %" in card
        assert "chosen on the test split (optimistic)" in " ".join(card.split())
    kept = list(worker.store.root.rglob("best.safetensors"))
    assert len(kept) == 2, "only the best trial of each model keeps its weights"


def test_the_preprocessing_is_that_of_training_and_not_the_library_s(worker, images, tmp_path):
    worker.zoo = {"a/b": ZOO["a/b"]}
    _, (folder,) = export(worker, Grid([1e-3], [1e-2], protocol=PROTOCOL), tmp_path / "out")
    expected = worker.backbone("a/b")
    tuned = itm.load_finetuned(folder).module.backbone
    assert tuned.transform_text == expected.transform_text
    picture = images.test.image(0)
    assert torch.equal(tuned.transform(picture), expected.transform(picture))
    assert torch.equal(tuned.mean, expected.mean)


@pytest.mark.parametrize("adaptation", ["linear", "vpt_deep", pytest.param("lora", marks=pytest.mark.peft)])
def test_added_weights_of_an_adaptation_are_loaded(worker, images, tmp_path, adaptation):
    worker.zoo = {"a/b": ZOO["a/b"]}
    grid = Grid([1e-2], [1e-2], adaptation=adaptation, protocol=replace(PROTOCOL, prompts=2, rank=2))
    (record,), (folder,) = export(worker, grid, tmp_path / "out")
    assert accuracy(itm.load_finetuned(folder), images) == record.best["accuracy"]


def test_the_weights_are_those_of_the_best_epoch_also_after_a_kill(worker, tmp_path, monkeypatch):
    worker.zoo = {"c": ZOO["c"]}
    grid = Grid([1e-3], [1e-2], protocol=PROTOCOL)
    whole = Worker(worker.zoo, worker.images, TrialStore(tmp_path / "whole"), keep_weights=True)
    _, (expected,) = export(whole, grid, tmp_path / "expected")
    with monkeypatch.context() as patch:
        break_in(patch, KeyboardInterrupt(), lambda module, _: module.current_epoch == 2)
        with pytest.raises(KeyboardInterrupt):
            worker.run(grid)
    _, (folder,) = export(worker, grid, tmp_path / "out")
    one, other = (itm.load_finetuned(path).module.state_dict() for path in (folder, expected))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_trial_that_kept_no_weights_is_named(worker, tmp_path, caplog):
    worker.zoo = {"c": ZOO["c"]}
    worker.keep_weights = False
    (record,), folders = export(worker, Grid([1e-3], [1e-2], protocol=PROTOCOL), tmp_path / "out")
    assert folders == []
    advice = f"to train it again, remove {worker.store.folder(record.trial)}"
    assert f"c: its best trial ran without keep=weights; {advice}" in caplog.text
    assert BestWeights(record.trial, worker.store.folder(record.trial)).read(1) is None


@pytest.mark.parametrize(
    ("file", "damage", "error"),
    [
        ("model.safetensors", lambda content: content[:-10], DataError),
        ("model.safetensors", lambda content: content.replace(OLD, NEW), CheckpointError),
        ("preprocessing.json", lambda content: b"{}", DataError),
        ("labels.json", lambda content: b'["one", "two"]', CheckpointError),
        ("labels.json", lambda content: b"", DataError),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(worker, tmp_path, file, damage, error):
    worker.zoo = {"c": ZOO["c"]}
    _, (folder,) = export(worker, Grid([1e-3], [1e-2], protocol=replace(PROTOCOL, epochs=1)), tmp_path / "out")
    path = folder / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(error, match=re.escape(str(folder))) as caught:
        itm.load_finetuned(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="keep=weights wrote"):
        itm.load_finetuned(tmp_path / "nowhere")


def test_labels_and_value_range_are_plain_json(worker, tmp_path):
    worker.zoo = {"c": ZOO["c"]}
    _, (folder,) = export(worker, Grid([1e-3], [1e-2], protocol=replace(PROTOCOL, epochs=1)), tmp_path / "out")
    assert json.loads((folder / "labels.json").read_text()) == ["ant", "bee", "cat"]
    preprocessing = json.loads(Path(folder / "preprocessing.json").read_text())
    assert (preprocessing["range"], preprocessing["bands"], preprocessing["input_size"]) == (None, None, [3, 32, 32])
