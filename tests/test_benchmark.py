"""Tables of scorers over datasets, against cases worked by hand and scipy."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy.stats import kendalltau, weightedtau

from itm.cli.multirun import Standings
from itm.core.errors import SettingError
from itm.evaluation.benchmark import (
    METRICS,
    benchmark,
    by_dataset,
    by_metric,
    stability,
    statistics,
    subset_taus,
    with_priors,
)
from itm.report import figures

TRUTH = {"a": 90.0, "b": 80.0, "c": 70.0, "d": 60.0, "e": 50.0}
PARAMETERS = dict(zip(TRUTH, (1, 2, 3, 4, 5), strict=True))
SCORES = {
    ("digits", "itm"): (5, 4, 3, 2, 1),
    ("digits", "logme"): (1, 2, 3, 4, 5),
    ("elpv", "itm"): (5, 4, 3, 1, 2),
    ("elpv", "logme"): (4, 5, 3, 2, 1),
}


@pytest.fixture
def rankings() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"dataset": data, "scorer": scorer, "model": m, "score": s, "true_accuracy": TRUTH[m], "seconds": 1.0}
            | {"parameters": PARAMETERS[m]}
            for (data, scorer), scores in SCORES.items()
            for m, s in zip(TRUTH, scores, strict=True)
        ]
    )


@pytest.fixture
def comparisons() -> pd.DataFrame:
    rows = [
        ("digits", "logme", False, 0.2),
        ("digits", "itm", False, 0.9),
        ("digits", "parameters", True, 1.0),
        ("elpv", "itm", False, 0.5),
        ("elpv", "logme", False, 0.4),
        ("elpv", "lead", False, 1.0),
        ("elpv", "parameters", True, 0.8),
    ]
    return pd.DataFrame(rows, columns=["dataset", "scorer", "prior", "tau_w"]).assign(models=5)


def test_a_row_per_scorer_by_its_mean_and_priors_below(comparisons, rankings):
    table = by_dataset(comparisons, rankings)
    assert list(table.index) == ["itm", "logme", "lead", "parameters (prior)"]
    assert list(table.columns) == ["digits", "elpv", "mean", "models", "seconds"]
    assert table.loc["itm"].tolist() == [0.9, 0.5, pytest.approx(0.7), 5, 10.0]
    assert math.isnan(table.loc["lead", "mean"]), "a mean over fewer datasets could not be set beside the others"
    assert math.isnan(table.loc["parameters (prior)", "seconds"])


def test_every_statistic_is_averaged_over_the_datasets(rankings):
    table = by_metric(rankings)
    truth = list(TRUTH.values())
    for scorer in ("itm", "logme"):
        pairs = [SCORES[data, scorer] for data in ("digits", "elpv")]
        assert table.loc[scorer, "tau_w (scipy)"] == pytest.approx(np.mean([weightedtau(truth, s)[0] for s in pairs]))
        assert table.loc[scorer, "Kendall tau"] == pytest.approx(np.mean([kendalltau(truth, s)[0] for s in pairs]))
    assert table.loc["itm", ["recall@1", "regret", "models"]].tolist() == [1.0, 0.0, 5]
    assert table.loc["logme", "regret"] == pytest.approx((40 + 10) / 2)
    assert list(table.index) == ["itm", "logme"]


def test_two_models_give_no_statistic(rankings):
    few = rankings[rankings["model"].isin(["a", "b"])]
    assert by_metric(few).empty
    assert list(by_metric(few).columns) == [*METRICS, "models"]


def test_sub_pools_are_all_choices_and_datasets_are_averaged(rankings):
    values = subset_taus(rankings, 4)
    assert list(values.columns) == ["itm", "logme"]
    expected = []
    for pool in combinations(range(5), 4):
        rows = list(pool)
        truth = np.array(list(TRUTH.values()))[rows]
        taus = [weightedtau(truth, np.array(SCORES[data, "itm"])[rows])[0] for data in ("digits", "elpv")]
        expected.append(np.mean(taus))
    assert sorted(values["itm"]) == pytest.approx(sorted(expected))
    assert len(subset_taus(rankings, 10)) == 5, "a sub-pool leaves one model out at least"


def test_a_scorer_with_a_gap_is_left_out(rankings):
    gaps = rankings.copy()
    gaps.loc[(gaps["scorer"] == "logme") & (gaps["model"] == "e"), "score"] = float("nan")
    values = subset_taus(gaps, 4)
    assert list(values.columns) == ["itm"]
    assert len(values) == 5
    unknown = rankings.copy()
    unknown.loc[unknown["model"] == "e", "true_accuracy"] = float("nan")
    values = subset_taus(unknown, 3)
    assert list(values.columns) == ["itm", "logme"]
    assert len(values) == 4, "4 choices of 3 of the 4 models with a true accuracy"


def test_stability_counts_draws_half():
    values = pd.DataFrame({"itm": [0.5, 0.7, 0.9, 0.1], "logme": [0.5, 0.2, 0.3, 0.2]})
    table = stability(values, "itm")
    assert list(table.index) == ["itm", "logme"]
    assert table.loc["logme", "itm wins"] == (2 + 0.5) / 4
    assert table.loc["itm", "itm wins"] == 0.5
    assert table.loc["itm", "std"] == pytest.approx(np.std([0.5, 0.7, 0.9, 0.1], ddof=1))


def test_priors_stand_among_the_scorers(rankings):
    table = benchmark(rankings, size=4, against="itm")
    assert table.index[0] == "mean rank elsewhere (prior)", "the order is the same on both datasets"
    assert table.index[-1] == "parameters (prior)"
    assert table.loc["parameters (prior)", ["mean", "regret"]].tolist() == [-1.0, 40.0]
    assert list(table.columns[:3]) == ["digits", "elpv", "mean"]
    assert table.loc["itm", "elpv"] == pytest.approx(weightedtau([90, 80, 70, 60, 50], [5, 4, 3, 1, 2])[0])


def many(rankings: pd.DataFrame, models: int) -> pd.DataFrame:
    """The same scorers and datasets with random scores of more models."""
    rng, facts = np.random.default_rng(0), np.arange(models, dtype=float)
    rows = [
        {"dataset": data, "scorer": scorer, "model": f"m{i}", "score": facts[i] + noise[i], "true_accuracy": facts[i]}
        | {"parameters": -facts[i], "seconds": 1.0}
        for data, scorer in SCORES
        for noise in [rng.normal(scale=3 if scorer == "itm" else 9, size=models)]
        for i in range(models)
    ]
    return pd.DataFrame(rows)


def test_wins_are_those_on_the_same_subsets(rankings):
    table = benchmark(rankings, size=4, against="itm")
    assert table.loc["itm", "itm wins"] == 0.5
    assert table.loc["parameters (prior)", "itm wins"] == 1.0
    values = subset_taus(rankings, 4)
    assert table.loc["logme", "itm wins"] == np.mean(values["itm"] > values["logme"])


def test_gains_are_those_of_the_same_models(rankings):
    table = benchmark(many(rankings, 10), size=9, against="itm")
    assert table.loc["itm", ["gain low", "gain high"]].tolist() == [0.0, 0.0]
    prior = table.loc["parameters (prior)"]
    assert prior[["low", "high"]].tolist() == [-1.0, -1.0]
    own = table.loc["itm"]
    assert prior[["gain low", "gain high"]].tolist() == pytest.approx([own["low"] + 1, own["high"] + 1])


def test_fewer_than_ten_models_have_no_bootstrap_interval(rankings):
    table = benchmark(rankings, size=4, against="itm")
    assert table[["low", "high", "gain low", "gain high"]].isna().all(axis=None)
    assert table.loc["itm", ["pool low", "pool high"]].notna().all()
    legend = figures.benchmark_dots(table).axes[0].get_legend()
    assert "95 % of the mean" not in [text.get_text() for text in legend.get_texts()]


def test_a_scorer_with_a_gap_has_no_interval(rankings):
    complete = many(rankings, 11)
    gaps = complete[(complete["scorer"] != "logme") | (complete["model"] != "m5")]
    table = benchmark(gaps, size=10, against="itm")
    assert table.loc["logme", "models"] == 10
    assert table.loc["logme", ["low", "high", "pool low", "itm wins", "gain low"]].isna().all()
    assert table.loc["itm", ["low", "high", "pool low"]].notna().all()


def test_a_missing_true_accuracy_leaves_the_model_out_of_the_subsets(rankings):
    unknown = rankings.copy()
    unknown.loc[(unknown["model"] == "e") & (unknown["dataset"] == "elpv"), "true_accuracy"] = float("nan")
    values = subset_taus(unknown, 3)
    assert list(values.columns) == ["itm", "logme"]
    assert len(values) == 4, "choices of 3 of the 4 models with a true accuracy on both datasets"
    table = benchmark(unknown, size=3, against="itm")
    assert table.loc["itm", ["digits", "elpv"]].tolist() == pytest.approx(
        [1.0, weightedtau([90, 80, 70, 60], [5, 4, 3, 1])[0]]
    )
    assert table.loc["logme", "itm wins"] == np.mean(values["itm"] > values["logme"])


@pytest.mark.parametrize("table", ["datasets", "metrics", "subpools", "benchmark"])
def test_a_multirun_ends_with_a_table_where_no_model_is_known_everywhere(table, tmp_path, rankings, capsys):
    unknown = rankings.copy()
    known = {"digits": {"a", "b", "c"}, "elpv": {"c", "d", "e"}}
    outside = [model not in known[data] for model, data in zip(unknown["model"], unknown["dataset"], strict=True)]
    unknown.loc[outside, "true_accuracy"] = float("nan")
    for job, (data, rows) in enumerate(unknown.groupby("dataset")):
        (tmp_path / str(job) / ".hydra").mkdir(parents=True)
        (tmp_path / str(job) / ".hydra" / "overrides.yaml").write_text(f"- data.name={data}\n")
        rows.drop(columns="dataset").assign(rank=1, std=float("nan")).to_csv(
            tmp_path / str(job) / "ranking.csv", index=False
        )
        compared = pd.DataFrame({"scorer": ["itm", "logme"], "prior": False, "tau_w": 0.5, "regret": 0.0, "models": 3})
        compared.to_csv(tmp_path / str(job) / "comparison.csv", index=False)
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}, "tracking": {}})
    Standings("main", table, size=4).on_multirun_end(config)
    assert (tmp_path / "main.csv").is_file()
    assert (tmp_path / "main.png").is_file()


@pytest.mark.parametrize("table", ["datasets", "metrics", "subpools", "benchmark"])
@pytest.mark.parametrize("radar", [False, True])
def test_a_multirun_ends_with_table_and_figure(table, radar, tmp_path, rankings, comparisons, capsys):
    for job, data in enumerate(("digits", "elpv")):
        folder = tmp_path / str(job)
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text(f"- data.name={data}\n")
        here = rankings[rankings["dataset"] == data].drop(columns="dataset").assign(rank=1, std=float("nan"))
        here.to_csv(folder / "ranking.csv", index=False)
        rows = comparisons[comparisons["dataset"] == data].drop(columns="dataset").assign(regret=0.0)
        rows.to_csv(folder / "comparison.csv", index=False)
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}, "tracking": {}})
    Standings("main", table, size=4, radar=radar).on_multirun_end(config)
    written = pd.read_csv(tmp_path / "main.csv", index_col=0)
    assert "itm" in written.index
    assert (tmp_path / "main.png").stat().st_size > 1000
    assert (tmp_path / "main.svg").is_file()
    assert "itm" in capsys.readouterr().out
    assert (tmp_path / "main_statistics.csv").is_file() == (table == "benchmark")


def test_every_statistic_of_every_dataset_is_kept(rankings):
    rows = statistics(with_priors(rankings)).set_index(["scorer", "dataset"])
    assert rows.loc[("parameters (prior)", "elpv"), "regret"] == 40
    assert rows.loc[("itm", "elpv"), "tau_w (scipy)"] == pytest.approx(
        weightedtau([90, 80, 70, 60, 50], [5, 4, 3, 1, 2])[0]
    )
    assert set(METRICS) < set(rows.columns)


def test_without_true_accuracies_it_says_what_is_missing(tmp_path, rankings, capsys):
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text("- data.name=digits\n")
    rankings.drop(columns=["true_accuracy", "dataset"]).to_csv(tmp_path / "0" / "ranking.csv", index=False)
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}, "tracking": {}})
    with pytest.raises(SystemExit) as stopped:
        Standings("main").on_multirun_end(config)
    assert stopped.value.code == 2
    assert "groundtruth=paper" in capsys.readouterr().err
    assert not (tmp_path / "main.csv").exists()


def test_figures_name_every_scorer(comparisons, rankings):
    table = by_dataset(comparisons, rankings)
    labels = [text.get_text() for text in figures.benchmark_dots(table).axes[0].get_yticklabels()]
    assert labels == list(table.index)
    legend = [text.get_text() for text in figures.radar(table).axes[0].get_legend().get_texts()]
    assert legend == list(table.index)
    panels = figures.subset_scatter(subset_taus(rankings, 4), "itm").axes
    assert [axes.get_xlabel() for axes in panels] == ["tau_w of logme"]
    assert [axes.get_title() for axes in panels] == ["itm wins 100%"]


def test_a_misspelt_scorer_to_compare_with_is_named_after_the_rankings_are_kept(tmp_path, rankings):
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text("- data.name=digits\n")
    rankings[rankings["dataset"] == "digits"].drop(columns="dataset").to_csv(
        tmp_path / "0" / "ranking.csv", index=False
    )
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}, "tracking": {}})
    with pytest.raises(SettingError, match=r"against=imt.*itm"):
        Standings("main", "benchmark", against="imt").on_multirun_end(config)
    assert (tmp_path / "main_rankings.csv").is_file()
