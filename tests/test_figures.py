"""Figures show whose line it is, how sure it is, and what the axes mean."""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from rankings import ranking

from itm.metrics.uncertainty import chance
from itm.report import figures
from itm.report.figures.style import COLOURS, WORDS, line_styles


def swept(models: str = "ab", **more: float) -> pd.DataFrame:
    rows = [{"model": m, "eta": e, "score": 0.1 * i, "std": 0.02} for i, m in enumerate(models) for e in (0.01, 0.1, 1)]
    return pd.DataFrame(rows).assign(scorer="itm", **more)


def colours(figure: figures.Figure) -> dict[str, object]:
    legend = figure.axes[-1].get_legend()
    return {t.get_text(): h.get_color() for t, h in zip(legend.get_texts(), legend.legend_handles, strict=True)}


def test_a_model_keeps_its_colour_whatever_its_place():
    first = figures.sweep_lines(swept("abc"), "eta", None, ["score"])
    last = figures.sweep_lines(swept("cab"), "eta", None, ["score"])
    assert colours(first) == colours(last)
    assert len(set(colours(first).values())) == 3


def test_colours_and_markers_tell_35_names_apart():
    found = line_styles(f"{i:02}" for i in range(35))
    assert len({(look["color"], look["marker"]) for look in found.values()}) == 35
    assert {look["color"] for look in found.values()} == set(COLOURS)


def test_lines_show_the_spread_over_seeds_and_say_so():
    figure = figures.sweep_lines(swept(), "eta", None, ["score", "eta_lambda_max"][:1], "a title")
    (axes,) = figure.axes
    assert len(axes.collections) == 2, "a band for each model"
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert np.ptp(heights) == pytest.approx(0.04)
    assert axes.get_ylabel() == "itm score, held-out accuracy\n(mean ± std over seeds)"
    assert axes.get_xlabel() == WORDS["eta"]
    assert figure.get_suptitle() == "a title"
    assert not figures.sweep_lines(swept().assign(std=math.nan), "eta", None, ["score"]).axes[0].collections


@pytest.mark.parametrize("draw", [figures.sweep_lines, figures.sweep_dots])
def test_the_limit_of_stability_is_marked_where_it_matters(draw):
    frame = swept(eta_lambda_max=0.3)
    stable, score = draw(frame, "eta", None, ["eta_lambda_max", "score"]).axes
    marked = [{*map(float, (*line.get_xdata(), *line.get_ydata()))} for line in stable.lines if line.get_ls() == "--"]
    assert marked == [{0.0, 1.0, 2.0}]
    assert not [line for line in score.lines if line.get_ls() == "--"]


@pytest.mark.parametrize("span", [30, 1e5])
def test_ticks_of_a_logarithmic_axis_do_not_run_into_each_other(span):
    frame = swept().assign(eta_lambda_max=np.geomspace(0.001, 0.001 * span, 6))
    axes = figures.sweep_dots(frame, "eta", None, ["score", "eta_lambda_max"]).axes[1]
    low, high = axes.get_xlim()
    shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 2 <= len(shown) <= 8


def test_a_setting_that_should_not_matter_has_its_values_their_mean_and_deviation():
    frame = pd.DataFrame({"model": ["a"] * 3, "seed": [0, 1, 2], "score": [0.1, 0.2, 0.3], "scorer": "itm"})
    (axes,) = figures.sweep_spread(frame, "seed", None, ["score"]).axes
    assert sorted(axes.lines[0].get_xdata()) == [0.1, 0.2, 0.3]
    ((low, _), (high, _)) = axes.collections[0].get_segments()[0]
    assert (low, high) == pytest.approx((0.1, 0.3)), "mean 0.2 and deviation 0.1"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a seed", "mean ± std"]


def test_scores_below_zero_are_dots_for_the_longest_bar_would_be_the_worst():
    assert len(figures.score_bars(ranking(a=(1.0,), b=(0.5,))).axes[0].patches) == 2
    axes = figures.score_bars(ranking(a=(-1.0,), b=(-9.0,))).axes[0]
    assert not axes.patches
    assert sorted(axes.lines[0].get_xdata()) == [-9, -1]


def test_scorers_that_ranked_fewer_models_are_marked_and_a_random_order_is_drawn():
    table = pd.DataFrame(
        {"digits": [0.5, 0.5], "elpv": [0.5, 0.1], "mean": [0.5, 0.3], "models": [5, 3]}, ["itm", "nce"]
    )
    (axes,) = figures.benchmark_dots(table, chance=0.44).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["itm", "nce (3 models)"]
    assert any("0 ± 0.44" in text.get_text() for text in axes.get_legend().get_texts())
    places = [float(line.get_ydata()[0]) for line in axes.lines[:2]]
    assert places[0] != places[1], "equal values of two datasets do not hide each other"


def test_a_random_order_is_as_far_from_zero_as_all_orders_are():
    assert chance(range(3)) == pytest.approx(chance(range(3), orders=5), rel=0.9)
    assert chance(range(5)) == pytest.approx(0.4416, abs=1e-4), "of all 120 orders"
    assert chance(range(8), orders=4_000) < chance(range(5))


def test_classes_are_told_apart_with_any_colour_vision():
    points, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 10
    table = pd.DataFrame({"data": "d", "model": "m", "iteration": [1, 5, 10], "accuracy": 0.5})
    figure = figures.evolution_planes(table, {("m", i): (points, y) for i in (1, 5, 10)})
    seen = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(seen) == 10
    assert {colour for colour, _ in seen} <= set(COLOURS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"class {k}" for k in range(10)]


def test_figures_leave_matplotlib_s_own_style_alone():
    before = dict(mpl.rcParams)
    figures.sweep_dots(swept(), "eta", None, ["score"])
    assert dict(mpl.rcParams) == before


def test_a_script_that_the_font_lacks_does_not_flood_the_console(tmp_path, recwarn):
    figure = figures.sweep_lines(swept("๑๒"), "eta", None, ["score"])
    figures.save(figure, tmp_path / "thai")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
