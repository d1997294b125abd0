"""Whatever is mistyped ends in one line that names it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from itm.cli import command, estimate
from itm.cli.overrides import data_override, data_overrides, quote_if_needed
from itm.cli.targets import check_targets
from itm.core.errors import SettingError

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
        ("trainer.precision=8", ["trainer.precision=8", "16, 32, auto, bf16"]),
        ("trainer.accelerator=gpu", ["trainer.accelerator=gpu", "cpu, cuda"]),
        ("scorer.itm.eta=abc", ["scorer.itm.eta=abc", "number"]),
        ("scorer.itm.loss=msee", ["scorer.itm.loss=msee", "'mse'"]),
        ("scorer.itm.eta=[1,", ["scorer.itm.eta=[1,"]),
        ("seed", ["seed", "EQUAL"]),
        ("seed=1e3", ["seed=1000.0", "whole number"]),
        ("seed=99999999999999999999999", ["seed=9999", "at most"]),
        ("seeds=99999999999999999999999", ["seeds=9999", "at most"]),
        ("trainer.batch_size=99999999999999999999999", ["trainer.batch_size=9999", "at most"]),
        ("store=null", ["store=None", "text"]),
        ("store=''", ["store=", "at least 1 character"]),
        ("store=${nothing}", ["store", "cannot be resolved", "nothing"]),
        ("seed=???", ["seed", "give it a value"]),
        ("hydra.run.dir=${nothing}", ["hydra.run.dir", "cannot be resolved"]),
        ("hydra.run.dir=/proc/none/x", ["/proc/none"]),
        ("scorer=5", ["scorer=5"]),
        ("trainer=5", ["trainer=5"]),
        ("zoo.a=5", ["zoo.a=5", "settings by name"]),
        ("scorer.itm=5", ["scorer.itm"]),
        ("trainer=null", ["trainer=None", "name of a config"]),
        ("scorer.itm._target_=builtins.open", ["scorer.itm._target_=builtins.open", "trust="]),
        ("scorer.itm._target_=[itm.scorers.ITM]", ["scorer.itm._target_.0=itm.scorers.ITM"]),
        ("scorer.itm._target_={a: 1}", ["scorer.itm._target_.a=1"]),
        ("models=[rsnet18]", ["models=rsnet18", "resnet18"]),
        ("models=5", ["models=5"]),
        ("budget=5", ["budget=5", "settings by name"]),
        ("budget.parameters=-1", ["budget.parameters=-1", "above 0"]),
        ("trust=[1]", ["trust=", "mypackage"]),
        ("~seeds", ["~seeds", "seeds=null"]),
        ("~data.on_error", ["~data.on_error"]),
        ("trust.x=1", ["trust.x=1"]),
        ("hydra.job_logging.version=x", ["hydra.job_logging", "x"]),
        ("hydra.verbose=[[1]]", ["hydra.verbose=[[1]]", "names of loggers"]),
        ("hydra.verbose=3", ["hydra.verbose=3", "names of loggers"]),
        ("--nothing", ["--nothing", "--help"]),
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


EVIL = {
    "scorer": "scorer: {itm: {_target_: TARGET, _args_: [ARG]}}",
    "nested": "scorer: {itm: {_target_: itm.scorers.PED, source: {_target_: TARGET, _args_: [ARG]}}}",
    "tracking": "tracking: {_target_: TARGET, _args_: [ARG]}",
    "callback": "hydra: {callbacks: {x: {_target_: TARGET, _args_: [ARG]}}}",
    "partial": "hydra: {callbacks: {x: {_target_: itm.analysis.callback.Analyse, name: a, look: {_target_: TARGET}}}}",
    "logging": "hydra: {job_logging: {handlers: {x: {class: TARGET, filename: ARG}}, root: {handlers: [x]}}}",
    "factory": "hydra: {job_logging: {handlers: {x: {(): TARGET, filename: ARG}}, root: {handlers: [x]}}}",
}


@pytest.mark.parametrize("target", ["pathlib.Path.touch", "itm.tracking.os.mkdir", "itm.core.files.write_atomic"])
@pytest.mark.parametrize("place", EVIL)
def test_a_config_calls_no_code_of_other_packages(place, target, tmp_path, capsys):
    mark = tmp_path / "mark"
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    text = EVIL[place].replace("TARGET", target).replace("ARG", str(mark))
    Path("own/experiment/evil.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        run(*TINY, "--config-dir", "own", "+experiment=evil")
    lines = capsys.readouterr().err.strip().splitlines()
    assert (stop.value.code, len(lines)) == (2, 1), lines
    assert target in lines[0]
    assert not mark.exists()


def test_a_config_cannot_trust_itself(tmp_path, capsys):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ntrust: [os]\ntracking: {_target_: os.getcwd}"
    Path("own/experiment/evil.yaml").write_text(text, encoding="utf-8")
    for words in (["+experiment=evil"], ["-m", "+experiment=evil,ablation_loss"]):
        with pytest.raises(SystemExit):
            run(*TINY, "--config-dir", "own", *words, "hydra.sweep.dir=out", "data=digits", "data.limit=20")
        assert "trust=['os']: a config sets it" in " ".join(capsys.readouterr().err.split())


def test_a_package_of_one_s_own_may_be_named_when_it_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "__init__.py").write_text("def build(): return 3", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {"_target_": "mypackage.build"}
    check_targets("scorer.mine", node, ["mypackage"])
    with pytest.raises(SettingError, match=r"trust=\[mypackage\]"):
        check_targets("scorer.mine", node, [])
    with pytest.raises(SettingError, match="cannot be imported"):
        check_targets("scorer.mine", {"_target_": "mypackage.nothing"}, ["mypackage"])


def test_flags_may_follow_overrides(tmp_path, capsys):
    (tmp_path / "own" / "zoo").mkdir(parents=True)
    (tmp_path / "own" / "zoo" / "mine.yaml").write_text("a: {model: resnet10t}", encoding="utf-8")
    with pytest.raises(SystemExit):
        run("seed=1", "--config-dir", "own", "zoo=mine", "seeds=0")
    assert capsys.readouterr().err.startswith("error: seeds=0: ")


@pytest.mark.parametrize("value", ["a=b.pt", "a (1).pt", "it's=.pt", "C:\\new\\a=1.pt", "ends=\\"])
def test_values_with_signs_of_hydra_s_grammar_arrive_as_they_are(value):
    (override,) = OverridesParser.create().parse_overrides([quote_if_needed(f"zoo.a.checkpoint={value}")])
    assert override.value() == value


def test_long_errors_are_shortened(capsys):
    with pytest.raises(SystemExit):
        run(*TINY, f"data=./{'x' * 5000}")
    assert len(capsys.readouterr().err) < 700


def test_an_empty_home_is_as_good_as_none(monkeypatch):
    monkeypatch.setenv("ITM_HOME", "")
    monkeypatch.setattr(sys, "argv", ["estimate.py", *TINY])
    command.run(lambda: None, "estimate")
    assert "ITM_HOME" not in os.environ


def test_help_shows_examples_choices_and_comments(capsys):
    run("--help")
    shown = capsys.readouterr().out
    for words in ("python estimate.py data=/my/images", "demo, ", "logme", "# seed of the splits and first of"):
        assert words in shown


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
