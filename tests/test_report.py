"""A run's findings as words, tables, pages and figures."""

from __future__ import annotations

import io
import json
import math
import re

import pandas as pd
import pytest
import torch
from rankings import candidate, ranking
from rich.console import Console

from itm.data.image_set import load_images
from itm.report import figures
from itm.report.console import scores_tables
from itm.report.report import Candidate, Report, agreement, verdict
from itm.scorers import ITM, LogME


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ({"a": (0.9, 0.92), "b": (0.5, 0.52)}, "a leads b by 0.4, 28.3 times the spread over seeds: a clear lead"),
        ({"a": (0.5, 0.7), "b": (0.5, 0.6)}, "a leads b by 0.05, 0.4 times the spread over seeds: too close to call"),
        ({"a": (0.9,), "b": (0.5,)}, "a leads b by 0.4."),
        ({"a": (0.9,)}, "one model only"),
        ({"a": (0.5, 0.6), "b": (0.5, 0.6)}, "a and b share the first place."),
        ({"a": (0.5,), "b": (0.5,), "c": (0.5,), "d": (0.4,)}, "a, b and c share the first place."),
    ],
)
def test_verdict_measures_the_lead_against_the_spread(runs, words):
    assert words in verdict(ranking(**runs))


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
    models = {"a": candidate(), "b": candidate(skipped=("x.png: damaged",), source_accuracy=75.1)}
    left_out = {"leep": "a: no source logits"}
    return Report(load_images(image_folder), rankings, models, {"c<i>": "zoo.c[1]: no file"}, left_out, {"seed": 0})


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
    assert content["left_out"] == {"leep": "a: no source logits"}
    assert content["models"]["b"]["skipped"] == ["x.png: damaged"]
    page = html.read_text("utf-8")
    assert "c&lt;i&gt;" in page
    assert "c<i>" not in page
    assert "no source logits" in page
    assert page.count("the best value of a curve") == 1, "only one of the two scorers has curves"
    assert page.count("<th>± std</th>") == 1, "one seed has no deviation"


def test_console_shows_names_and_reasons_as_they_are(report):
    console = Console(record=True, width=110, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    report.show(console)
    text = console.export_text()
    assert "no score c<i>: zoo.c[1]: no file" in text
    assert "no score z (itm): not finite" in text
    assert "no score scorer leep: a: no source logits" in text
    assert "1 image(s) could not be read" in text
    assert "tau with itm" in text


@pytest.mark.parametrize(("width", "parts"), [(80, 5), (120, 3), (250, 1)])
def test_many_models_stand_in_tables_that_fit(width, parts):
    names = [f"mobilenetv{i:02}" for i in range(14)]
    rankings = [ranking(scorer, **{name: (-i / 1e5,) for i, name in enumerate(names)}) for scorer in (ITM(), LogME())]
    candidates = dict.fromkeys(names, candidate())
    console = Console(width=width, record=True, file=io.StringIO())
    found = list(scores_tables(rankings, candidates, "digits", agreement(rankings)["itm"], {}, width))
    console.print(*found)
    text = console.export_text()
    assert len(found) == text.count("logme ") == parts
    assert [int(place) for row in re.findall("logme .*", text) for place in re.findall(r"\((\d+)\)", row)] == [
        *range(1, 15)
    ]
    assert all(f" {name} " in text for name in names)


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


def test_candidate_of_reads_backbone_and_extraction():
    from itm.core.features import Features
    from itm.extraction.extract import Extraction
    from itm.models.backbone import load_backbone

    backbone = load_backbone("resnet10t", image_size=32)
    done = Extraction(Features(torch.zeros(2, 512), torch.tensor([0, 1])), 2.0, 1.0, True)
    found = Candidate.of(backbone, done)
    assert (found.dim, found.input_size, found.cached) == (512, 32, True)
