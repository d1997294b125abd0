"""From records to tables: the best setting by hand, protocols that are not mixed, and the paper's table beside."""

from __future__ import annotations

import io
import logging
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from itm.core.errors import DataError, SettingError
from itm.groundtruth import __main__ as command
from itm.groundtruth import collect, summary, table_files
from itm.groundtruth import tables as groundtruth
from itm.groundtruth.protocol import Protocol
from itm.groundtruth.trials import Record, Trial, TrialStore

SHORT = Protocol(epochs=2, warmup_epochs=0, limit=100, name="cpu-short")
PUBLISHED = groundtruth.published()


def record(model, dataset, lr, *accuracies, weight_decay=1e-2, error=None, protocol=SHORT, **changes):
    trial = Trial(dataset, "aa", "bb", model, "net", model, "crop", "gap", lr, weight_decay, protocol=protocol)
    history = [
        {"epoch": epoch, "accuracy": value, "class_accuracy": value} for epoch, value in enumerate(accuracies, 1)
    ]
    facts = {"seconds": 2.0, "images_per_second": 10.0, "trainable": 7, "device": "cpu", "commit": None}
    return Record(replace(trial, **changes), error, history, facts)


RECORDS = [
    record("ResNet-18", "pets", 1e-5, 80.0, 90.0),
    record("ResNet-18", "pets", 2e-5, 91.5, 89.0),
    record("ResNet-18", "pets", 2e-5, 91.0, 90.0, weight_decay=1e-4),
    record("mine", "pets", 1e-5, 10.0, 20.0),
    record("mine", "pets", 2e-5, error="out of memory"),
    record("mine", "bees", 1e-5, 55.0, 54.0),
]


@pytest.fixture
def console():
    return Console(width=200, record=True)


@pytest.fixture
def folder(tmp_path):
    store = TrialStore(tmp_path / "records")
    for entry in RECORDS:
        with store.claim(entry.trial):
            store.write(entry)
    return store.root


def test_the_table_holds_each_model_s_best_trial():
    frame = summary.to_frame(RECORDS)
    table = summary.best_accuracies(frame)
    assert table.to_dict("index") == {
        "ResNet-18": {"pets": 91.5, "bees": pytest.approx(float("nan"), nan_ok=True)},
        "mine": {"pets": 20.0, "bees": 55.0},
    }
    assert frame["epoch"].tolist()[:4] == [2, 1, 1, 2]
    assert frame["last_accuracy"].tolist()[:2] == [90.0, 89.0]
    assert frame["protocol"].unique().tolist() == ["cpu-short"]
    assert summary.gaps(frame) == ["mine on pets: 1 of 3 trials"]


def test_the_setting_that_the_validation_images_choose_shows_its_test_accuracy():
    protocol = replace(SHORT, select="validation")
    chosen = [record("m", "bees", lr, accuracy, protocol=protocol) for lr, accuracy in ((1e-5, 90.0), (2e-5, 80.0))]
    for entry, validation in zip(chosen, (60.0, 70.0), strict=True):
        entry.history[0]["validation_accuracy"] = validation
    frame = summary.to_frame(chosen)
    assert summary.best_accuracies(frame).loc["m", "bees"] == 80.0
    assert summary.selection(frame) == "best epoch and setting chosen on a fifth of the training split"
    # a table from before the setting has neither column: chosen on the test split
    older = frame.drop(columns=["selection", "validation_accuracy"])
    assert summary.best_accuracies(older).loc["m", "bees"] == 90.0
    assert summary.selection(older) == "best epoch and setting chosen on the test split (optimistic)"


def test_a_setting_s_accuracy_is_the_mean_over_its_seeds():
    lucky = [record("m", "bees", 1e-5, value, seed=seed) for seed, value in enumerate((60.0, 90.0))]
    steady = [record("m", "bees", 2e-5, value, seed=seed) for seed, value in enumerate((79.0, 81.0))]
    assert summary.best_accuracies(summary.to_frame([*lucky, *steady])).loc["m", "bees"] == 80.0


def test_one_lucky_seed_does_not_beat_a_setting_that_was_repeated():
    repeated = [record("m", "bees", 1e-5, value, seed=seed) for seed, value in enumerate((82.0, 78.0, 80.0))]
    frame = summary.to_frame([*repeated, record("m", "bees", 2e-5, 81.0), record("n", "bees", 2e-5, 50.0)])
    assert summary.best_accuracies(frame)["bees"].tolist() == [80.0, 50.0]


def test_the_seed_s_noise_is_pooled_over_settings():
    one = [record("m", "bees", 1e-5, value, seed=seed) for seed, value in enumerate((82.0, 78.0, 80.0))]  # 4 + 4 of 2
    two = [record("n", "bees", 1e-5, value, seed=seed) for seed, value in enumerate((50.0, 56.0))]  # 18 of 1
    frame = summary.to_frame([*one, *two, record("n", "bees", 2e-5, 81.0), record("n", "pets", 2e-5, 81.0)])
    assert summary.noise(frame).to_dict() == {"bees": pytest.approx((26 / 3) ** 0.5)}


def test_the_range_of_the_models_stands_beside_the_seed_s_noise():
    rows = [record("m", "bees", 1e-5, value, seed=seed) for seed, value in enumerate((80.0, 82.0))]
    frame = summary.to_frame([*rows, *(record("n", "bees", 1e-5, 61.0, seed=seed) for seed in range(2))])
    said = io.StringIO()
    collect.show(summary.best_accuracies(frame), frame, Console(file=said, width=200))
    # one deviation of 2 ** 0.5 and one of 0, pooled: 1 point; from 61 to 81 points are 20 deviations
    assert "bees: 61.00 to 81.00; the seed alone moves an accuracy by 1.00 points (std)" in said.getvalue()
    assert "20 times as far apart" in said.getvalue()


def test_protocols_of_a_dataset_are_not_mixed():
    long = record("mine", "pets", 1e-5, 99.0, protocol=replace(SHORT, epochs=50, name=None))
    linear = record("mine", "pets", 1e-5, 12.0, adaptation="linear")
    frame = summary.to_frame([*RECORDS, long, linear])
    with pytest.raises(SettingError, match="several protocols") as caught:
        summary.choose(frame)
    assert f"pets: cpu-short = {RECORDS[0].trial.comparable} (full, 2 epochs" in str(caught.value)
    assert "100 training and all test images" in str(caught.value)
    assert summary.choose(frame, "50ep-100train")["accuracy"].tolist() == [99.0]
    with pytest.raises(SettingError, match="several protocols"):  # one word, two adaptations
        summary.choose(frame, "cpu-short")
    assert len(summary.choose(frame, RECORDS[0].trial.comparable)) == len(RECORDS)
    with pytest.raises(SettingError, match="--protocol papr: no record"):
        summary.choose(frame, "papr")


def test_datasets_may_have_different_protocols():
    other = record("mine", "bees", 1e-5, 33.0, protocol=replace(SHORT, limit=50))
    assert len(summary.choose(summary.to_frame([*RECORDS[:5], other]))) == 6


def test_one_name_for_two_sets_of_weights_is_refused():
    other = record("mine", "pets", 1e-5, 33.0, weights="other")
    with pytest.raises(SettingError, match="mine on pets was trained from two sets of weights"):
        summary.choose(summary.to_frame([*RECORDS, other]))


def test_tables_grow_from_run_to_run(tmp_path):
    path = tmp_path / "gt" / "cpu.csv"
    table_files.write(summary.to_frame(RECORDS[:3]), path)
    table_files.write(summary.to_frame(RECORDS[2:]), path)
    assert len(pd.read_csv(path.with_name("cpu_cells.csv"))) == len(RECORDS)
    loaded = groundtruth.load(path)
    assert loaded.loc["mine"].tolist() == [20.0, 55.0]
    assert loaded.loc["ResNet-18", "pets"] == 91.5
    with pytest.raises(SettingError, match=r"cpu_cells\.csv holds other trials of the same dataset"):
        table_files.write(summary.to_frame([record("x", "pets", 1e-5, 1.0, protocol=Protocol())]), path)
    assert groundtruth.load(path).equals(loaded)
    path.with_name("cpu_cells.csv").write_text("nonsense\n1\n")
    with pytest.raises(DataError, match="cannot be read as a table of trials"):
        table_files.write(summary.to_frame(RECORDS), path)


def test_the_paper_s_table_stands_beside_where_names_match():
    both = summary.compare(summary.best_accuracies(summary.to_frame(RECORDS)), PUBLISHED)
    paper = groundtruth.load("paper").loc["ResNet-18", "Pets"]
    assert both.to_dict("records") == [
        {"dataset": "pets", "model": "ResNet-18", "own": 91.5, "published": paper, "difference": 91.5 - paper}
    ]
    assert summary.compare(pd.DataFrame({"bees": [1.0]}, index=["x"]), PUBLISHED).empty


def test_the_end_of_a_run_writes_and_shows(tmp_path, console):
    collect.finish(RECORDS, tmp_path / "own.csv", str(tmp_path / "all.csv"), console)
    said = console.export_text()
    assert "incomplete: mine on pets: 1 of 3 trials" in said
    assert "91.50" in said
    assert "Beside the paper's table" in said
    assert groundtruth.load(tmp_path / "all.csv").equals(groundtruth.load(tmp_path / "own.csv"))


def test_an_adaptation_is_named_with_its_trials(console):
    entry = record("mine", "pets", 1e-5, 50.0, adaptation="lora")
    frame = summary.to_frame([entry])
    collect.show(summary.best_accuracies(frame), frame, console)
    assert (
        "(pets: cpu-short lora); best epoch and setting chosen on the test split (optimistic)" in console.export_text()
    )
    assert str(entry.trial) == "mine on pets, lora, lr 1e-05, weight decay 0.01"


def test_the_command_collects_folders(folder, tmp_path, capsys):
    command.main(["collect", str(folder), "--table", str(tmp_path / "gt.csv")])
    said = capsys.readouterr().out
    assert "91.50" in said
    assert f"Table: {tmp_path / 'gt.csv'}" in said
    assert groundtruth.load(tmp_path / "gt.csv").loc["mine", "pets"] == 20.0


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--protocol", "cpu-shrt"], "no record is of that protocol"), (["--tabel", "x"], "--tabel")],
)
def test_mistakes_of_the_command_are_one_line(folder, capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        command.main(["collect", str(folder), *words])
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_without_records_and_a_damaged_record(folder, tmp_path, capsys, caplog):
    with pytest.raises(SystemExit, match="2"):
        command.main(["collect", str(tmp_path / "nowhere")])
    assert "no record of a trial" in capsys.readouterr().err
    damaged = next(folder.glob("bees*")) / "record.json"
    damaged.write_text(damaged.read_text().replace("55.0", "99.0"))
    with caplog.at_level(logging.WARNING):
        command.main(["collect", str(folder)])
    assert f"{damaged} is damaged" in caplog.text
    assert "bees" not in capsys.readouterr().out
