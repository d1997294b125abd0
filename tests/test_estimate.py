"""estimate.py from a folder of images to a ranking, a page and tracked sweeps."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from itm.cli import failures
from itm.data.image_set import load_images
from itm.extraction.extract import extract
from itm.extraction.pool import extract_pool
from itm.extraction.store import FeatureStore
from itm.models.backbone import load_backbone
from itm.scorers import PED

ZOO = (
    "~zoo",
    *(f"+zoo.{n}={{model: {m}, image_size: 32}}" for n, m in (("a", "resnet10t"), ("b", "mobilenetv3_small_050"))),
)
FAST = ("scorer.itm.iterations=5", "seeds=2")


@pytest.fixture
def photos(image_folder, tmp_path) -> Path:
    return Path(shutil.move(image_folder, tmp_path / "Bienen & Käfer <süß>"))


def test_a_folder_becomes_a_ranking_and_a_page(run, photos):
    out = run(f"data={photos}", *ZOO, *FAST, "scorer=[itm,logme,leep]")
    assert len(pd.read_csv(out / "ranking.csv")) == 4
    content = json.loads((out / "ranking.json").read_text("utf-8"))
    itm, logme = content["rankings"]
    assert (itm["scorer"], logme["scorer"]) == ("itm", "logme")
    entry = itm["entries"][0]
    assert len(entry["runs"]) == 2
    assert {"score", "seconds", "n", "distance", "curve"} <= set(entry["runs"][0])
    assert content["settings"]["seeds"] == 2
    assert content["models"]["a"]["transform"]
    assert "torch" in content["versions"]
    assert list(content["left_out"]) == ["leep"]
    page = (out / "report.html").read_text("utf-8")
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|ranking\.(?:csv|json)")[^"']*""", page)
    assert "url(" not in page
    assert "Käfer &lt;süß&gt;" in page
    assert "<süß>" not in page
    assert page.count("data:image/png") >= 3 + 3, "figures, and an image of each class"
    assert "Agreement" in page
    assert (out / "config.yaml").is_file()

    extract_pool.cache_clear()
    again = json.loads(
        (run(f"data={photos}", *ZOO, *FAST, "scorer=[itm]", out="again") / "ranking.json").read_text("utf-8")
    )
    assert all(model["cached"] for model in again["models"].values())
    assert [e["score"] for e in again["rankings"][0]["entries"]] == [e["score"] for e in itm["entries"]]


def test_ped_takes_the_features_of_source_data(run, photos, capsys, tmp_path):
    out = run(f"data={photos}", *ZOO, "scorer=[ped,logme]", "source.name=digits", "source.limit=40", "seeds=1")
    entries = json.loads((out / "ranking.json").read_text("utf-8"))["rankings"][0]["entries"]

    pool, source = {}, {}
    for images, into in ((load_images(photos), pool), (load_images("digits", limit=40), source)):
        for name, model in {"a": "resnet10t", "b": "mobilenetv3_small_050"}.items():
            into[name] = extract(
                load_backbone(name, model=model, image_size=32), images, FeatureStore(tmp_path / "fresh")
            ).features
    expected = PED(source=source).evaluate(pool)
    assert {e["model"]: e["score"] for e in entries} == pytest.approx({n: s.value for n, s in expected.items()})

    out = run(f"data={photos}", *ZOO, "scorer=[ped,logme]", out="without")
    assert "set source.name" in json.loads((out / "ranking.json").read_text("utf-8"))["left_out"]["ped"]
    for typed, words in (
        ("source.name=digit", r"source\.name=digit: .*Did you mean 'digits'"),
        ("source={name: digits, limit: 5}", r"source\.name=digits: source\.limit=5: expected .* 10 or more"),
    ):
        with pytest.raises(SystemExit):
            run(f"data={photos}", *ZOO, "scorer=[ped]", typed, out="misspelt")
        assert re.search(f"error: {words}", capsys.readouterr().err.replace("\n", " "))


@pytest.mark.parametrize("on_failure", ["stop", "skip"])
def test_a_failing_model_is_named_and_the_others_go_on(run, photos, tmp_path, capsys, on_failure):
    (photos / "ant" / "0.png").write_bytes(b"no image")
    (tmp_path / "cut.pt").write_bytes(b"cut short")
    broken = f"+zoo.c={{model: resnet10t, checkpoint: '{tmp_path / 'cut.pt'}'}}"
    words = [f"data={photos}", *ZOO, broken, *FAST, "data.on_error=skip", f"on_failure={on_failure}"]
    if on_failure == "stop":
        with pytest.raises(SystemExit, match=r"error: no features: c; .*on_failure=skip"):
            run(*words)
    else:
        run(*words)
    out = tmp_path / "out"
    printed = capsys.readouterr().out
    assert "no score c" in printed
    assert "1 image(s) could not be read" in printed
    content = json.loads((out / "ranking.json").read_text("utf-8"))
    assert "cut.pt" in content["failed"]["c"]
    assert len(content["models"]["a"]["skipped"]) == 1
    assert "cut.pt" in (out / "report.html").read_text("utf-8")


def test_failed_models_of_jobs_in_other_processes_count(tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "failed", [])
    for job, on_failure, failed in ((0, "stop", {"a": "bad"}), (1, "skip", {"b": "bad"}), (2, "stop", {})):
        (tmp_path / str(job)).mkdir()
        content = {"settings": {"on_failure": on_failure}, "failed": failed}
        (tmp_path / str(job) / "ranking.json").write_text(json.dumps(content), "utf-8")
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    failures.FailedModels().on_multirun_end(config)
    assert failures.failed == ["a"]


def test_one_image_size_for_the_whole_zoo(run, photos):
    out = run(f"data={photos}", *ZOO, *FAST, "image_size=48")
    models = json.loads((out / "ranking.json").read_text("utf-8"))["models"]
    assert {facts["input_size"] for facts in models.values()} == {48}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_gpu_is_refused_before_any_image_is_read(run, capsys):
    with pytest.raises(SystemExit) as stop:
        run("data=nowhere/at/all", "trainer=v100")
    assert stop.value.code == 2
    assert "trainer.accelerator=cuda: " in capsys.readouterr().err


def test_no_model_left_is_one_line(run, photos, capsys):
    with pytest.raises(SystemExit) as stop:
        run(f"data={photos}", "~zoo", "+zoo.c={model: resnet10t, checkpoint: gone.pt}")
    assert stop.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "gone.pt" in errors[0]


@pytest.mark.slow
def test_an_ablation_keeps_what_its_good_jobs_found(run, photos, capsys):
    with pytest.raises(SystemExit) as stop:  # batch_size=0 is the job that fails
        run(
            "+experiment=ablation_batch", f"data={photos}", *ZOO, "seeds=1", "tracking=none",
            "scorer.itm.batch_size=4,0,8", "scorer.itm.iterations=2,4",
        )  # fmt: skip
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert "2 job(s) failed" in said.err
    assert "scorer.itm.batch_size=0" in said.err
    assert "best first" in said.out
    frame = pd.read_csv(Path("out/ablation_batch.csv"))
    assert sorted(set(frame["batch_size"])) == [4, 8]
    assert len(frame) == 8
    assert Path("out/ablation_batch.png").is_file()
    assert Path("out/ablation_batch.svg").is_file()
