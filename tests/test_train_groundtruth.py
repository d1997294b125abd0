"""train_groundtruth.py from a folder of images to tables: skipped, resumed, shared and failing cells."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from itm.cli import train_groundtruth
from itm.core.errors import SettingError
from itm.data.image_set import load_images
from itm.groundtruth import tables as groundtruth
from itm.groundtruth.grid import Grid, Walk, load_both
from itm.groundtruth.module import FineTuneModule
from itm.groundtruth.protocol import Protocol
from itm.groundtruth.train import train_cell
from itm.groundtruth.trials import Cells

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
    """Names of the cells that are trained from now on."""
    names: list[str] = []

    def note(cell, *others):
        names.append(str(cell))
        return train_cell(cell, *others)

    monkeypatch.setattr("itm.groundtruth.grid.train_cell", note)
    return names


def test_a_grid_ends_in_tables_and_is_not_trained_twice(run, image_folder, tmp_path, monkeypatch, capsys):
    words = (f"data={image_folder}", *ZOO, *FAST, *SHORT, "table=gt/cpu.csv")
    out, code = run(*words)
    assert code == 0
    assert groundtruth.load(out / "groundtruth.csv").shape == (2, 1)
    assert groundtruth.load("gt/cpu.csv").columns.tolist() == ["images"]
    assert Path("gt/cpu_cells.csv").is_file()
    assert (out / "config.yaml").is_file()
    cells = records(tmp_path / "home")
    assert len(cells) == 2
    for cell in cells:
        assert cell["status"] == "finished"
        assert len(cell["history"]) == 2
        assert cell["accuracy"] == max(epoch["accuracy"] for epoch in cell["history"])
        assert {"seconds", "images_per_second", "peak_memory", "versions", "commit", "device", "trainable"} <= set(
            cell["facts"]
        )
        assert cell["cell"]["protocol"]["epochs"] == 2
    assert not list((tmp_path / "home").rglob("last.ckpt"))
    assert "Accuracy after fine-tuning" in capsys.readouterr().out

    names = trained(monkeypatch)
    damaged = next((tmp_path / "home").rglob("record.json"))
    damaged.write_text(damaged.read_text("utf-8")[:-50], "utf-8")
    _, code = run(*words, out="again")
    assert (code, len(names)) == (0, 1)
    assert [cell["history"][1]["accuracy"] for cell in records(tmp_path / "home")] == [
        cell["history"][1]["accuracy"] for cell in cells
    ]


def test_the_best_setting_of_each_model_is_repeated_with_other_seeds(run, image_folder, tmp_path, capsys):
    words = (f"data={image_folder}", *ZOO, *FAST, *SHORT, "grid.lr=[1e-5,1e-2]", "grid.best_seeds=[0,1,2]")
    _, code = run(*words)
    assert code == 0
    found = records(tmp_path / "home")
    for model in ("a", "b"):
        first = [c for c in found if c["cell"]["model"] == model and c["cell"]["seed"] == 0]
        assert len(first) == 2
        best = max(first, key=lambda cell: (cell["accuracy"], -cell["cell"]["lr"]))
        repeats = [c["cell"] for c in found if c["cell"]["model"] == model and c["cell"]["seed"] > 0]
        assert sorted(cell["seed"] for cell in repeats) == [1, 2]
        assert {cell["lr"] for cell in repeats} == {best["cell"]["lr"]}
    assert "the seed alone moves an accuracy by" in capsys.readouterr().out


def test_each_cell_is_a_tracked_run_of_its_dataset_and_model(run, image_folder, monkeypatch):
    started = []
    monkeypatch.setattr("wandb.init", lambda **settings: started.append((settings, MagicMock())) or started[-1][1])
    _, code = run(f"data={image_folder}", *ZOO, *FAST, *SHORT, "tracking=wandb")
    assert code == 0
    assert [settings["group"] for settings, _ in started] == ["images/a", "images/b"]
    for settings, wandb_run in started:
        assert settings["config"]["lr"] == 1e-3
        assert [call.kwargs["step"] for call in wandb_run.log.call_args_list] == [1, 2]
        assert wandb_run.log.call_args_list[0].args[0]["accuracy"] >= 0
        wandb_run.finish.assert_called_once_with(exit_code=0)


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
    told = str(code)
    assert "2 failed" in told
    assert "c: zoo.c.checkpoint=gone.pt" in told
    assert told.count("b on images") == 1
    assert "RuntimeError: cuDNN error" in told
    assert [cell["status"] for cell in records(tmp_path / "home")] == ["finished", "failed"]
    assert groundtruth.load(out / "groundtruth.csv").loc["a"].notna().all()

    names = trained(monkeypatch)
    _, code = run(f"data={image_folder}", *ZOO, *FAST, *SHORT)
    assert code == 0
    assert len(names) == 1
    assert {cell["status"] for cell in records(tmp_path / "home")} == {"finished"}


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
        ("grid.lr=[a]", ["grid.lr=a", "above 0"]),
        ("grid.lr=[0]", ["grid.lr=0", "above 0"]),
        ("grid.weight_decay=[-1]", ["grid.weight_decay=-1"]),
        ("grid.seeds=[1.5]", ["grid.seeds=1.5", "whole number"]),
        ("adaptation=ful", ["adaptation=ful", "'full'"]),
        ("protocol.epoch=3", ["protocol.epoch", "'protocol.epochs'"]),
        ("+protocol.epoch=3", ["protocol.epoch", "'protocol.epochs'"]),
        ("protocol.epochs=3", ["protocol.warmup_epochs=5", "protocol.epochs=3"]),
        ("protocol.rank=0", ["protocol.rank=0", "at least 1"]),
        ("protocol.prompts=x", ["protocol.prompts=x", "at least 1"]),
        ("protocol.schedule=cosin", ["protocol.schedule=cosin", "'cosine'"]),
        ("image_size=0", ["image_size=0", "at least 1"]),
        ("data.test_limit=x", ["data.test_limit=x", "whole number"]),
        ("data.test_limit=3", ["data.test_limit=3", "10 classes"]),
        ("trainer.precision=16", ["trainer.precision=16", "GPU"]),
        ("trainer.batch_size=0", ["trainer.batch_size=0"]),
        ("compile=maybe", ["compile=maybe"]),
        ("~zoo", ["zoo", "nothing is chosen"]),
    ],
)
def test_mistakes_end_in_one_line(run, override, words, capsys):
    _, code = run("data=digits", override)
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_a_missing_package_is_told_before_any_cell(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "peft", None)
    _, code = run("data=digits", "adaptation=lora")
    assert code == 2
    assert "uv sync --extra peft" in capsys.readouterr().err


@pytest.fixture
def grid():
    return Grid([1e-3], [1e-2, 1e-4], protocol=Protocol(epochs=1, batch_size=8, warmup_epochs=0))


@pytest.fixture
def walk(image_folder, tmp_path, one_thread):
    zoo = {"a": {"model": "test_vit", "image_size": 32}}
    images = (load_images(image_folder, split) for split in ("train", "test"))
    return Walk(zoo, *images, Cells(tmp_path / "records"), patience=0.05)


def test_cells_that_another_worker_holds_are_come_back_to(walk, grid, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    first = grid.cells(walk._backbone("a"), walk.train, walk.test)[0]
    claimed = walk.cells.claim(first)
    claimed.__enter__()
    waits = []

    def wait(seconds):  # the other worker is killed meanwhile
        waits.append(len(list(walk.cells.root.rglob("record.json"))))
        claimed.__exit__(None, None, None)

    monkeypatch.setattr("itm.groundtruth.grid.time.sleep", wait)
    records, failed = walk.run(grid)
    assert (len(records), failed) == (2, [])
    assert waits == [1], "the free cell comes first, then one wait"
    assert "1 cells are left, which other workers hold" in caplog.text


def test_a_failure_is_tried_again_by_one_worker_only(walk, grid, monkeypatch):
    def fail(*_):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(FineTuneModule, "training_step", fail)
        _, failed = walk.run(grid)
        assert len(failed) == 2
        names = trained(patch)
        second = Walk(walk.zoo, walk.train, walk.test, walk.cells)
        second._old = {record.cell.digest: record for record in walk.cells.read_all()}
        walk.run(grid)
        assert len(names) == 2
        for cell in grid.cells(walk._backbone("a"), walk.train, walk.test):
            assert second._settle(cell), "failed since the second worker began"
        assert len(names) == 2


def test_tracking_that_fails_costs_no_cell(walk, grid, caplog):
    def offline(record):
        raise OSError("no network")

    walk.recorded = offline
    records, failed = walk.run(grid)
    assert (len(records), failed) == (2, [])
    assert "recorded, but not tracked: no network" in caplog.text


def test_a_sample_of_the_test_split_is_named_by_its_own_setting():
    train, test = load_both({"name": "digits", "root": None, "limit": 50, "test_limit": 30}, seed=0)
    assert (len(train), len(test)) == (50, 30)
    with pytest.raises(SettingError, match=r"data\.test_limit=3:"):
        load_both({"name": "digits", "root": None, "limit": 50, "test_limit": 3}, seed=0)


@pytest.mark.slow
def test_kill_9_loses_no_finished_epoch(image_folder, tmp_path):
    """The script itself, killed in the middle of a cell, ends with the numbers of a run that was left alone."""

    def start(home: str) -> subprocess.Popen:
        own = [f"data={image_folder}", "~zoo", "+zoo.b={model: test_resnet}", "image_size=32", "protocol.batch_size=8"]
        own += ["grid.lr=[1e-3]", "grid.weight_decay=[1e-2]", "protocol.epochs=40", f"hydra.run.dir={tmp_path}/out"]
        environment = {**os.environ, "ITM_HOME": str(tmp_path / home), "OMP_NUM_THREADS": "1"}
        script = [sys.executable, str(Path(__file__).parents[1] / "train_groundtruth.py"), *own]
        return subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    killed = start("killed")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").rglob("last.ckpt")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "killed").rglob("record.json"))
    again, whole = start("killed"), start("whole")
    said = again.communicate(timeout=240)[0]
    whole.communicate(timeout=240)
    assert (again.returncode, whole.returncode) == (0, 0)
    assert "Going on after epoch" in said
    keys = ("epoch", "train_loss", "accuracy", "class_accuracy", "lr")
    histories = [
        [{key: epoch[key] for key in keys} for epoch in records(tmp_path / home)[0]["history"]]
        for home in ("killed", "whole")
    ]
    assert len(histories[0]) == 40
    assert histories[0] == histories[1]
