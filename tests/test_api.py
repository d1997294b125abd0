"""The Python door: itm.estimate without Hydra, and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rankings import candidate

import itm
from itm.cli.folders import configs_folder
from itm.cli.models import resolve_models
from itm.cli.pipeline import with_prior
from itm.extraction.pool import extract_pool
from itm.scorers import Combined, LogME

MODELS = {"a": {"model": "test_resnet", "image_size": 32}, "b": {"model": "test_vit", "model_args": {"img_size": 32}}}


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch, one_thread):
    monkeypatch.setenv("ITM_HOME", str(tmp_path / "home"))
    extract_pool.cache_clear()


def test_an_estimate_ranks_prints_and_writes(image_folder, tmp_path):
    result = itm.estimate(image_folder, MODELS, "logme", pretrained=False, jobs=1)
    frame = result.to_frame()
    assert list(frame["model"]) == result.ranking.order
    assert sorted(result.ranking.order) == ["a", "b"]
    assert result.recommendation.model == result.ranking.order[0]
    assert str(result.recommendation) in str(result)
    assert sum(result.recommendation.probabilities.values()) == pytest.approx(1)
    assert frame["p_best"].tolist() == [result.recommendation.probabilities[model] for model in frame["model"]]
    page = result.report(tmp_path / "report")
    assert page.is_file()
    assert len(pd.read_csv(page.with_name("ranking.csv"))) == 2
    html = result._repr_html_()
    assert html.count("<tr") == 3
    assert "<td>a</td>" in html


def test_the_scores_are_those_of_the_single_steps(image_folder, tmp_path):
    result = itm.estimate(image_folder, MODELS, ["logme", LogME(reference=True)], pretrained=False, limit=12)
    images = itm.load_images(image_folder, limit=12)
    store = itm.FeatureStore(tmp_path)
    pool = {
        name: itm.extract(itm.load_backbone(name, **entry), images, store, progress=False).features
        for name, entry in MODELS.items()
    }
    assert result.ranking.scores == itm.rank(pool, LogME(reference=True)).scores
    several = itm.estimate(image_folder, MODELS, pretrained=False, seeds=1, limit=12, jobs=1)
    assert [one.name for one in several.rankings] == ["combined", "itm", "logme", "regularized_hscore"]
    assert several.ranking.scores == itm.rank(pool, "combined").scores
    assert several.rankings[1].scores == itm.rank(pool, "itm", seed=0, seeds=1).scores


def test_a_budget_lists_the_models_that_it_removes(image_folder):
    result = itm.estimate(image_folder, ["test_vit*"], "logme", pretrained=False, budget={"parameters": 400e3})
    assert result.ranking.order == ["test_vit.r160_in1k", "test_vit2.r160_in1k"]
    assert list(result.removed) == ["test_vit3.r160_in1k"]
    assert "removed: test_vit3.r160_in1k: 0.8 M parameters" in str(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": 5}, "data=5: expected"),
        ({"data": "nowhere"}, "data=nowhere: not known"),
        ({"seeds": "3"}, "seeds=3: expected a whole number"),
        ({"seeds": 0}, "seeds=0: expected"),
        ({"resamples": 0}, "resamples=0: expected"),
        ({"seed": -1}, "seed=-1: expected"),
        ({"limit": 1}, "limit=1: expected"),
        ({"pretrained": "no"}, "pretrained=no: expected true or false"),
        ({"models": []}, "models: empty"),
        ({"models": [5]}, "models="),
        ({"models": ["rsnet18"]}, "models=rsnet18: not known"),
        ({"models": ["resnet999*"]}, r"models=resnet999\*: not known"),
        ({"models": {"a": 3}}, "models\\['a'\\]=3: expected settings by name"),
        ({"scorer": "itn"}, "scorer=itn: not known. Did you mean 'itm'"),
        ({"scorer": [3]}, "scorer="),
        ({"budget": {"params": 3}}, "budget.params: not known. Did you mean 'budget.parameters'"),
        ({"budget": {"parameters": 10}}, "budget: none of 2 candidates"),
        ({"on_error": "skp"}, "on_error=skp: .*'skip'"),
        ({"device": "tpu"}, "device=tpu: "),
    ],
)
def test_a_wrong_argument_is_one_line(image_folder, arguments, message):
    with pytest.raises(itm.ItmError, match=message) as raised:
        itm.estimate(**{"data": image_folder, "models": MODELS, "scorer": "logme", "pretrained": False, **arguments})
    assert len(str(raised.value).splitlines()) == 1


# `auto` stands for models that a budget chooses, see test_zoo_auto.py
@pytest.mark.parametrize("name", sorted({path.stem for path in (configs_folder() / "zoo").glob("*.yaml")} - {"auto"}))
def test_the_models_of_a_zoo_are_those_that_hydra_composes(name):
    with initialize_config_dir(str(configs_folder()), version_base="1.3"):
        composed = OmegaConf.to_container(compose("estimate", [f"zoo={name}"]).zoo)
    assert resolve_models(name, pretrained=True) == {model: entry or {} for model, entry in composed.items()}


def test_names_and_wildcards_take_published_weights():
    assert resolve_models(["resnet18", "test_resnet*"], True) == {
        "resnet18": {"pretrained": True},
        "test_resnet.r160_in1k": {"pretrained": True},
    }
    assert resolve_models({"mine": {"checkpoint": "a.pt"}, "resnet18": None}, True) == {
        "mine": {"checkpoint": "a.pt"},
        "resnet18": {"pretrained": True},
    }


def test_a_name_of_the_zoo_stands_for_its_settings():
    zoo = {"resnet18": {"model": "resnet18", "checkpoint": "a.pt"}, "control": None, "other": {}}
    assert resolve_models(["control", "resnet18", "resnet34"], True, zoo) == {
        "control": {},
        "resnet18": {"model": "resnet18", "checkpoint": "a.pt"},
        "resnet34": {"pretrained": True},
    }


def modules_after(code: str) -> set[str]:
    """Names of the top-level modules that a fresh process has loaded after the code."""
    shown = f"{code}\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True, timeout=900)
    return {line.partition(".")[0] for line in done.stdout.splitlines()}


def test_importing_the_package_loads_no_library():
    assert not {"torch", "pandas", "hydra", "lightning", "timm"} & modules_after("import itm")


def test_help_loads_no_engine():
    code = "import sys\nsys.argv = ['estimate.py', '--help']\nfrom itm.cli.estimate import main\nmain()"
    assert not {"torch", "pandas", "lightning", "timm", "matplotlib"} & modules_after(code)


def test_data_and_scores_without_training_do_not_load_lightning(image_folder, tmp_path):
    words = ["estimate.py", f"data={image_folder}", "~zoo", "+zoo.a={model: test_resnet, image_size: 32}"]
    words += ["scorer=logme", "trainer.workers=0", f"hydra.run.dir={tmp_path / 'out'}"]
    code = f"import sys\nsys.argv = {words}\nfrom itm.cli.estimate import main\nmain()"
    loaded = modules_after(code)
    assert (tmp_path / "out" / "ranking.csv").is_file()
    assert "torch" in loaded
    assert "lightning" not in loaded


def test_every_public_name_can_be_reached():
    for name in itm.__all__:
        assert getattr(itm, name) is not None
    with pytest.raises(AttributeError):
        itm.nothing  # noqa: B018


def test_the_wheel_has_all_shipped_tables():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    tables = sorted((Path(__file__).parents[1] / "experiments" / "groundtruth").glob("*.csv"))
    assert tables
    for table in tables:
        assert f'"experiments/groundtruth/{table.name}" = "itm/experiments/groundtruth/{table.name}"' in text


def test_a_combination_gets_the_mean_rank_elsewhere_where_a_table_knows_every_model(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("model,cars,photos\na,90,10\nb,80,20\n", encoding="utf-8")
    run = {"groundtruth": str(table), "data": {"name": "/data/photos"}}
    scorers = {"mine": Combined(), "plain": Combined(prior=None), "logme": LogME()}
    both = {"a": candidate(), "b": candidate()}
    found = with_prior(scorers, run, both)
    assert found["mine"].prior == {"a": -0.5, "b": -1.0}
    assert [found[name] for name in ("plain", "logme")] == [scorers[name] for name in ("plain", "logme")]
    assert with_prior(scorers, run, {**both, "c": candidate()})["mine"].prior is None
    demo = dict.fromkeys(("efficientnet_lite0", "efficientnet_lite1"), candidate())
    assert set(with_prior(scorers, {**run, "groundtruth": "shipped"}, demo)["mine"].prior) == set(demo)
