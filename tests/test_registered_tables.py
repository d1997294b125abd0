"""Tables of a registered benchmark on rankings by hand, and the experiments that write them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import weightedtau

from itm.core.errors import DataError
from itm.evaluation.registered import COMBINATIONS, by_images, by_part, too_noisy, truth_noise
from itm.models.backbone import UNTRAINED

MODELS = "abcdefghijkl"
PARTS = {"one": "published", "two": "choosing", "three": "judging", "four": "judging", "five": "choosing"}


@pytest.fixture
def rankings() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = []
    for dataset in ("one", "two", "three", "four"):
        truth = rng.permutation(len(MODELS)) * 2.0
        for scorer in ("itm", "logme", "regularized_hscore"):
            values = truth + rng.normal(0, 8, len(MODELS))
            for place, model in enumerate(MODELS):
                facts = {"dataset": dataset, "scorer": scorer, "model": model, "parameters": place + 1.0}
                rows.append({**facts, "score": values[place], "true_accuracy": truth[place]})
    return pd.DataFrame(rows)


def tau(rankings: pd.DataFrame, scorer: str, dataset: str, models: str = MODELS) -> float:
    rows = rankings[(rankings["scorer"] == scorer) & (rankings["dataset"] == dataset)]
    rows = rows[rows["model"].isin(list(models))]
    return weightedtau(rows["true_accuracy"], rows["score"])[0]


def test_each_part_has_a_table_without_and_with_the_controls(rankings):
    table = by_part(rankings, PARTS, {"one": 1.0}, ["k", "l"], samples=40)
    cells = table.groupby(["part", "controls"])[["datasets", "models"]].max()
    assert cells.loc[("judging", "out")].tolist() == [2, 10]
    assert cells.loc[("all", "in")].tolist() == [4, 12]
    assert cells.loc[("choosing", "in")].tolist() == [1, 12]
    row = table[(table["part"] == "judging") & (table["controls"] == "out")].set_index("scorer").loc["logme"]
    expected = np.mean([tau(rankings, "logme", name, MODELS[:10]) for name in ("three", "four")])
    assert row["mean"] == pytest.approx(expected)
    assert np.isnan(row["one"])
    assert set(COMBINATIONS) < set(table["scorer"])


def test_the_prior_of_a_part_knows_the_datasets_of_the_other_parts(rankings):
    table = by_part(rankings, PARTS, {}, [], samples=20).set_index(["part", "controls", "scorer"])
    prior = "mean rank elsewhere (prior)"
    assert table.loc[("judging", "in", prior), "three"] == table.loc[("all", "in", prior), "three"]


def test_the_noise_of_a_true_accuracy_is_that_of_a_mean_over_seeds(tmp_path):
    settings = {"dataset": "one", "model": "a", "adaptation": "full", "protocol": "p", "comparable": "c"}
    trials = [{**settings, "lr": 0.1, "weight_decay": 0.0, "seed": seed, "accuracy": 50.0 + seed} for seed in range(3)]
    pd.DataFrame(trials).to_csv(tmp_path / "truth_cells.csv", index=False)
    assert truth_noise(tmp_path / "truth.csv") == pytest.approx({"one": 1 / np.sqrt(3)})
    with pytest.raises(DataError, match=r"none_cells.csv: cannot be read"):
        truth_noise(tmp_path / "none.csv")


def test_a_dataset_whose_models_differ_by_less_than_five_times_the_noise_is_named(tmp_path):
    """Three seeds at -1, 0 and 1 around each mean: a noise of 1. The control's accuracy does not count."""
    rows = []
    for dataset, means in (("wide", {"a": 50, "b": 56, "c": 10}), ("narrow", {"a": 50, "b": 54, "c": 10})):
        for model, mean in means.items():
            facts = {"dataset": dataset, "model": model, "adaptation": "full", "protocol": "p", "comparable": "c"}
            facts |= {"lr": 0.1, "weight_decay": 0.0}
            rows += [{**facts, "seed": seed, "accuracy": mean + seed - 1.0} for seed in range(3)]
    pd.DataFrame(rows).to_csv(tmp_path / "truth_cells.csv", index=False)
    assert too_noisy(tmp_path / "truth.csv", ["c"]) == pytest.approx({"narrow": 4.0})
    assert too_noisy(tmp_path / "truth.csv", []) == {}


def test_the_curve_has_a_row_per_score_and_number_of_images(rankings):
    fewer = rankings.assign(limit=50, score=-rankings["score"])
    table = by_images(pd.concat([rankings.assign(limit=100), fewer])).set_index(["scorer", "images"])
    assert len(table) == 6
    assert table.loc[("itm", 100), "two"] == pytest.approx(tau(rankings, "itm", "two"))
    expected = np.mean([tau(fewer, "logme", name) for name in ("one", "two", "three", "four")])
    assert table.loc[("logme", 50), "mean"] == pytest.approx(expected)
    assert table["datasets"].eq(4).all()
    first = table.xs(100, level="images")["mean"]
    assert table.index[0][0] == first.idxmax()


def small(truth) -> list[str]:
    zoo = ["zoo=miniature_controls", "+zoo.c={model: test_mambaout, image_size: 32}"]
    data = ["jobs=1", "trainer.workers=0", "data.name=digits", f"groundtruth={truth}"]
    return [*data, *zoo, "scorer=[itm,logme]", "scorer.itm.iterations=2", "seeds=1", "tracking=none"]


@pytest.fixture
def truth(tmp_path):
    file = tmp_path / "truth.csv"
    file.write_text("model,digits\nresnet10_random,90\nvit_random,80\nc,70\n", encoding="utf-8")
    settings = {"dataset": "digits", "adaptation": "full", "protocol": "p", "comparable": "c", "lr": 0.1}
    rows = []
    for model, mean in (("a", 89.0), ("b", 60.0)):
        rows += [{**settings, "model": model, "weight_decay": 0.0, "seed": s, "accuracy": mean + s} for s in range(3)]
    pd.DataFrame(rows).to_csv(tmp_path / "truth_cells.csv", index=False)
    return file


@pytest.mark.slow
def test_the_experiment_writes_one_table_of_all_parts(run, truth):
    out = run("+experiment=registered", *small(truth), "data.limit=30")
    table = pd.read_csv(out / "registered.csv")
    assert set(table["part"]) == {"choosing", "all"}
    assert {"itm", "logme", "parameters (prior)"} <= set(table["scorer"])
    rankings = pd.read_csv(out / "registered_rankings.csv")
    assert set(rankings["pretraining"]) == {UNTRAINED}, "all three models are controls"


@pytest.mark.slow
def test_the_curve_is_an_experiment(run, truth):
    out = run("+experiment=images_needed", *small(truth), "data.limit=20,30")
    table = pd.read_csv(out / "images_needed.csv")
    assert table.groupby("scorer")["images"].apply(list).to_dict() == {"itm": [20, 30], "logme": [20, 30]}
    assert (out / "images_needed.png").stat().st_size > 1000
