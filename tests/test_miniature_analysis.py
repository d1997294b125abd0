"""Analyses of stored rankings, on rankings by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from experiments.miniature.analysis import analyse, mean_errors, rank_errors
from itm.core.errors import SettingError

FACTS = {
    "cnn": ("miniature corpus, supervised", 256),
    "vit": ("miniature corpus, contrastive (DINO)", 160),
    "mae": ("miniature corpus, masked image modelling (MAE)", 96),
}


@pytest.fixture
def rankings() -> pd.DataFrame:
    truth = {"cnn": 90.0, "vit": 80.0, "mae": 70.0}
    scores = {"itm": {"cnn": 1.0, "vit": 3.0, "mae": 2.0}, "logme": truth}
    rows = []
    for scorer, values in scores.items():
        for place, (model, (pretraining, dim)) in enumerate(FACTS.items()):
            facts = {"dataset": "digits", "scorer": scorer, "model": model, "pretraining": pretraining, "dim": dim}
            facts |= {"parameters": place + 1.0, "score": values[model], "true_accuracy": truth[model]}
            rows.append(facts)
    return pd.DataFrame(rows)


def test_errors_are_true_places_minus_places_by_the_score(rankings):
    errors = rank_errors(rankings).set_index(["scorer", "model"])
    assert errors.loc["itm", "error"].to_dict() == {"cnn": -2, "vit": 1, "mae": 1}
    assert not errors.loc["logme", "error"].any()
    assert errors.loc["itm", "family"].to_dict() == {
        "cnn": "supervised",
        "vit": "contrastive",
        "mae": "masked image modelling",
    }
    assert errors.loc["itm", "width"].to_dict() == {
        "cnn": "above 200 wide",
        "vit": "129 to 200 wide",
        "mae": "1 to 128 wide",
    }


def test_errors_are_averaged_by_family_by_width_and_by_model(rankings):
    twice = pd.concat([rankings, rankings.assign(dataset="elpv", score=-rankings["score"])])
    means = mean_errors(rank_errors(twice)).set_index(["by", "group"])
    assert means.loc[("family", "supervised"), ["models", "itm", "logme"]].tolist() == [2, -1, -1]
    assert means.loc[("model", "mae"), "itm"] == 1
    assert list(means.loc["width"].index) == ["1 to 128 wide", "129 to 200 wide", "above 200 wide"]


def test_tables_and_figure_of_stored_rankings_are_written(rankings, tmp_path):
    rankings.to_csv(tmp_path / "rankings.csv", index=False)
    settings = {"dataset": "digits", "adaptation": "full", "protocol": "p", "comparable": "c", "lr": 0.1}
    trials = [{**settings, "model": "cnn", "weight_decay": 0.0, "seed": s, "accuracy": 89.0 + s} for s in range(3)]
    pd.DataFrame(trials).to_csv(tmp_path / "truth_cells.csv", index=False)
    page = tmp_path / "page.md"
    page.write_text("| `digits` | choosing |\n")
    table, _ = analyse(tmp_path / "rankings.csv", tmp_path / "truth.csv", page, tmp_path, samples=20)
    assert set(table["part"]) == {"choosing", "all"}
    assert table.set_index("scorer").loc["logme", "mean"].iloc[0] == 1
    assert (tmp_path / "rank_errors.png").stat().st_size > 1000
    page.write_text("| `elpv` | choosing |\n")
    with pytest.raises(SettingError, match=r"data.name=digits: not registered"):
        analyse(tmp_path / "rankings.csv", tmp_path / "truth.csv", page, tmp_path)
