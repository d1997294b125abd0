"""Whatever is mistyped ends in one line that names it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from itm.cli import command, estimate
from itm.cli.overrides import data_override, data_overrides

TINY = ("~zoo", "+zoo.a.model=resnet10t", "+zoo.a.image_size=32")


def run(*overrides: str) -> None:
    sys.argv[:] = ["estimate.py", *overrides]
    estimate.main()


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ITM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", [])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data=digitz", ["data=digitz", "'digits'"]),
        ("data=./nowhere", ["data=./nowhere", "no such folder"]),
        ("data=", ["data=", "Allowed"]),
        ("zoo=demmo", ["zoo=demmo", "'demo'"]),
        ("scorer=itn", ["scorer=itn", "'itm'"]),
        ("scorer=[itm,logmee]", ["scorer=logmee", "'logme'"]),
        ("scorer=[]", ["scorer", "nothing is chosen"]),
        ("trainer=cpuu", ["trainer=cpuu", "'cpu'"]),
        ("tracking=wandbb", ["tracking=wandbb", "'wandb'"]),
        ("+experiment=ablation_bach", ["experiment=ablation_bach", "'ablation_batch'"]),
        ("experiment=ablation_batch", ["experiment=ablation_batch", "+experiment=ablation_batch"]),
        ("dta=digits", ["dta", "'data'"]),
        ("hydra.mod=x", ["hydra.mod", "'hydra.mode'", "write +hydra.mod="]),
        ("scorer.itm.etaa=1", ["scorer.itm.etaa", "'scorer.itm.eta'"]),
        ("data.limt=1", ["data.limt", "'data.limit'"]),
        ("seed=abc", ["seed=abc", "whole number"]),
        ("seed=-1", ["seed=-1", "at least 0"]),
        ("seeds=x", ["seeds=x", "whole number"]),
        ("seeds=0", ["seeds=0", "at least 1"]),
        ("data.limit=abc", ["data.limit=abc", "whole number"]),
        ("data.on_error=skp", ["data.on_error=skp", "'skip'"]),
        ("trainer.batch_size=abc", ["trainer.batch_size=abc", "whole number"]),
        ("trainer.workers=x", ["trainer.workers=x", "whole number"]),
        ("trainer.precision=8", ["trainer.precision=8", "16, 32, bf16"]),
        ("trainer.accelerator=gpu", ["trainer.accelerator=gpu", "cpu, cuda"]),
        ("scorer.itm.eta=abc", ["scorer.itm.eta=abc", "number"]),
        ("scorer.itm.loss=msee", ["scorer.itm.loss=msee", "'mse'"]),
        ("scorer.itm.eta=[1,", ["scorer.itm.eta=[1,"]),
        ("seed", ["seed", "EQUAL"]),
    ],
)
def test_mistakes_end_in_one_line(override, words, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*(() if override.startswith("zoo=") else TINY), override)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_stopping_by_hand_says_what_is_kept(monkeypatch, capsys):
    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["estimate.py"])
    with pytest.raises(SystemExit) as stop:
        command.run(stopped, "estimate")
    assert stop.value.code == 130
    assert "same command continues" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback():
    def broken():
        raise RuntimeError("a defect")

    sys.argv[:] = ["estimate.py"]
    with pytest.raises(RuntimeError, match="a defect"):
        command.run(broken, "estimate")


@pytest.mark.parametrize(
    ("typed", "override"),
    [
        ("data=digits", "data.name=digits"),
        ("data=digits,pets", "data.name=digits,pets"),
        ("data=2024", "data.name='2024'"),
        ("data=my bees & 'ants'", "data.name='my bees & \\'ants\\''"),
        ("data.limit=5", "data.limit=5"),
        ("seed=1", "seed=1"),
    ],
)
def test_folders_are_quoted_for_hydra(typed, override):
    assert data_override(typed) == override


def test_a_misspelt_setting_beside_one_s_own_configs(tmp_path, capsys):
    (tmp_path / "own" / "zoo").mkdir(parents=True)
    (tmp_path / "own" / "zoo" / "mine.yaml").write_text("a: {model: resnet10t}", encoding="utf-8")
    for flag in (["--config-dir", "own"], ["--config-dir=own"], ["-cd", "own"]):
        with pytest.raises(SystemExit) as stop:
            run(*flag, "zoo=mine", "data.limt=1")
        assert stop.value.code == 2
        assert "Did you mean 'data.limit'?" in capsys.readouterr().err


def test_a_chosen_limit_holds_where_the_entry_config_takes_no_sample():
    words = ["+truth=miniature_cpu", "data=digits"]
    assert data_overrides(words, sampled=False) == ["+truth=miniature_cpu", "data.name=digits"]
    assert data_overrides(words, sampled=True) == ["+truth=miniature_cpu", "data.limit=null", "data.name=digits"]


@pytest.mark.parametrize(
    ("experiment", "whole"),
    [
        ([], True),
        (["+experiment=ablation_batch"], True),
        (["+experiment=miniature"], False),
        (["--config-dir", "own", "+experiment=unlimited"], False),
        (["--config-dir", "own", "+experiment=silent"], True),
    ],
)
def test_the_limit_of_an_experiment_holds_for_other_data(tmp_path, monkeypatch, experiment, whole):
    monkeypatch.chdir(tmp_path)
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/unlimited.yaml").write_text("data: {limit: null}", encoding="utf-8")
    Path("own/experiment/silent.yaml").write_text("data: {on_error: skip}", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["estimate.py", *experiment, "data=digits"])
    command.run(lambda: None, "estimate", sampled=True)
    assert sys.argv[1:] == [*experiment, *["data.limit=null"] * whole, "data.name=digits"]
