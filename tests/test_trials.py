"""Trials on disk: identity, records that are complete or absent, and claims."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from itm.core.errors import SettingError, StoreError
from itm.groundtruth.grid import Grid, best_records
from itm.groundtruth.protocol import Protocol
from itm.groundtruth.trials import Record, Trial, TrialStore

TRIAL = Trial("my bees/ä", "aa", "bb", "ViT:B", "vit", "cc", "resize 33, crop 32", "cls", 1e-5, 1e-2)
PROTOCOLS = [
    {"epochs": 20},
    {"batch_size": 8},
    {"schedule": "constant"},
    {"warmup_epochs": 1},
    {"limit": 9},
    {"test_limit": 9},
    {"precision": "16"},
    {"image_size": 64},
    {"crop_scale": (0.5, 1.0)},
]
EPOCHS = [{"epoch": 1, "accuracy": 70.0}, {"epoch": 2, "accuracy": 75.0}, {"epoch": 3, "accuracy": 75.0}]


@pytest.fixture
def store(tmp_path):
    return TrialStore(tmp_path / "records")


def claim_and(store, then):
    """Claim the trial in a second process, report it, and hold it until the process is killed."""
    with store.claim(TRIAL) as mine:
        then.send(mine)
        signal.pause()


@pytest.mark.parametrize(
    "other",
    [
        *(replace(TRIAL, **{key: "x"}) for key in ("dataset", "train", "test", "model", "architecture", "weights")),
        *(replace(TRIAL, **change) for change in ({"lr": 2e-5}, {"weight_decay": 0.0}, {"seed": 1})),
        *(replace(TRIAL, **change) for change in ({"adaptation": "linear"}, {"transform": "x"}, {"pooling": "mean"})),
        *(replace(TRIAL, protocol=Protocol(**change)) for change in PROTOCOLS),
    ],
)
def test_each_setting_that_decides_the_accuracy_makes_another_trial(other):
    assert other.digest != TRIAL.digest
    assert other.folder != TRIAL.folder


def test_the_name_of_a_protocol_is_not_part_of_the_identity():
    named = replace(TRIAL, protocol=Protocol(name="paper"))
    assert (named.digest, named.folder) == (TRIAL.digest, TRIAL.folder)
    assert named.protocol.label == "paper"
    assert TRIAL.protocol.label == "100ep"
    assert Protocol(epochs=20, warmup_epochs=1, image_size=64, limit=500).label == "20ep-64px-500train"


def test_trials_are_comparable_across_models_and_settings_only():
    assert replace(TRIAL, model="x", weights="y", transform="z", lr=1.0, seed=3).comparable == TRIAL.comparable
    for change in ({"train": "x"}, {"test": "x"}, {"adaptation": "linear"}, {"protocol": Protocol(epochs=50)}):
        assert replace(TRIAL, **change).comparable != TRIAL.comparable


def test_the_images_that_choose_are_part_of_the_identity_and_older_digests_stay_valid():
    chosen = replace(TRIAL, protocol=Protocol(select="validation"))
    assert chosen.digest != TRIAL.digest
    assert chosen.comparable != TRIAL.comparable
    assert "select" not in Protocol().identity()
    assert TRIAL.digest == "327d63f7c3b549e94e38c11fc8afb833939844519535978c6d74bbb8f0af5408"


HISTORY = [
    {"epoch": 1, "validation_accuracy": 60.0, "accuracy": 50.0},
    {"epoch": 2, "validation_accuracy": 70.0, "accuracy": 55.0},
    {"epoch": 3, "validation_accuracy": 70.0, "accuracy": 58.0},
    {"epoch": 4, "validation_accuracy": 65.0, "accuracy": 61.0},
]


@pytest.mark.parametrize(("select", "epoch", "accuracy"), [("test", 4, 61.0), ("validation", 2, 55.0)])
def test_the_best_epoch_is_chosen_on_the_images_of_the_setting_and_its_test_accuracy_is_recorded(
    select, epoch, accuracy
):
    record = Record(replace(TRIAL, protocol=Protocol(select=select)), None, HISTORY)
    content = record.to_json()
    assert (content["epoch"], content["accuracy"]) == (epoch, accuracy)
    assert Trial.from_dict(json.loads(json.dumps(content["cell"]))) == record.trial


@pytest.mark.parametrize(("select", "lr"), [("test", 1e-5), ("validation", 2e-5)])
def test_further_seeds_are_for_the_setting_that_the_chosen_images_prefer(select, lr):
    protocol = Protocol(select=select)
    grid = Grid([1e-5, 2e-5], [1e-2], best_seeds=[0, 1, 2], protocol=protocol)
    rows = {
        1e-5: {"validation_accuracy": 60.0, "accuracy": 90.0},
        2e-5: {"validation_accuracy": 70.0, "accuracy": 80.0},
    }
    trials = [replace(TRIAL, lr=lr, protocol=protocol) for lr in rows]
    records = [Record(trial, None, [{"epoch": 1, **rows[trial.lr]}]) for trial in trials]
    assert [(trial.lr, trial.seed) for trial in grid.repeats(records)] == [(lr, 1), (lr, 2)]


@pytest.mark.parametrize("folder", ["miniature", "groundtruth"])
def test_every_committed_record_counts_as_finished(folder):
    store = TrialStore(Path(__file__).parents[1] / "experiments" / folder / "records")
    records = store.read_all()
    assert len(records) == len(list(store.root.glob("*/record.json"))) > 0
    for record in records:
        assert record.error is None
        assert store.read(record.trial) == record, "the digest names the record's own folder"


def test_a_lucky_seed_of_another_setting_is_not_the_best_trial():
    repeated = [Record(replace(TRIAL, seed=seed), None, [{"epoch": 1, "accuracy": 80.0 - seed}]) for seed in range(3)]
    lucky = Record(replace(TRIAL, lr=1.0), None, [{"epoch": 1, "accuracy": 79.5}])
    assert best_records([*repeated, lucky]) == [repeated[0]]


def test_the_folder_s_name_is_one_everywhere():
    assert TRIAL.folder.startswith("my_bees_-ViT_B-lr1e-05-wd0.01-seed0-full-")
    assert "/" not in TRIAL.folder


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "protocol.epochs=0: expected a number of at least 1"),
        ({"epochs": 2.5}, "protocol.epochs=2.5"),
        ({"epochs": True}, "protocol.epochs=True"),
        ({"epochs": 5}, "protocol.warmup_epochs=5.0: expected 0 or more, less than protocol.epochs=5"),
        ({"batch_size": "x"}, "protocol.batch_size=x"),
        ({"schedule": "cosin"}, "protocol.schedule=cosin: not known. Did you mean 'cosine'"),
        ({"label_smoothing": 1.0}, "protocol.label_smoothing=1.0"),
        ({"crop_scale": [0.5]}, "protocol.crop_scale="),
        ({"crop_scale": [0.9, 0.5]}, "protocol.crop_scale="),
        ({"crop_scale": ["a", 1]}, "protocol.crop_scale="),
        ({"flip": "yes"}, "protocol.flip=yes"),
        ({"rank": 0}, "protocol.rank=0"),
    ],
)
def test_bad_protocols_are_named(settings, words):
    with pytest.raises(SettingError) as caught:
        Protocol(**settings)
    assert words in str(caught.value)


def test_records_come_back_as_written(store):
    record = Record(TRIAL, None, EPOCHS, {"seconds": 1.5, "device": "cpu"})
    with store.claim(TRIAL):
        store.write(record)
    assert store.read(TRIAL) == record
    assert store.read_all() == [record]
    assert store.read(replace(TRIAL, seed=1)) is None
    content = json.loads((store.folder(TRIAL) / "record.json").read_text("utf-8"))
    assert (content["status"], content["accuracy"], content["epoch"]) == ("finished", 75.0, 2)
    assert sorted(path.name for path in store.folder(TRIAL).iterdir()) == [".lock", "record.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("75.0", "95.0"),
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"sha256": "', '"sha256": "0'),
    ],
    ids=["cut", "altered", "empty", "list", "object", "digest"],
)
def test_a_damaged_record_counts_as_absent_and_is_named(store, damage, caplog):
    with store.claim(TRIAL):
        store.write(Record(TRIAL, None, EPOCHS))
    path = store.folder(TRIAL) / "record.json"
    path.write_text(damage(path.read_text("utf-8")), "utf-8")
    assert store.read(TRIAL) is None
    assert store.read_all() == []
    assert str(path) in caplog.text
    assert caplog.text.count("is damaged") == 1, "logged once, though read twice"


def test_a_claim_is_one_worker_s(store):
    with store.claim(TRIAL) as first:
        with store.claim(TRIAL) as second, store.claim(replace(TRIAL, seed=1)) as other:
            assert (first, second, other) == (True, False, True)
        with store.claim(TRIAL) as third:  # the end of a refused claim frees nothing
            assert not third
    with store.claim(TRIAL) as again:
        assert again


def test_a_killed_worker_s_claim_is_free_at_once(store):
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    worker = context.Process(target=claim_and, args=(store, there))
    worker.start()
    try:
        assert here.poll(20)
        assert here.recv()
        with store.claim(TRIAL) as mine:
            assert not mine
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    with store.claim(TRIAL) as mine:
        assert mine


def test_a_folder_that_cannot_be_written_names_the_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="records: cannot write"), TrialStore(tmp_path / "file").claim(TRIAL):
        pass
