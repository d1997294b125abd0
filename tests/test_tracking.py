"""The files of a tracked run, live curves, and runs that fail; without a prompt."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from breaking import break_in
from PIL import Image
from rankings import recommended
from synthetic import striped
from wandb.proto import wandb_internal_pb2

from itm.data.image_set import ImageSet, load_images
from itm.extraction.candidate import Candidate
from itm.groundtruth.grid import Grid
from itm.groundtruth.images import ImageSplits
from itm.groundtruth.protocol import Protocol
from itm.groundtruth.trials import TrialStore
from itm.groundtruth.worker import Worker
from itm.ranking.ranking import Entry, Ranking
from itm.report.figures import score_bars
from itm.report.report import Report
from itm.scorers import ITM
from itm.scorers.base import Score
from itm.tracking import Wandb, _image


@pytest.mark.parametrize(
    ("key", "variable", "given", "mode"),
    [
        (None, None, None, "offline"),
        ("k", None, None, None),
        (None, "offline", None, None),
        (None, None, "online", "online"),
    ],
)
def test_mode_follows_the_setting_the_variable_and_the_login(monkeypatch, key, variable, given, mode):
    monkeypatch.setattr(wandb, "api", type("Api", (), {"api_key": key})())
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    assert Wandb(mode=given)._mode() == mode


def test_a_figure_is_logged_without_pyplot(monkeypatch):
    monkeypatch.delattr("matplotlib.pyplot", raising=False)
    ranking = Ranking(ITM(), (Entry("a", (Score(0.4),)), Entry("b", (Score(0.2),))))
    figure = score_bars(ranking)
    image = _image(figure)
    width, height = figure.get_size_inches() * figure.dpi
    assert image.image.size == pytest.approx((width, height), abs=1)


def records(file: Path, patience_s: float = 60.0) -> list[wandb_internal_pb2.Record]:
    """Records of a W&B run; its own process writes on for a moment after ``finish()``, until the exit's record.

    With a patience of 0 the exit's record may be missing, as in the file of a killed run.
    """
    deadline = time.monotonic() + patience_s
    while True:
        found = list(_parsed(file.read_bytes()))
        if any(record.HasField("exit") for record in found):
            return found
        if patience_s == 0:  # its process was killed
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{file} has {len(found)} records and no exit after {patience_s:g} s")
        time.sleep(0.1)


def _parsed(content: bytes) -> Iterator[wandb_internal_pb2.Record]:
    """Records of W&B's format: 7 bytes, then LevelDB's log of 32 KiB blocks; crc, length and type precede each part."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        if place + 7 + length > len(content):  # still being written
            return
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


@dataclass
class OfflineRun:
    """The content of one run's file."""

    started: int = 0  # nanoseconds
    name: str = ""
    group: str = ""
    tags: set[str] = field(default_factory=set)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0
    ended: bool = False


def read_runs(folder: Path) -> list[OfflineRun]:
    """Read every run below a folder, oldest first."""
    return sorted(map(read_run, _files(folder)), key=lambda run: run.started)


def _files(folder: Path) -> list[Path]:
    return list(folder.glob("wandb/offline-run-*/*.wandb"))


def _settings(file: Path) -> dict[str, Any]:
    return read_run(file, patience_s=0).config


def read_run(file: Path, patience_s: float = 60.0) -> OfflineRun:
    found = OfflineRun()
    for record in records(file, patience_s):
        found.started = record.run.start_time.ToNanoseconds() or found.started
        found.group = record.run.run_group or found.group
        found.name = record.run.display_name or found.name
        found.tags |= set(record.run.tags)
        found.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.history.item:
            row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            found.history.append(row)
        found.summary |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.summary.update}
        if record.HasField("exit"):
            found.exit_code, found.ended = record.exit.exit_code, True
    return found


SETTINGS = {"seed": 7, "data": {"name": "/photos/bees"}, "scorer": {"itm": {}}}


@pytest.mark.slow
def test_a_run_holds_config_tags_table_seconds_and_the_curve_of_every_seed(tmp_path, monkeypatch, image_folder):
    monkeypatch.setenv("WANDB_MODE", "offline")
    runs = tuple(
        Score(0.4, 0.5, {"n": 3, "curve": {5: 0.2 + seed, 10: 0.4 + seed}, "losses": {5: 1.0, 10: 0.5}})
        for seed in range(2)
    )
    facts = Candidate(1, 32, 8, "gap", "crop", "none", "MIT", None, 1.0, 9.0, False)
    ranking = Ranking(ITM(), (Entry("a", runs), Entry("b", runs[:1])))
    report = Report(
        load_images(image_folder), [ranking], recommended(ranking), {"a": facts, "b": facts}, settings=SETTINGS
    )
    with Wandb(group="ablation_batch", tags=["mine"]).track_estimate(SETTINGS, tmp_path / "run") as run:
        assert list(tmp_path.glob("run/wandb/offline-run-*/*.wandb")), "the run exists before the work"
        run.log(report)
    (found,) = read_runs(tmp_path / "run")
    assert (found.name, found.group, found.tags) == ("bees: itm", "ablation_batch", {"mine", "bees", "itm"})
    assert found.config["seed"] == 7
    for name, offset in (("itm/a/seed0", 0), ("itm/a/seed1", 1), ("itm/b", 0)):
        curve = [(r[f"{name}/iteration"], r[f"{name}/heldout"]) for r in found.history if f"{name}/heldout" in r]
        assert curve == [(5, 0.2 + offset), (10, 0.4 + offset)]
    assert any("ranking" in "".join(row) for row in found.history)
    assert found.summary["itm/a/score"] == 0.4
    assert found.summary["itm/seconds"] == 1.5
    assert found.exit_code == 0


def test_an_estimate_that_fails_leaves_a_failed_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(RuntimeError, match="broken"), Wandb().track_estimate(SETTINGS, tmp_path):
        raise RuntimeError("broken")
    (found,) = read_runs(tmp_path)
    assert found.exit_code == 1


@pytest.mark.slow
def test_kill_9_leaves_the_run_s_settings_and_the_next_estimate_takes_the_features_from_the_store(tmp_path):
    out = tmp_path / "out"
    words = ["data=digits", "data.limit=60", "~zoo", "+zoo.a={model: test_resnet}", "seeds=1", "tracking=wandb"]
    words.append("scorer=[itm]")
    script = [sys.executable, str(Path(__file__).parents[1] / "estimate.py"), *words, f"hydra.run.dir={out}"]
    environment = {**os.environ, "ITM_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    log = tmp_path / "log"
    with log.open("w") as output:
        endless = [*script, "scorer.itm.iterations=100000000"]
        killed = subprocess.Popen(endless, env=environment, stdout=output, stderr=subprocess.STDOUT)
        # W&B writes the settings a few seconds after the start
        while "Scoring 1 model" not in log.read_text("utf-8") or not any(map(_settings, _files(out))):
            assert killed.poll() is None, log.read_text("utf-8")
            time.sleep(0.5)
        killed.kill()
        killed.wait()
    (file,) = _files(out)
    left = read_run(file, patience_s=0)
    assert (left.name, left.config["scorer"]["itm"]["iterations"], left.ended) == ("digits: itm", 100_000_000, False)
    again = [*script, "scorer.itm.iterations=2"]
    done = subprocess.run(again, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "images of digits extracted" in log.read_text("utf-8")
    assert "extracted" not in done.stdout + done.stderr, "the features come from the store"
    (finished,) = (read_run(other) for other in _files(out) if other != file)
    assert (finished.ended, finished.exit_code) == (True, 0)
    assert "itm/a/score" in finished.summary


FORKED_IMPORT = """
import sys
from pathlib import Path
from itm.core.parallel import map_forked
from itm.tracking import Wandb

def load(index):
    import sklearn.cluster
    return index

with Wandb(mode="offline").track_estimate({"data": {"name": "x"}, "scorer": {}}, Path(sys.argv[1])):
    assert "sklearn" not in sys.modules, "W&B reports only libraries that are imported after its start"
    print(map_forked(load, [0, 1], 2))
"""


@pytest.mark.slow
def test_forked_processes_import_libraries_while_a_run_is_tracked(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED_IMPORT, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == "[0, 1]", done.stderr


def _images(count: int, split: str) -> ImageSet:
    labels = torch.arange(count) % 2
    pixels = np.random.default_rng(0).integers(0, 255, (count, 20, 20, 3)).astype(np.uint8)
    return ImageSet("noise", split, ("dark", "bright"), labels, pixels)


def _epochs(run: OfflineRun) -> list[tuple[float, float]]:
    return [(row["epoch"], row["accuracy"]) for row in run.history if "accuracy" in row]


def test_a_trial_logs_every_epoch_while_it_trains_also_where_it_is_killed_and_resumed(
    tmp_path, monkeypatch, one_thread
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    images = ImageSplits(_images(16, "train"), _images(8, "test"))
    grid = Grid([1e-3], [1e-2], protocol=Protocol(epochs=3, batch_size=8, warmup_epochs=0))
    zoo = {"a": {"model": "test_vit", "image_size": 32}}
    tracker = Wandb().for_trials(tmp_path / "out")
    worker = Worker(zoo, images, TrialStore(tmp_path / "records"), tracker=tracker)
    with monkeypatch.context() as patch:
        break_in(patch, KeyboardInterrupt(), lambda module, _: module.current_epoch == 2)
        with pytest.raises(KeyboardInterrupt):
            worker.run(grid)
    (record,), _ = worker.run(grid)
    expected = [(epoch["epoch"], epoch["accuracy"]) for epoch in record.history]
    killed, finished = read_runs(tmp_path / "out")
    assert (_epochs(killed), killed.exit_code) == (expected[:2], 1)
    assert (_epochs(finished), finished.exit_code) == (expected, 0)
    assert finished.group == "noise/a"
    assert finished.name == str(record.trial)
    assert finished.tags == {"noise", "a", "full", "3ep"}
    assert finished.config["lr"] == 1e-3
    assert finished.summary["best_accuracy"] == record.best["accuracy"]
    assert finished.summary["selection"].endswith("chosen on the test split (optimistic)")


def test_a_trial_with_masks_logs_test_images_with_true_and_predicted_masks(tmp_path, monkeypatch, one_thread):
    monkeypatch.setenv("WANDB_MODE", "offline")
    test = dataclasses.replace(striped(6, side=30, seed=1), split="test")
    grid = Grid([1e-3], [1e-2], protocol=Protocol(epochs=2, batch_size=4, warmup_epochs=0))
    zoo = {"a": {"model": "test_resnet", "image_size": 32}}
    tracker = Wandb().for_trials(tmp_path / "out")
    worker = Worker(zoo, ImageSplits(striped(8), test), TrialStore(tmp_path / "records"), tracker=tracker)
    (record,), failed = worker.run(grid)
    assert failed == []
    (run,) = read_runs(tmp_path / "out")
    (logged,) = [row for row in run.history if "examples/count" in row]
    masks = logged["examples/all_masks"]
    assert logged["examples/count"] == len(masks) == 4
    assert all(set(both) == {"true", "predicted"} for both in masks)
    folder = next((tmp_path / "out").glob("wandb/offline-run-*/files"))
    stored = np.asarray(Image.open(folder / masks[2]["true"]["path"]))
    assert np.array_equal(stored, test.mask(2))
    predicted = np.asarray(Image.open(folder / masks[2]["predicted"]["path"]))
    assert predicted.shape == (30, 30)
    assert set(np.unique(predicted)) <= {0, 1}
    accuracies = [row["accuracy"] for row in run.history if "accuracy" in row]
    assert accuracies == pytest.approx([epoch["accuracy"] for epoch in record.history], rel=1e-6)
