"""Every experiment in its smallest form, and the W&B sweeps as an agent runs them."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from test_tracking import records
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from itm.cli.folders import groundtruth_folder
from itm.cli.pipeline import check_optimised
from itm.cli.targets import resolved
from itm.core.errors import SettingError
from itm.evaluation.truth import find_truth
from itm.scorers import ITM

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
SWEEPS = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))
SMALL = (
    *("data=digits", "data.limit=30", "jobs=1", "trainer.workers=0", "~zoo"),
    *("+zoo.tiny={model: test_resnet, image_size: 32}", "scorer.itm.iterations=2"),
)
SWEPT = [
    name
    for name in EXPERIMENTS
    if "itm.cli.multirun.Collect" in (CONFIGS / "experiment" / f"{name}.yaml").read_text("utf-8")
]
LOOKS = ("distance_statistics", "embedding_evolution", "wz_similarity")
STANDINGS = ("cnn_table", "main_table", "miniature", "miniature_ablations", "radar", "rank_metrics", "stability")
QUICK = {"ablation_heldout", "ablation_loss"}  # two and three jobs; a job's pages and pictures take seconds


def test_every_experiment_is_tested():
    # test_registered_tables.py, test_segmentation.py, test_transfer.py
    elsewhere = ("images_needed", "registered", "segmentation_table", "vlm_table")
    assert sorted([*SWEPT, *LOOKS, *STANDINGS, *elsewhere]) == EXPERIMENTS


def settings(*overrides: str) -> dict:
    """The settings of a run, resolved."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return resolved(compose("estimate", list(overrides)))


def composed(*overrides: str):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("estimate", list(overrides), return_hydra_config=True)


@pytest.mark.parametrize("name", SWEPT)
def test_what_an_experiment_collects_is_what_it_sweeps(name):
    cfg = composed(f"+experiment={name}")
    collect = instantiate(cfg.hydra.callbacks.collect)
    swept = {key.rpartition(".")[2] for key in cfg.hydra.sweeper.params}
    assert collect.name == name
    assert {collect.x, collect.line} - {None} == swept


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in SWEPT])
def test_experiments_run_offline_and_end_with_one_table_and_one_figure(run, capsys, name):
    hydra = composed(f"+experiment={name}").hydra
    small = [word for word in SMALL if word.partition("=")[0] not in hydra.sweeper.params]
    out = run(f"+experiment={name}", *small, "seeds=1", "tracking=none")
    params, names = hydra.sweeper.params, hydra.callbacks.collect.get("names", {})
    jobs = math.prod(len(str(values).split(",")) for values in params.values())
    frame = pd.read_csv(out / f"{name}.csv", keep_default_na=False, na_values=[""])
    assert len(frame) == jobs
    for key, values in params.items():
        expected = [names.get(value, value) for value in str(values).split(",")]
        found = frame[key.rpartition(".")[2]].drop_duplicates()
        assert [plain(value) for value in found] == [plain(value) for value in expected]
    assert frame["score"].between(0, 1).all()
    assert (out / f"{name}.png").stat().st_size > 1000
    assert (out / f"{name}.svg").read_text("utf-8").count("<svg") == 1
    assert capsys.readouterr().out.count("best first") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOKS)
def test_looks_at_features_are_experiments_too(run, capsys, name):
    out = run(f"+experiment={name}", *SMALL, "tracking=none")
    assert capsys.readouterr().out.count("Table and figure:") == 1
    assert len(pd.read_csv(out / f"{name}.csv")) == {"distance_statistics": 2, "embedding_evolution": 3}.get(name, 1)
    assert (out / f"{name}.png").stat().st_size > 1000
    assert (out / f"{name}.svg").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", STANDINGS)
def test_standings_are_experiments_too(run, capsys, tmp_path, name):
    truth = tmp_path / "truth.csv"
    truth.write_text("model,digits\na,90\nb,80\nc,70\n", encoding="utf-8")
    zoo = [
        f"+zoo.{n}={{model: test_{m}, image_size: 32}}" for n, m in (("a", "resnet"), ("b", "vit"), ("c", "mambaout"))
    ]
    small = [word for word in SMALL if word != "data=digits" and not word.startswith("+zoo")]
    chosen = ["scorer=[itm,logme,emms]", "data.name=digits", f"groundtruth={truth}", "seeds=1", "tracking=none"]
    out = run(f"+experiment={name}", *small, *zoo, *chosen)
    table = pd.read_csv(out / f"{name}.csv", index_col=0)
    assert {"itm", "logme", "emms"} <= set(table.index)
    assert len(pd.read_csv(out / f"{name}_rankings.csv")) == 9
    assert (out / f"{name}.png").stat().st_size > 1000
    assert capsys.readouterr().out.count("Table and figure:") == 1


def plain(value: object) -> str:
    """Return a value as text, the same for each spelling of a CSV or a config: 1 and 1.0, true and True."""
    try:
        return f"{float(str(value)):g}"
    except ValueError:
        return str(value).lower()


def command_of(sweep: dict, **values: object) -> list[str]:
    """The command line that an agent runs for these values of the swept settings."""
    found = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    macros = found | {"env": ["/usr/bin/env"], "interpreter": [sys.executable], "program": [sweep["program"]]}
    words = create_sweep_command(list(sweep["command"]))
    return [word for part in words for word in (macros[part[2:-1]] if part.startswith("${") else [part])]


def test_sweeps_keep_wandb_s_schema():
    package = importlib.util.find_spec("sweeps")  # not imported: it wants numpy 1, its schema is a file
    if package is None or package.origin is None:
        pytest.skip("W&B's schema comes with its package: uv pip install --no-deps sweeps")
    schema = json.loads((Path(package.origin).parent / "config" / "schema.json").read_text("utf-8"))
    validator = jsonschema.Draft7Validator(schema)
    for path in SWEEPS:
        sweep = load_sweep_config(str(path))
        assert not list(validator.iter_errors(sweep)), path.name
        assert list(validator.iter_errors(sweep | {"method": "bayez"})), "the schema sees a misspelt method"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_value_of_a_sweep_is_a_command_that_composes(path):
    sweep = load_sweep_config(str(path))
    assert (ROOT / sweep["program"]).is_file()
    assert ("metric" in sweep) == (sweep["method"] == "bayes")
    ((key, spec),) = sweep["parameters"].items()
    for value in spec["values"][:: len(spec["values"]) - 1] if "values" in spec else (spec["min"], spec["max"]):
        env, interpreter, program, *words = command_of(sweep, **{key: value})
        assert (env, interpreter, program) == ("/usr/bin/env", sys.executable, "estimate.py")
        cfg = composed(*(word.replace("data=", "data.name=") for word in words))
        assert getattr(instantiate(cfg.scorer.itm), key.rpartition(".")[2]) == value
        assert "_target_" in cfg.tracking


BAYES = [path for path in SWEEPS if load_sweep_config(str(path))["method"] == "bayes"]


def check_metric(words: list[str]) -> str | None:
    """Check at the start of a run that it will log the metric of its sweep; return the metric."""
    run = settings(*(word.replace("data=", "data.name=") for word in words))
    scorers = {name: ITM() for name in run["scorer"]}
    truth = find_truth(run["groundtruth"], run["data"]["name"], list(run["zoo"]), groundtruth_folder())
    check_optimised(run["optimise"], scorers, truth)
    return run["optimise"]


@pytest.mark.parametrize("path", BAYES, ids=lambda path: path.stem)
def test_the_runs_of_a_sweep_log_the_metric_that_it_optimises(path):
    sweep = load_sweep_config(str(path))
    words = command_of(sweep)[3:]
    assert check_metric(words) == sweep["metric"]["name"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("zoo=demo", "optimise=itm/tau_w: the run will not log it"),
        ("groundtruth=null", "optimise=itm/tau_w: the run will not log it"),
        ("data=photos", "optimise=itm/tau_w: the run will not log it"),
        ("optimise=itm/tau", "optimise=itm/tau: not known. Did you mean 'itm/tau_w'"),
        ("scorer=logme", "optimise=itm/tau_w: not known. .*logme/tau_w"),
    ],
)
def test_a_sweep_of_a_metric_that_is_not_logged_is_refused_at_the_start(changed, message):
    with pytest.raises(SettingError, match=message):
        check_metric([*command_of(load_sweep_config(str(BAYES[0])))[3:], changed])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_on_the_paper_s_models_and_data_know_the_ground_truth(name):
    assert "data=pets zoo=paper10 trainer=gpu" in (ROOT / "experiments" / "README.md").read_text("utf-8")
    run = settings(f"+experiment={name}", "data.name=pets", "zoo=paper10", "trainer=gpu")
    truth = find_truth(run["groundtruth"], run["data"]["name"], list(run["zoo"]), groundtruth_folder())
    assert truth is not None
    assert truth.source == "paper"


@pytest.mark.slow
def test_an_agent_s_command_leaves_the_metric_the_curves_and_the_table(tmp_path):
    sweep = load_sweep_config(str(ROOT / "experiments" / "sweeps" / "eta_bayes.yaml"))
    truth = tmp_path / "truth.csv"
    truth.write_text("model,digits\na,90\nb,80\nc,70\n", encoding="utf-8")
    words = [word for word in command_of(sweep, **{"scorer.itm.eta": 0.02}) if word[:5] not in ("data=", "zoo=c")]
    networks = (("a", "resnet"), ("b", "vit"), ("c", "mambaout"))
    zoo = [f"+zoo.{n}={{model: test_{m}, image_size: 32}}" for n, m in networks]
    small = ["data=digits", "data.limit=40", "~zoo", *zoo, f"groundtruth={truth}", "scorer.itm.iterations=4"]
    out = tmp_path / "out"
    environment = os.environ | {"WANDB_MODE": "offline", "ITM_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    words += [*small, "scorer.itm.evaluate_every=2", "seeds=1", f"hydra.run.dir={out}"]
    subprocess.run(words, cwd=ROOT, env=environment, check=True, timeout=900)

    (file,) = out.glob("wandb/offline-run-*/*.wandb")
    config, history, summary = {}, {}, {}
    for record in records(file):
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        for item in record.history.item:
            history.setdefault("/".join(item.nested_key) or item.key, []).append(json.loads(item.value_json))
        summary |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.summary.update}
    assert config["scorer"]["itm"]["eta"] == 0.02
    assert history["itm/a/iteration"] == [2, 4]
    assert all(0 <= score <= 1 for score in history["itm/a/heldout"])
    table = json.loads((file.parent / "files" / history["ranking/path"][0]).read_text("utf-8"))
    assert set(pd.DataFrame(table["data"], columns=table["columns"])["model"]) == {"a", "b", "c"}
    assert -1 <= summary[sweep["metric"]["name"]] <= 1
    comparison = pd.read_csv(out / "comparison.csv")
    assert summary["itm/tau_w"] == pytest.approx(comparison.loc[comparison["scorer"] == "itm", "tau_w"].item())
    ranking = pd.read_csv(out / "ranking.csv")
    assert summary["itm/mean_score"] == pytest.approx(ranking["score"].mean())
