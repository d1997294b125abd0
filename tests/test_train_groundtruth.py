"""train_groundtruth.py from a folder of images to tables: skipped, resumed, shared and failing trials."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from itm.cli import train_groundtruth
from itm.core.errors import DataError, SettingError
from itm.data.catalog import CATALOG_PREFIX
from itm.data.image_set import load_images
from itm.groundtruth import tables as groundtruth
from itm.groundtruth.finetuned import load_finetuned
from itm.groundtruth.grid import Grid
from itm.groundtruth.images import ImageSplits, default_select, load_splits
from itm.groundtruth.module import FineTuneModule
from itm.groundtruth.protocol import Protocol
from itm.groundtruth.train import train_trial
from itm.groundtruth.trials import TrialStore
from itm.groundtruth.worker import Worker

ZOO = ("~zoo", "+zoo.a={model: test_vit}", "+zoo.b={model: test_resnet}")
FAST = ("image_size=32", "grid.lr=[1e-3]", "grid.weight_decay=[1e-2]")
SHORT = ("protocol.epochs=2", "protocol.warmup_epochs=0", "protocol.batch_size=8")


@pytest.fixture
def run(tmp_path, monkeypatch, one_thread):
    """Runs train_groundtruth.py in this process and returns its output folder and exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ITM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("WANDB_MODE", "offline")

    def go(*overrides: str, out: str = "out") -> tuple[Path, object]:
        folder = tmp_path / out
        own = ["train_groundtruth.py", *overrides, f"hydra.run.dir={out}", f"hydra.sweep.dir={out}"]
        monkeypatch.setattr(sys, "argv", own)
        try:
            train_groundtruth.main()
        except SystemExit as stop:
            return folder, stop.code
        return folder, 0

    return go


def records(home: Path) -> list[dict]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(home.rglob("record.json"))]


def trained(monkeypatch) -> list[str]:
    """Names of the trials that are trained from now on."""
    names: list[str] = []

    def note(trial, *others, **options):
        names.append(str(trial))
        return train_trial(trial, *others, **options)

    monkeypatch.setattr("itm.groundtruth.worker.train_trial", note)
    return names


def test_a_grid_ends_in_tables_and_is_not_trained_twice(run, image_folder, tmp_path, monkeypatch, capsys):
    words = (f"data={image_folder}", *ZOO, *FAST, *SHORT, "protocol.select=test", "table=gt/cpu.csv")
    out, code = run(*words)
    assert code == 0
    assert groundtruth.load(out / "groundtruth.csv").shape == (2, 1)
    assert groundtruth.load("gt/cpu.csv").columns.tolist() == ["images"]
    assert Path("gt/cpu_cells.csv").is_file()
    assert (out / "config.yaml").is_file()
    trials = records(tmp_path / "home")
    assert len(trials) == 2
    for trial in trials:
        assert trial["status"] == "finished"
        assert len(trial["history"]) == 2
        assert trial["accuracy"] == max(epoch["accuracy"] for epoch in trial["history"])
        assert {"seconds", "images_per_second", "peak_memory", "versions", "commit", "device", "trainable"} <= set(
            trial["facts"]
        )
        assert trial["cell"]["protocol"]["epochs"] == 2
    assert not list((tmp_path / "home").rglob("last.ckpt"))
    assert "Accuracy after fine-tuning" in capsys.readouterr().out

    names = trained(monkeypatch)
    damaged = next((tmp_path / "home").rglob("record.json"))
    damaged.write_text(damaged.read_text("utf-8")[:-50], "utf-8")
    _, code = run(*words, out="again")
    assert (code, len(names)) == (0, 1)
    assert [trial["history"][1]["accuracy"] for trial in records(tmp_path / "home")] == [
        trial["history"][1]["accuracy"] for trial in trials
    ]


def test_kept_weights_predict_what_training_measured_to_the_last_digit(run, image_folder, tmp_path, capsys):
    out, code = run(f"data={image_folder}", *ZOO, *FAST, *SHORT, "grid.lr=[1e-3,1e-2]", "keep=weights")
    assert code == 0
    folders = sorted((out / "finetuned").iterdir())
    assert [folder.name[0] for folder in folders] == ["a", "b"]
    printed = capsys.readouterr().out
    images = load_images(image_folder, "test")
    paths = [images.path(index) for index in range(len(images))]
    truth = [images.classes[label] for label in images.labels.tolist()]
    kept = TrialStore(tmp_path / "home/groundtruth").read_all()
    assert len(kept) == 4
    for folder in folders:
        assert f"Weights: {folder}" in printed
        assert {path.name for path in folder.iterdir()} == {
            "README.md", "labels.json", "model.safetensors", "preprocessing.json",
        }  # fmt: skip
        card = (folder / "README.md").read_text("utf-8")
        (record,) = (one for one in kept if f"trial: {one.trial.digest}" in card)
        tuned = load_finetuned(folder)
        assert tuned.classes == ("ant", "bee", "cat")
        hits = sum(one == other for one, other in zip(tuned.predict(paths), truth, strict=True))
        assert 100 * hits / len(truth) == record.best["accuracy"]
        assert f"{record.best['accuracy']:.2f} % (mean" in card
        assert "chosen on a fifth of the training split" in " ".join(card.split())


def test_models_are_picked_from_the_zoo_and_from_timm_by_name(run, image_folder, tmp_path, capsys):
    out, code = run(f"data={image_folder}", *ZOO, "models=[b,test_vit2]", "pretrained=false", *FAST, *SHORT)
    assert code == 0
    assert groundtruth.load(out / "groundtruth.csv").index.tolist() == ["b", "test_vit2"]
    assert {one["cell"]["model"] for one in records(tmp_path / "home")} == {"b", "test_vit2"}
    _, code = run(f"data={image_folder}", *ZOO, "models=[c]", *FAST, *SHORT)
    assert code == 2
    assert "error: models=c: not known" in capsys.readouterr().err


def test_the_best_setting_of_each_model_is_repeated_with_other_seeds(run, image_folder, tmp_path, capsys):
    words = (
        f"data={image_folder}",
        *ZOO,
        *FAST,
        *SHORT,
        "grid.lr=[1e-5,1e-2]",
        "grid.best_seeds=[0,1,2]",
        "protocol.select=test",
    )
    _, code = run(*words)
    assert code == 0
    found = records(tmp_path / "home")
    for model in ("a", "b"):
        first = [c for c in found if c["cell"]["model"] == model and c["cell"]["seed"] == 0]
        assert len(first) == 2
        best = max(first, key=lambda trial: (trial["accuracy"], -trial["cell"]["lr"]))
        repeats = [c["cell"] for c in found if c["cell"]["model"] == model and c["cell"]["seed"] > 0]
        assert sorted(trial["seed"] for trial in repeats) == [1, 2]
        assert {trial["lr"] for trial in repeats} == {best["cell"]["lr"]}
    assert "the seed alone moves an accuracy by" in capsys.readouterr().out


def test_failures_are_recorded_and_tried_again_while_the_others_go_on(run, image_folder, tmp_path, monkeypatch):
    step = FineTuneModule.training_step

    def failing(module, batch, index):
        if module.convolutional:
            raise RuntimeError("cuDNN error")
        return step(module, batch, index)

    words = (f"data={image_folder}", *ZOO, "+zoo.c={model: test_vit, checkpoint: gone.pt}", *FAST, *SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(FineTuneModule, "training_step", failing)
        out, code = run(*words)
    said = str(code)
    assert "2 failed" in said
    assert "c: zoo.c.checkpoint=gone.pt" in said
    assert said.count("b on images") == 1
    assert "RuntimeError: cuDNN error" in said
    assert [trial["status"] for trial in records(tmp_path / "home")] == ["finished", "failed"]
    assert groundtruth.load(out / "groundtruth.csv").loc["a"].notna().all()

    names = trained(monkeypatch)
    _, code = run(f"data={image_folder}", *ZOO, *FAST, *SHORT)
    assert code == 0
    assert len(names) == 1
    assert {trial["status"] for trial in records(tmp_path / "home")} == {"finished"}


def test_jobs_of_a_multirun_share_one_grid(run, image_folder, tmp_path, monkeypatch):
    names = trained(monkeypatch)
    words = (f"data={image_folder}", "worker=1,2", *ZOO[:2], *FAST, *SHORT, "grid.weight_decay=[1e-2,1e-4]")
    out, code = run("-m", *words)
    assert code == 0
    assert len(names) == 2
    tables = [(out / job / "groundtruth.csv").read_text() for job in "01"]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data=digitz", ["data=digitz", "'digits'"]),
        ("zoo=demmo", ["zoo=demmo", "'demo'"]),
        ("trainer=v10", ["trainer=v10", "'v100'"]),
        ("grid.lrs=[1]", ["grid.lrs", "'grid.lr'"]),
        ("+grid.lrs=[1]", ["grid.lrs", "'grid.lr'"]),
        ("grid.lr=1e-5", ["grid.lr=1e-05", "list"]),
        ("grid.lr=[]", ["grid.lr=[]", "list"]),
        ("grid.lr=[a]", ["grid.lr=a", "a number"]),
        ("grid.lr=[0]", ["grid.lr=0", "above 0"]),
        ("grid.weight_decay=[-1]", ["grid.weight_decay=-1"]),
        ("grid.seeds=[1.5]", ["grid.seeds=1.5", "whole number"]),
        ("adaptation=ful", ["error: adaptation=ful", "'full'"]),
        ("protocol.epoch=3", ["protocol.epoch", "'protocol.epochs'"]),
        ("+protocol.epoch=3", ["protocol.epoch", "'protocol.epochs'"]),
        ("protocol.epochs=3", ["protocol.warmup_epochs=5", "protocol.epochs=3"]),
        ("protocol.rank=0", ["protocol.rank=0", "at least 1"]),
        ("protocol.prompts=x", ["protocol.prompts=x", "whole number"]),
        ("protocol.schedule=cosin", ["protocol.schedule=cosin", "'cosine'"]),
        ("image_size=0", ["image_size=0", "at least 1"]),
        ("data.test_limit=x", ["data.test_limit=x", "whole number"]),
        ("data.test_limit=3", ["data.test_limit=3", "10 classes"]),
        ("trainer.precision=16", ["trainer.precision=16", "GPU"]),
        ("trainer.batch_size=0", ["trainer.batch_size=0"]),
        ("compile=maybe", ["compile=maybe"]),
        ("~zoo", ["zoo", "nothing is chosen"]),
        ("keep=weigths", ["keep=weigths", "'weights'"]),
        ("protocol.select=tets", ["protocol.select=tets", "'test'"]),
        ("data.on_error=skp", ["data.on_error=skp", "'skip'"]),
        ("tracking=wandb tracking.mode=of", ["tracking.mode=of"]),
    ],
)
def test_mistakes_end_in_one_line(run, override, words, capsys):
    _, code = run("data=digits", *override.split())
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_a_missing_package_is_reported_before_any_trial(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "peft", None)
    _, code = run("data=digits", "adaptation=lora")
    assert code == 2
    assert "uv sync --extra peft" in capsys.readouterr().err


@pytest.fixture
def grid():
    return Grid([1e-3], [1e-2, 1e-4], protocol=Protocol(epochs=1, batch_size=8, warmup_epochs=0))


@pytest.fixture
def worker(image_folder, tmp_path, one_thread):
    zoo = {"a": {"model": "test_vit", "image_size": 32}}
    images = ImageSplits(*(load_images(image_folder, split) for split in ("train", "test")))
    return Worker(zoo, images, TrialStore(tmp_path / "records"), patience=0.05)


def test_a_trial_that_another_worker_holds_is_tried_again_later(worker, grid, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    first = grid.trials(worker.backbone("a"), worker.images)[0]
    claimed = worker.store.claim(first)
    claimed.__enter__()
    waits = []

    def wait(seconds):  # the other worker is killed meanwhile
        waits.append(len(list(worker.store.root.rglob("record.json"))))
        claimed.__exit__(None, None, None)

    monkeypatch.setattr("itm.groundtruth.worker.time.sleep", wait)
    records, failed = worker.run(grid)
    assert (len(records), failed) == (2, [])
    assert waits == [1], "the free trial comes first, then one wait"
    assert "1 trials are left, which other workers hold" in caplog.text


def test_a_failure_is_tried_again_by_one_worker_only(worker, grid, monkeypatch):
    def fail(*_):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(FineTuneModule, "training_step", fail)
        _, failed = worker.run(grid)
        assert len(failed) == 2
        names = trained(patch)
        second = Worker(worker.zoo, worker.images, worker.store)
        second._old_failures = {record.trial.digest: record for record in worker.store.read_all()}
        worker.run(grid)
        assert len(names) == 2
        for trial in grid.trials(worker.backbone("a"), worker.images):
            assert second.train_if_free(trial), "failed since the second worker began"
        assert len(names) == 2


class _BrokenTracker:
    """Fails at the start of the first run and at the end of the second."""

    logger = None

    def __init__(self):
        self.started = 0

    @contextmanager
    def track_trial(self, trial):
        self.started += 1
        if self.started == 1:
            raise OSError("no network")
        yield self

    def finish(self, record):
        raise OSError("network lost")


def test_tracking_that_fails_costs_no_trial(worker, grid, caplog):
    worker.tracker = _BrokenTracker()
    records, failed = worker.run(grid)
    assert (len(records), failed) == (2, [])
    assert "is not tracked: no network" in caplog.text
    assert "is recorded, but its tracked run did not end properly: network lost" in caplog.text


DIGITS = {"name": "digits", "root": None, "limit": 50, "test_limit": 30, "on_error": "stop"}


def test_a_sample_of_the_test_split_is_named_by_its_own_setting():
    images = load_splits(DIGITS, 0, "test")
    assert (len(images.train), len(images.test), images.validation) == (50, 30, None)
    assert images.fingerprint == images.train.fingerprint
    with pytest.raises(SettingError, match=r"data\.test_limit=3:"):
        load_splits({**DIGITS, "test_limit": 3}, 0, "test")


def test_a_stratified_fifth_of_the_training_images_validates_and_does_not_train():
    whole = load_splits(DIGITS, 0, "test").train
    images = load_splits(DIGITS, 0, "validation")
    assert (len(images.train), len(images.validation)) == (40, 10)
    assert images.validation.labels.unique().tolist() == list(range(10))
    rows = sorted(part.items[i].tobytes() for part in (images.train, images.validation) for i in range(len(part)))
    assert rows == sorted(item.tobytes() for item in whole.items)
    others = [load_splits(DIGITS, seed, "validation").fingerprint for seed in (0, 1)]
    assert others[0] == images.fingerprint != others[1]


def test_a_user_s_folder_is_chosen_on_validation_images_and_a_dataset_by_name_on_the_test_split(image_folder):
    assert default_select(str(image_folder)) == "validation"
    assert default_select("digits") == default_select(f"{CATALOG_PREFIX}digits") == "test"


def test_the_accuracy_of_the_epoch_that_the_validation_images_choose_is_shown(run, image_folder, tmp_path, capsys):
    out, code = run(f"data={image_folder}", *ZOO[:2], *FAST, *SHORT)
    assert code == 0
    (record,) = records(tmp_path / "home")
    assert record["cell"]["protocol"]["select"] == "validation"
    best = max(record["history"], key=lambda epoch: epoch["validation_accuracy"])
    assert (record["epoch"], record["accuracy"]) == (best["epoch"], best["accuracy"])
    assert "best epoch and setting chosen on a fifth of the training split" in " ".join(capsys.readouterr().out.split())
    assert "chosen on a fifth of the training split" in (out / "groundtruth_cells.csv").read_text()

    out, code = run(f"data={image_folder}", *ZOO[:2], *FAST, *SHORT, "protocol.select=test", out="optimistic")
    assert code == 0
    note = "best epoch and setting chosen on the test split (optimistic)"
    assert note in " ".join(capsys.readouterr().out.split())
    assert note in (out / "groundtruth_cells.csv").read_text()
    assert len(records(tmp_path / "home")) == 2


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_image_that_cannot_be_read_stops_the_run_or_is_skipped_and_recorded(
    run, image_folder, tmp_path, capsys, split
):
    parts = {part: load_images(image_folder, part) for part in ("train", "test")}
    broken = Path(parts[split].path(0))
    for part, images in parts.items():
        for index in range(len(images)):
            path = Path(images.path(index))
            target = image_folder / part / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"not an image" if path == broken else path.read_bytes())
    for name in ("ant", "bee", "cat"):
        shutil.rmtree(image_folder / name)
    words = (f"data={image_folder}", *ZOO[:2], *FAST, *SHORT)
    _, code = run(*words)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert broken.name in error
    assert "data.on_error=skip" in error
    _, code = run(*words, "data.on_error=skip")
    assert code == 0
    (record,) = records(tmp_path / "home")
    (reason,) = record["facts"]["skipped"]
    assert broken.name in reason


def test_a_class_whose_images_are_all_broken_is_named(image_folder):
    images = load_images(image_folder)
    for index in range(len(images)):
        if images.classes[int(images.labels[index])] == "cat":
            Path(images.path(index)).write_bytes(b"not an image")
    data = {**DIGITS, "name": str(image_folder), "limit": None, "test_limit": None, "on_error": "skip"}
    with pytest.raises(DataError, match="no image of the class cat can be read"):
        load_splits(data, 0, "test")


@pytest.mark.parametrize("table", ["/proc/table.csv", "/dev/null/table.csv", "results", "results/table"])
def test_a_table_that_cannot_be_written_is_refused_before_any_image_is_read(run, monkeypatch, capsys, table):
    monkeypatch.setattr("itm.groundtruth.images.load_splits", lambda *_: pytest.fail("images are read"))
    _, code = run("data=digits", f"table={table}")
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert line.startswith(f"error: table={table}: ")


def test_a_table_of_another_protocol_is_refused_before_training(run, image_folder, monkeypatch, capsys):
    words = (f"data={image_folder}", *ZOO[:2], *FAST, *SHORT, "table=mine.csv")
    assert run(*words)[1] == 0
    assert run(*words, "grid.lr=[2e-3]")[1] == 0, "another setting of the grid is comparable"
    capsys.readouterr()
    monkeypatch.setattr("itm.groundtruth.worker.load_backbone", lambda *_: pytest.fail("a model is built"))
    _, code = run(*words, "protocol.flip=false")
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert line.startswith("error: table=mine.csv: mine_cells.csv holds trials of images")


def test_a_folder_of_records_that_cannot_be_written_is_refused_before_any_image_is_read(run, monkeypatch, capsys):
    monkeypatch.setattr("itm.groundtruth.images.load_splits", lambda *_: pytest.fail("images are read"))
    for records_setting in ("/proc/records", "null"):
        _, code = run("data=digits", f"records={records_setting}")
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert code == 2
        assert line.startswith("error: records")


@pytest.mark.slow
def test_kill_9_loses_no_finished_epoch(image_folder, tmp_path):
    """The script itself, killed in the middle of a trial, ends with the numbers of a run that was left alone."""

    def start(home: str) -> subprocess.Popen:
        own = [f"data={image_folder}", "~zoo", "+zoo.b={model: test_resnet}", "image_size=32", "protocol.batch_size=8"]
        own += ["grid.lr=[1e-3]", "grid.weight_decay=[1e-2]", "protocol.epochs=40", f"hydra.run.dir={tmp_path}/out"]
        environment = {**os.environ, "ITM_HOME": str(tmp_path / home), "OMP_NUM_THREADS": "1"}
        script = [sys.executable, str(Path(__file__).parents[1] / "train_groundtruth.py"), *own]
        return subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    killed = start("killed")
    deadline = time.monotonic() + 600
    while not list((tmp_path / "killed").rglob("last.ckpt")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "killed").rglob("record.json"))
    again, whole = start("killed"), start("whole")
    said = again.communicate(timeout=900)[0]
    whole.communicate(timeout=900)
    assert (again.returncode, whole.returncode) == (0, 0)
    assert "Resuming after epoch" in said
    keys = ("epoch", "train_loss", "accuracy", "class_accuracy", "lr")
    histories = [
        [{key: epoch[key] for key in keys} for epoch in records(tmp_path / home)[0]["history"]]
        for home in ("killed", "whole")
    ]
    assert len(histories[0]) == 40
    assert histories[0] == histories[1]
