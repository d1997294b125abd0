"""What a tracked run leaves on disk, and that nobody is asked anything."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from itm.data.image_set import load_images
from itm.ranking.ranking import Entry, Ranking
from itm.report.figures import score_bars
from itm.report.report import Candidate, Report
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
    """Records of a W&B run; its own process writes on for a moment after ``finish()``, until the exit's record."""
    deadline = time.monotonic() + patience_s
    while True:
        found = list(_parsed(file.read_bytes()))
        if any(record.HasField("exit") for record in found):
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


@pytest.mark.slow
def test_an_offline_run_holds_config_curves_table_and_seconds(tmp_path, monkeypatch, image_folder):
    monkeypatch.setenv("WANDB_MODE", "offline")
    score = Score(0.4, 0.5, {"n": 3, "curve": {5: 0.2, 10: 0.4}, "losses": {5: 1.0, 10: 0.5}})
    facts = Candidate(1, 32, 8, "gap", "crop", "none", "MIT", None, 1.0, 9.0, False)
    ranking = Ranking(ITM(), (Entry("a", (score,)),))
    report = Report(load_images(image_folder), [ranking], {"a": facts}, settings={"seed": 7})
    Wandb(group="ablation_batch").log(report, tmp_path / "run")

    (file,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    group, config, history, summary = None, {}, [], {}
    for record in records(file):
        group = record.run.run_group or group
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.history.item:
            history.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
        summary |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.summary.update}
    assert group == "ablation_batch"
    assert config["seed"] == 7
    curve = [(row["itm/a/iteration"], row["itm/a/heldout"]) for row in history if "itm/a/heldout" in row]
    assert curve == [(5, 0.2), (10, 0.4)]
    assert any("ranking" in "".join(row) for row in history)
    assert summary["itm/a/score"] == 0.4
    assert summary["itm/seconds"] == 0.5
