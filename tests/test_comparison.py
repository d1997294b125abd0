"""Rankings beside the true one: numbers, tables, the page, and what is said of a table that does not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from rankings import candidate, ranking, recommended
from rich.console import Console
from scipy import stats

from itm.cli.jobs import collect
from itm.cli.multirun import Collect
from itm.core.errors import DataError, SettingError
from itm.data.image_set import ImageSet, load_images
from itm.evaluation.comparison import compare_with_truth, known_priors
from itm.evaluation.truth import Truth, find_truth
from itm.metrics import functional
from itm.report import figures
from itm.report.report import Report
from itm.scorers import ITM, KNN, LogME

ACCURACY = {"a": 90.0, "b": 80.0, "c": 70.0, "d": 60.0}


def truth(accuracy: dict[str, float] = ACCURACY, **others: list[float]) -> Truth:
    table = pd.DataFrame({"elpv": accuracy, **{k: dict(zip(accuracy, v, strict=True)) for k, v in others.items()}})
    return Truth("elpv", table, "elpv", "mine.csv", "epochs 3")


def test_a_hand_worked_exchange() -> None:
    (row,) = compare_with_truth([ranking(LogME(), a=(3,), b=(4,), c=(2,), d=(1,))], truth()).rows
    weights = {pair: 1 / (pair[0] + pair[1]) for pair in permutations(range(1, 5), 2) if pair[0] < pair[1]}
    assert row.tau_w_paper == pytest.approx(1 - 2 * weights[1, 2] / sum(weights.values()))
    assert row.tau_w == pytest.approx(stats.weightedtau([90, 80, 70, 60], [3, 4, 2, 1]).statistic)
    assert row.kendall_tau == pytest.approx((5 - 1) / 6)
    assert (row.regret, row.picks, row.models, row.prior) == (10.0, ("b",), 4, False)
    assert row.interval is None
    assert row.seeds is None


def test_random_pools_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    names = [f"m{i}" for i in range(12)]
    values, scores = rng.uniform(50, 90, 12), rng.normal(size=12)
    known = dict(zip(names, values, strict=True))
    found = compare_with_truth([ranking(KNN(), **{m: (s,) for m, s in zip(names, scores, strict=True)})], truth(known))
    (row,) = found.rows
    assert row.tau_w == pytest.approx(stats.weightedtau(values, scores).statistic)
    assert row.kendall_tau == pytest.approx(stats.kendalltau(values, scores).statistic)
    assert row.regret == pytest.approx(values.max() - values[scores.argmax()])
    assert row.interval is not None
    assert row.interval.low < row.tau_w < row.interval.high
    assert "95 % bootstrap" in " ".join(found.notes())


def test_ties_share_the_first_place() -> None:
    (row,) = compare_with_truth([ranking(LogME(), a=(1,), b=(2,), c=(2,), d=(0,))], truth()).rows
    assert set(row.picks) == {"b", "c"}
    assert row.regret == 15.0
    assert row.kendall_tau == pytest.approx(stats.kendalltau([90, 80, 70, 60], [1, 2, 2, 0]).statistic)
    (flat,) = compare_with_truth([ranking(LogME(), a=(1,), b=(1,), c=(1,))], truth()).rows
    assert (flat.tau_w, flat.tau_w_paper, flat.kendall_tau, flat.regret) == (0, 0, 0, 10)


def test_each_seed_has_its_own_tau() -> None:
    right, wrong = (4.0, 3.0, 2.0, 1.0), (1.0, 2.0, 3.0, 4.0)
    runs = dict(zip("abcd", zip(right, right, wrong, strict=True), strict=True))
    (row,) = compare_with_truth([ranking(ITM(), **runs)], truth()).rows
    assert row.seeds is not None
    assert row.seeds.count == 3
    assert row.seeds.mean == pytest.approx(1 / 3)  # of 1, 1 and -1
    assert row.seeds.std == pytest.approx(np.std([1, 1, -1], ddof=1))
    assert row.tau_w == 1.0


def test_models_without_a_true_accuracy_are_named_and_left_out() -> None:
    first = ranking(ITM(), a=(4,), b=(3,), c=(2,), x=(9,))
    second = ranking(LogME(), failed={"c": "not finite"}, a=(1,), b=(2,), d=(3,), x=(9,))
    found = compare_with_truth([first, second], truth(ACCURACY | {"e": math.nan}))
    assert found.missing == ("x",)
    assert [(row.name, row.models, row.tau_w) for row in found.rows] == [("itm", 3, 1.0), ("logme", 3, -1.0)]
    assert list(found.accuracy) == ["a", "b", "c", "d"]
    assert "the table lacks them: x" in " ".join(found.notes())


def test_too_few_shared_models_are_no_comparison() -> None:
    found = compare_with_truth([ranking(a=(1,), b=(2,), x=(3,))], truth(), {"parameters": {"a": 1.0, "b": 2.0}})
    assert found.rows == ()
    assert found.notes()[-1] == "Models with a score and a true accuracy: 2. A comparison needs 3."
    assert found.to_dict()["rows"] == []
    assert found.to_frame().empty


def test_priors_stand_below_and_cover_every_compared_model() -> None:
    facts = {
        name: candidate(parameters=size, source_accuracy=accuracy)
        for name, size, accuracy in (("a", 3, 80.0), ("b", 2, 70.0), ("c", 1, None), ("unknown", 9, 60.0))
    }
    table = truth({"a": 90.0, "b": 80.0, "c": 70.0}, digits=[1.0, 2.0, 3.0], dtd=[2.0, 3.0, math.nan])
    priors = known_priors(facts, table)
    assert priors["mean rank elsewhere"] == pytest.approx({"a": -1.0, "b": -(2 / 3 + 1 / 2) / 2, "c": -1 / 3})
    found = compare_with_truth([ranking(LogME(), a=(1,), b=(2,), c=(3,))], table, priors)
    assert [(row.name, row.prior, row.tau_w) for row in found.rows] == [
        ("logme", False, -1.0),
        ("parameters", True, 1.0),  # ImageNet accuracy is not known of c
        ("mean rank elsewhere", True, -1.0),
    ]
    assert set(known_priors({"c": facts["c"]}, truth())) == {"parameters"}


def test_chance_is_the_spread_of_random_orders() -> None:
    found = compare_with_truth([ranking(a=(1,), b=(2,), c=(3,), d=(4,))], truth())
    orders = np.array(list(permutations(range(4))), dtype=float)
    exact = functional.weighted_kendall_tau(np.tile(list(ACCURACY.values()), (len(orders), 1)), orders).std()
    assert found.chance() == pytest.approx(exact, abs=0.02)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "true.csv"
    path.write_text("model,elpv,pets\na,90,1\nb,80,2\nc,70,3\nd,,4\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("word", ["shiped", "papper"])
def test_a_misspelt_source_is_one_line(word: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=rf"groundtruth={word}: not known\. Did you mean '(shipped|paper)'"):
        find_truth(word, "elpv", "abc", tmp_path)


def test_tables_that_were_asked_for_have_to_fit(table: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"groundtruth=.*tru\.csv: no such file"):
        find_truth(str(table.with_name("tru.csv")), "elpv", "abc", tmp_path)
    with pytest.raises(SettingError, match=r"no column for the dataset 'digits'; the table has elpv, pets\.$"):
        find_truth(str(table), "digits", "abc", tmp_path)
    with pytest.raises(SettingError, match=r"at least 3 models of the zoo \(a, b, d\), found 2; it has a, b, c\.$"):
        find_truth(str(table), "elpv", "abd", tmp_path)
    with pytest.raises(
        SettingError, match=r"groundtruth=paper: no column for the dataset 'elpv'; the table has Cal101"
    ):
        find_truth("paper", "elpv", "abc", tmp_path)
    table.write_text("model,elpv\na,0.9\n", encoding="utf-8")
    with pytest.raises(DataError, match="expected percent"):
        find_truth(str(table), "elpv", "abc", tmp_path)
    assert find_truth(None, "elpv", "abc", tmp_path) is None


def test_a_folder_is_a_column_by_its_own_name(table: Path, tmp_path: Path) -> None:
    found = find_truth(str(table), str(tmp_path / "pets") + "/", "abcd", tmp_path)
    assert found is not None
    assert found.accuracy == {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}


def test_the_paper_s_table_is_found_by_this_package_s_names(tmp_path: Path) -> None:
    found = find_truth("paper", "stanford_cars", ["ResNet-18", "ResNet-34", "MAE-L16", "mine"], tmp_path)
    assert found is not None
    assert (found.column, found.accuracy["MAE-L16"]) == ("Cars", 91.21)
    assert "AdamW" in found.protocol


def test_shipped_takes_the_table_that_covers_most_and_is_silent_otherwise(table: Path, tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text("model,elpv\na,1\nb,2\nc,3\nd,4\n", encoding="utf-8")
    (tmp_path / "more_cells.csv").write_text(
        "dataset,model,adaptation,epochs,lr\nelpv,a,full,3,0.1\nelpv,b,full,3,0.2\ndigits,a,lora,5,0.1\n"
    )
    found = find_truth("shipped", "elpv", "abcd", tmp_path)
    assert found is not None
    assert found.source == str(tmp_path / "more.csv")
    assert found.protocol == "adaptation full, epochs 3, learning rate 0.1 or 0.2"
    assert find_truth("shipped", "elpv", "ab", tmp_path) is None
    assert find_truth("shipped", "digits", "abcd", tmp_path) is None
    assert find_truth("shipped", str(tmp_path / "elpv"), "abcd", tmp_path) is None, "a folder is not the dataset"
    assert find_truth("shipped", "elpv", "abcd", tmp_path / "none") is None


@pytest.fixture
def report(image_folder: Path) -> Report:
    rankings = [
        ranking(a=(0.9, 0.8), b=(0.5, 0.4), c=(0.1, 0.2), x=(0.3, 0.3)),
        ranking(LogME(), a=(1.0,), b=(2.0,), c=(3.0,)),
    ]
    facts = {name: candidate(parameters=1_000_000 * place) for place, name in enumerate("abcx", 1)}
    facts["x"] = candidate(images_per_second=math.inf, seconds=math.nan)
    table = truth({"a": 90.0, "b": 80.0, "c": 80.0, "<d>": 1.0})
    found = compare_with_truth(rankings, table, known_priors(facts, table))
    return Report(load_images(image_folder), rankings, recommended(rankings[0]), facts, comparison=found)


def test_files_hold_the_comparison(report: Report, tmp_path: Path) -> None:
    ranked, js, compared, html = report.write(tmp_path)
    frame = pd.read_csv(ranked).set_index(["scorer", "model"])
    assert frame.loc["itm", "true_rank"].dropna().to_dict() == {"a": 1, "b": 2, "c": 2}
    assert math.isnan(frame.loc[("itm", "x"), "true_accuracy"])
    content = json.loads(js.read_text("utf-8"), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert content["comparison"]["source"] == "mine.csv"
    assert content["comparison"]["rows"][0]["seeds"]["count"] == 2
    assert content["models"]["x"]["seconds"] is content["models"]["x"]["images_per_second"] is None
    assert list(pd.read_csv(compared)["scorer"]) == ["itm", "logme", "parameters"]
    page = html.read_text("utf-8")
    assert "Against the true accuracy" in page
    assert "prior: parameters" in page
    assert "epochs 3" in page
    assert "the table lacks them: x" in page


def test_console_shows_scores_over_priors(report: Report) -> None:
    console = Console(record=True, width=110, quiet=False, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    report.show(console)
    text = console.export_text()
    places = [
        text.index(word)
        for word in ("Scores (place) on", "Against the true accuracy", "tau_w scipy", "prior: parameters")
    ]
    assert places == sorted(places)
    assert "…" not in text
    assert "Interval: n/a, too narrow where there are fewer than 10 models." in " ".join(text.split())


def test_scatter_names_every_model_once_per_row_and_inside_the_panel() -> None:
    names = [f"model_{i}" for i in range(20)]
    accuracy = {name: 90 - 0.01 * i for i, name in enumerate(names)} | {"model_19": 50.0}
    one = ranking(**{name: (i / 20, i / 20 + 0.1) for i, name in enumerate(names)})
    for count, rows in ((1, 1), (5, 2), (9, 2)):
        figure = figures.truth_scatter([one] * count, accuracy)
        beside = [axes for axes in figure.axes if axes.texts]
        assert len(beside) == rows
        assert len(figure.axes) == min(count, 6) + rows
        for axes in beside:
            low, high = axes.get_ylim()
            places = sorted(text.get_position()[1] for text in axes.texts)
            assert low <= places[0] < places[-1] <= high
            assert np.diff(places).min() > 0.9 * (high - low) / 22, "names do not overlap"


def test_a_sweep_ends_with_tau_by_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rankings = {
        1: [ranking(a=(3,), b=(2,), c=(1,)), ranking(LogME(), a=(1,), b=(1,), c=(1,))],
        64: [ranking(a=(1,), b=(2,), c=(3,)), ranking(LogME(), failed={"b": "?"}, a=(1,), c=(2,))],
    }
    images = ImageSet("elpv", "train", ("x", "y"), torch.tensor([0, 1]), (tmp_path / "0", tmp_path / "1"))
    facts = {name: candidate(parameters=size) for name, size in zip("abc", (1, 2, 3), strict=True)}
    for number, (batch, ranked) in enumerate(rankings.items()):
        found = compare_with_truth(ranked, truth(), known_priors(facts, truth()))
        job = tmp_path / str(number)
        (job / ".hydra").mkdir(parents=True)
        Report(images, ranked, recommended(ranked[0]), facts, comparison=found).to_frame().to_csv(
            job / "ranking.csv", index=False
        )
        found.to_frame().to_csv(job / "comparison.csv", index=False)
        (job / ".hydra" / "overrides.yaml").write_text(f"- scorer.itm.batch_size={batch}\n", encoding="utf-8")
    config = {"hydra": {"sweep": {"dir": str(tmp_path)}}, "tracking": {}, "data": {"name": "d", "limit": 9}, "seeds": 2}
    Collect("s", x="batch_size").on_multirun_end(OmegaConf.create(config))
    frame = collect(tmp_path).groupby(["batch_size", "scorer"])[["tau_w", "regret", "prior_tau_w"]].first()
    assert frame.loc[(1, "itm")].tolist() == [1.0, 0.0, -1.0]
    assert frame.loc[(64, "itm")].tolist() == [-1.0, 20.0, -1.0]
    assert frame.loc[(1, "logme")].tolist() == [0.0, 10.0, -1.0]
    assert frame.loc[(64, "logme")].isna().tolist() == [True, True, False], "two models are too few to compare"
    assert {path.name for path in tmp_path.glob("s*.*")} == {"s.png", "s.svg", "s_truth.png", "s_truth.svg"}
    assert "has -1.00." in capsys.readouterr().out
    drawn = (tmp_path / "s.svg").read_text("utf-8")
    assert all(word in drawn for word in ("s: d, 9 images, 2 seeds", "a, itm", "a, logme")), (
        "scorers have their own lines"
    )


def test_the_table_of_a_sweep_holds_no_formula_of_a_spreadsheet(tmp_path: Path) -> None:
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text("- data.name='=1+1'\n", encoding="utf-8")
    pd.DataFrame({"scorer": ["itm"], "model": ["+a"], "score": [-0.5]}).to_csv(tmp_path / "0" / "ranking.csv")
    job = JobReturn(status=JobStatus.COMPLETED)
    Collect("s", x="name").on_job_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}), job)
    frame = pd.read_csv(tmp_path / "s.csv")
    assert (frame["name"].item(), frame["model"].item(), frame["score"].item()) == ("'=1+1", "'+a", -0.5)


TINY = ("~zoo", *(f"+zoo.{name}={{model: resnet10t, image_size: 32, seed: {seed}}}" for seed, name in enumerate("abc")))


def test_estimate_compares_with_a_table_of_one_s_own(
    run: Callable[..., Path], image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("true.csv").write_text("model,images,digits\na,90,1\nb,80,2\nc,70,3\n", encoding="utf-8")
    out = run(f"data={image_folder}", *TINY, "groundtruth=true.csv", "scorer=[logme]")
    rows = pd.read_csv(out / "ranking.csv").set_index("model").loc[list("abc")]
    (logme, *priors) = json.loads((out / "ranking.json").read_text("utf-8"))["comparison"]["rows"]
    assert logme["tau_w"] == pytest.approx(stats.weightedtau([90, 80, 70], rows["score"]).statistic)
    assert {row["name"]: row["tau_w"] for row in priors} == {"parameters": 0.0, "mean rank elsewhere": -1.0}
    assert "Against the true accuracy on images (3 models)" in capsys.readouterr().out


def test_a_table_that_does_not_fit_stops_before_any_image(
    run: Callable[..., Path], image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (image_folder / "ant" / "0.png").write_bytes(b"no image")
    Path("true.csv").write_text("model,pets\na,90\nb,80\nc,70\n", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        run(f"data={image_folder}", *TINY, "groundtruth=true.csv")
    assert stop.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error:"))
    assert line.endswith("groundtruth=true.csv: no column for the dataset 'images'; the table has pets.")
