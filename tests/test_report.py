"""Reports: the decision, tables, files, the page and figures."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re

import pandas as pd
import pytest
import torch
from rankings import candidate, ranking, recommended
from rich.console import Console

from itm.core.errors import StoreError
from itm.data.image_set import load_images
from itm.evaluation.difficulty import Confusion, Difficulty
from itm.extraction.candidate import Candidate
from itm.models.backbone import UNTRAINED
from itm.report import figures
from itm.report.console import ranking_tables, scores_tables
from itm.report.decision import agreement, alternatives, verdict
from itm.report.figures.rankings import pareto_front
from itm.report.output import check_output, csv_safe, write_csv
from itm.report.page import sample_images
from itm.report.report import Report
from itm.scorers import LogME


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ({"a": (0.9, 0.92), "b": (0.5, 0.52)}, "a leads b by 0.4, 28.3 times the spread over seeds: a clear lead."),
        ({"a": (0.5, 0.7), "b": (0.5, 0.6)}, "a leads b by 0.05, 0.4 times the spread over seeds: too close to call."),
        ({"a": (0.9,), "b": (0.5,)}, "a leads b by 0.4 (no spread over seeds to compare with)."),
        ({"a": (0.9,)}, "1 model with a score, so there is nothing to compare."),
        ({"a": (0.5, 0.6), "b": (0.5, 0.6)}, "a and b share the first place."),
        ({"a": (0.5,), "b": (0.5,), "c": (0.5,), "d": (0.4,)}, "a, b and c share the first place."),
        ({"a": (0.1 + 0.2, 0.3), "b": (0.3, 0.3)}, "a and b share the first place."),
        ({"a": (0.5, 0.5), "b": (0.1 + 0.2, 0.3)}, "a leads b by 0.2 (no spread over seeds to compare with)."),
    ],
)
def test_the_verdict_measures_the_lead_against_the_spread(runs, words):
    assert verdict(ranking(**runs)) == f"itm: {words}"


def test_alternatives_are_within_the_noise_and_save_something():
    facts = {
        "best": candidate(parameters=80e6, images_per_second=10.0, license="CC BY-NC 4.0"),
        "small": candidate(parameters=40e6, images_per_second=25.0, license="cc-by-nc-4.0"),
        "free": candidate(parameters=80e6, images_per_second=10.0, license="Apache-2.0"),
        "same": candidate(parameters=79e6, images_per_second=10.5, license="CC BY-NC 4.0"),
        "control": candidate(parameters=1e6, pretraining=UNTRAINED),
        "poor": candidate(parameters=1e6),
    }
    chances = {"best": 0.4, "small": 0.2, "free": 0.15, "same": 0.12, "control": 0.11, "poor": 0.02}
    found = alternatives(recommended(ranking(best=(1.0,)), **chances), facts)
    assert [(one.model, one.probability, one.gains) for one in found] == [
        ("small", 0.2, ("half the parameters", "2.5 times as fast")),
        ("free", 0.15, ("licence Apache-2.0 instead of CC BY-NC 4.0",)),
    ]


def test_agreement_is_over_the_models_that_both_scored():
    first = ranking(a=(3,), b=(2,), c=(1,))
    second = ranking(LogME(), a=(3,), c=(1,))
    third = ranking(LogME(), a=(1,), b=(2,), c=(3,))
    assert agreement([first, second]).loc["itm", "logme"] == 1.0
    assert agreement([first, third]).loc["itm", "logme"] == -1.0
    assert math.isnan(agreement([ranking(a=(1,)), second]).loc["itm", "logme"])


@pytest.fixture
def report(image_folder) -> Report:
    rankings = [
        ranking(curve=True, failed={"z": "not finite"}, a=(0.9, 0.8), b=(0.5, 0.4)),
        ranking(LogME(), a=(1.0,), b=(2.0,)),
    ]
    models = {"a": candidate(), "b": candidate(parameters=500_000, skipped=("x.png: damaged",), source_accuracy=75.1)}
    left_out = {"leep": "a: no source logits"}
    return Report(
        load_images(image_folder), rankings, recommended(rankings[0], ("Few images.",), a=0.7, b=0.3), models,
        {"c<i>": "zoo.c[1]: no file"}, left_out, {"seed": 0}, command="estimate.py data=x",
        difficulty=Difficulty("a", {"cat": 60.0, "dog": 80.0}, {"cat": 5, "dog": 5}, [Confusion("cat", "dog", 2, 0.4)]),
    )  # fmt: skip


def test_frame_has_a_row_per_scorer_and_model(report):
    frame = report.to_frame()
    assert list(frame["model"]) == ["a", "b", "b", "a"]
    assert list(frame["scorer"]) == ["itm", "itm", "logme", "logme"]
    wanted = {"rank", "score", "std", "seconds", "n", "parameters", "input_size", "dim", "extraction_seconds"}
    assert wanted <= set(frame)


def test_files_hold_the_whole_report(report, tmp_path):
    csv, js, html = report.write(tmp_path / "out")
    assert len(pd.read_csv(csv)) == 4
    content = json.loads(js.read_text("utf-8"))
    assert content["failed"] == {"c<i>": "zoo.c[1]: no file"}
    assert content["recommendation"]["probabilities"] == {"a": 0.7, "b": 0.3}
    assert content["difficulty"]["confused"] == [{"true": "cat", "predicted": "dog", "images": 2, "share": 0.4}]
    assert content["left_out"] == {"leep": "a: no source logits"}
    assert content["models"]["b"]["skipped"] == ["x.png: damaged"]
    page = html.read_text("utf-8")
    assert "c&lt;i&gt;" in page
    assert "c<i>" not in page
    assert "no source logits" in page
    assert page.count("the best value of a curve") == 1, "only one of the two scorers has curves"
    assert page.count("<th>± std</th>") == 1, "one seed has no deviation"
    assert page.index("Read first") < page.index("Fine-tune a (best with") < page.index("<table"), (
        "the decision stands first"
    )
    assert 'href="ranking.csv"' in page
    assert "estimate.py data=x" in page
    order = ["Few images", "Fine-tune a", "Alternatives", "Score and size", "Ranking by", "Classes by", "One image"]
    assert sorted(order, key=page.index) == order, "what a reader needs first stands first"
    assert "best with probability 0.30" in page, "b is within the noise, and of another size or licence"
    assert not re.search(r"(src|href)=\"(?!data:|ranking\.)", page), "the page needs no other file"


def test_names_are_safe_in_every_output(image_folder, tmp_path):
    names = ["$a_$b", "=1+1", "[/]", "esc\x1b[31m", "half\udc80", "two\nlines", "<script>"]
    runs = {name: (0.9 - 0.1 * place, 0.8 - 0.1 * place) for place, name in enumerate(names)}
    found = Report(
        load_images(image_folder),
        [ranking(curve=True, **runs), ranking(LogME(), **runs)],
        recommended(ranking(**runs), **dict.fromkeys(names, 1 / 7)),
        dict.fromkeys(names, candidate()),
        settings={"zoo": names},
    )
    csv, js, html = found.write(tmp_path)
    assert "'=1+1" in csv.read_text("utf-8")
    assert json.loads(js.read_text("utf-8"))["rankings"][0]["entries"][4]["model"] == "half\udc80"
    page = html.read_text("utf-8")
    assert '<td class="name">&lt;script&gt;</td>' in page
    assert "\x1b" not in page
    console = Console(width=110, file=io.StringIO())
    found.show(console)
    text = console.file.getvalue()
    assert all(name in text for name in ("$a_$b", "=1+1", "[/]", "esc\\x1b[31m"))
    assert "\x1b" not in text
    text.encode("utf-8")


def test_a_figure_that_fails_costs_neither_scores_nor_page(report, tmp_path, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise ValueError("no font")

    monkeypatch.setattr(figures, "score_bars", fail)
    *_, html = report.write(tmp_path / "one")
    assert "Fine-tune a" in html.read_text("utf-8")
    assert "no font" in caplog.text
    monkeypatch.setattr("itm.report.page.to_html", fail)
    assert [path.name for path in report.write(tmp_path / "two")] == ["ranking.csv", "ranking.json"]
    assert "report.html: not written (no font)" in caplog.text


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"hydra\.run\.dir: cannot write .*file"):
        check_output(tmp_path / "file" / "out")
    check_output(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")  # noqa: PTH110
def test_a_full_disk_is_a_storage_error_and_leaves_no_file(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        check_output(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cells_that_a_spreadsheet_would_run_get_an_apostrophe(tmp_path):
    frame = pd.DataFrame({"model": ["=cmd()", "+1", "-x", "@y", "plain"], "score": [-1.5, 2, 3, 4, 5]})
    write_csv(frame, tmp_path / "a.csv")
    again = pd.read_csv(tmp_path / "a.csv")
    assert list(again["model"]) == ["'=cmd()", "'+1", "'-x", "'@y", "plain"]
    assert list(again["score"]) == [-1.5, 2, 3, 4, 5]
    assert csv_safe("\t=1").startswith("'")


def test_every_class_has_one_sample_image(image_folder):
    images = load_images(image_folder)
    assert [name for name, _ in sample_images(images)] == list(images.classes)
    assert len(sample_images(images, classes=2)) == 2


def test_console_shows_names_and_reasons_as_they_are(report):
    console = Console(record=True, width=110, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    report.show(console)
    text = console.export_text()
    assert "no score c<i>: zoo.c[1]: no file" in text
    assert "no score z (itm): not finite" in text
    assert "no score scorer leep: a: no source logits" in text
    assert "1 image(s) could not be read" in text
    assert "tau with itm" in text


@pytest.mark.parametrize("width", [60, 110, 250])
def test_many_models_and_scorers_stand_in_tables_that_fit(width):
    names = [f"mobilenetv{i:02}" for i in range(14)]
    rankings = [
        dataclasses.replace(ranking(**{name: (-i / 1e5,) for i, name in enumerate(names)}), label=f"label{k}")
        for k in range(12)
    ]
    console = Console(width=width, record=True, file=io.StringIO())
    taus = agreement(rankings)["label0"]
    found = list(scores_tables(rankings, {}, dict.fromkeys(names, candidate()), "digits", taus, {}, width))
    console.print(*found)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert all(text.count(f"label{k} ") == 1 + (k == 0) * len(found) for k in range(12))
    assert text.count("mobilenetv13") == len(found)
    assert len(re.findall(r" -1.300e-04 \(14\)", text)) == 12
    assert "…" not in text


def test_the_console_lists_the_best_of_a_large_pool():
    names = [f"m{i:03}" for i in range(200)]
    one = ranking(**{name: (1 - i / 200,) for i, name in enumerate(names)})
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(*ranking_tables(one, {}, dict.fromkeys(names, candidate()), "digits", {}, 110))
    text = console.export_text()
    assert "the first 40 of 200 models" in text
    assert "m039" in text
    assert "m040" not in text


def test_the_front_has_each_model_that_no_smaller_one_beats():
    models = {"large": (9.0, 0.9), "equal": (9.5, 0.9), "small": (1.0, 0.5), "poor": (5.0, 0.4), "twin": (1.0, 0.3)}
    assert pareto_front(models) == ["small", "large"]


@pytest.mark.parametrize("count", [1, 12])
def test_figures_draw_few_and_many_models(count):
    scores = {f"a_rather_long_model_name_{i}": (i / 20, i / 20 + 0.1) for i in range(count)}
    assert len(figures.score_bars(ranking(**scores)).axes[0].patches) == count
    curves = figures.score_curves(ranking(curve=True, **scores))
    looks = {(line.get_color(), line.get_marker()) for line in curves.axes[0].lines}
    assert len(looks) == count, "every model has its own colour and marker"
    assert figures.score_curves(ranking(**scores)) is None
    assert figures.as_data_uri(curves).startswith("data:image/png;base64,")


def test_sweep_figure_tells_every_model_and_setting_apart(tmp_path):
    rows = [(f"m{m}", b, i, b * m, 1.0 + m) for m in range(12) for b in (1, 64, 4096) for i in (100, 500)]
    frame = pd.DataFrame(rows, columns=["model", "batch_size", "iterations", "score", "seconds"])
    figure = figures.sweep_lines(frame, "batch_size", "iterations", ("score", "seconds"))
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}) == len(lines) == 24
    assert {path.suffix for path in figures.save(figure, tmp_path / "s")} == {".png", ".svg"}


def test_candidate_reads_backbone_and_extraction():
    from itm.core.features import Features
    from itm.extraction.extract import Extraction
    from itm.extraction.store import FeatureKey
    from itm.models.backbone import load_backbone

    backbone = load_backbone("resnet10t", image_size=32)
    key = FeatureKey("resnet10t", "0", "resize 32", "gap", "32", "f1")
    done = Extraction(Features(torch.zeros(2, 512), torch.tensor([0, 1])), 2.0, 1.0, True, key, torch.arange(2))
    found = Candidate.from_backbone(backbone, done)
    assert (found.dim, found.input_size, found.cached) == (512, 32, True)
