"""The table of choosing by source tasks, and whether conductance distinguishes tasks, on cases with known answers."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from experiments.vlm_miniature.pool import agreement, ranges
from itm.cli.transfer import replace_table
from itm.core.errors import SettingError
from itm.core.features import Features
from itm.data.image_set import default_root
from itm.evaluation.transfer import identified, ndcg_of_ranks, transfer_table, verdict
from itm.evaluation.truth import find_truth
from itm.groundtruth.protocol import UNTUNED

ROOT = Path(__file__).parents[1]
MODELS = ["vit8_both", "vit8_icons", "vit8_glyphs"]


def ranking(scorer, dataset, truth, scores):
    models = [f"m{number}" for number in range(len(truth))]
    return pd.DataFrame(
        {"scorer": scorer, "dataset": dataset, "model": models, "score": scores, "true_accuracy": truth, "seconds": 0.0}
    )


@pytest.fixture
def rankings():
    rng = np.random.default_rng(0)
    frames = []
    for dataset in "ab":
        truth = rng.permutation(12).astype(float)
        frames += [
            ranking("dcd", dataset, truth, truth),
            ranking("mean_rank_elsewhere", dataset, truth, truth + rng.normal(scale=3, size=12)),
            ranking("reversed", dataset, truth, -truth),
        ]
    return pd.concat(frames, ignore_index=True)


def test_the_right_order_has_all_statistics_at_their_best(rankings):
    table = transfer_table(rankings, "mean_rank_elsewhere")
    best = table.loc["dcd"]
    assert list(table.index) == ["dcd", "mean_rank_elsewhere", "reversed"]
    assert best[["tau_w (scipy)", "low", "high", "Kendall tau", "NDCG@5", "recall@5"]].tolist() == [1.0] * 6
    assert best["regret"] == 0
    assert best["wins"] == 1
    assert best["gain low"] > 0
    assert table.loc["mean_rank_elsewhere", ["gain", "gain low", "gain high", "wins"]].tolist() == [0, 0, 0, 0.5]
    assert table.loc["reversed", "Kendall tau"] == -1
    assert table.loc["reversed", "regret"] == 11


def test_few_models_have_no_intervals(rankings):
    few = rankings[rankings["model"].isin(["m0", "m1", "m2"])]
    table = transfer_table(few, "mean_rank_elsewhere")
    assert table[["low", "high", "gain low", "gain high"]].isna().all(axis=None)
    assert table["gain"].notna().all()


def test_ndcg_has_the_gain_of_the_rank():
    # places: 2nd, 1st, then 6th, 5th, 4th of six; gains 6 - rank
    truth, score = np.array([[50.0, 60, 40, 30, 20, 10]]), np.array([[6.0, 5, 1, 2, 3, 4]])
    found = 4 / math.log2(2) + 5 / math.log2(3) + 0 / math.log2(4) + 1 / math.log2(5) + 2 / math.log2(6)
    ideal = sum(gain / math.log2(place + 2) for place, gain in enumerate([5, 4, 3, 2, 1]))
    assert ndcg_of_ranks(truth, score) == pytest.approx(found / ideal)


def profiles(*means, spread=0.01, images=32):
    generator = torch.Generator().manual_seed(0)
    tasks = {}
    for number, mean in enumerate(means):
        rows = torch.tensor(mean) * (1 + spread * torch.randn(images, len(mean), generator=generator))
        tasks[f"task{number}"] = {"model": Features(rows, torch.zeros(images, dtype=torch.int64))}
    return tasks


def test_tasks_with_profiles_of_their_own_are_found_again_and_equal_ones_by_chance():
    apart = identified(profiles([1.0, 2, 3], [3.0, 2, 1], [2.0, 5, 2]))
    assert apart.loc["model"].tolist() == pytest.approx([1, 1, 1 / 3])
    equal = identified(profiles(*[[1.0, 2, 3]] * 20, spread=0.3))
    assert equal.loc["model", "share"] < 0.2  # 1/20 by chance


def test_the_verdict_says_whether_dcd_reduces_to_its_control(rankings):
    table = transfer_table(rankings, "mean_rank_elsewhere")
    tasks = identified(profiles([1.0, 2, 3], [3.0, 2, 1], [2.0, 5, 2]))
    gained = verdict(table, ["dcd"], "mean_rank_elsewhere", tasks)
    assert "100% of cases by share" in gained[0]
    assert "conductance distinguishes tasks" in gained[0]
    assert "Regret of the readings: 0.00 to 0.00 points" in gained[2]
    lost = verdict(table, ["reversed"], "mean_rank_elsewhere", tasks)
    assert "below zero for 1 of them" in lost[1]
    assert lost[2].startswith("DCD therefore reduces to mean_rank_elsewhere here")


def test_the_part_of_a_page_between_its_marks_is_replaced(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        replace_table(page, "new\n")
        assert page.read_text() == "before\n<!-- table -->\n\nnew\n\n<!-- end -->\nafter\n"
    page.write_text("no marks")
    with pytest.raises(SettingError, match=r"README.md: expected a page with <!-- table -->"):
        replace_table(page, "new")


def test_zero_shot_accuracies_are_described_without_settings_of_a_training():
    truth = find_truth(str(ROOT / "experiments/groundtruth/vlm_miniature.csv"), "numix_words", MODELS, ROOT)
    assert truth.protocol == "adaptation zero_shot"
    assert truth.selection == UNTUNED
    assert len(truth.accuracy) == 12


def test_the_pool_of_the_miniature_is_informative():
    cells = pd.read_csv(ROOT / "experiments/groundtruth/vlm_miniature_cells.csv")
    facts = ranges(cells)
    named = OmegaConf.load(ROOT / "configs/experiment/vlm_table.yaml")
    chosen = list(facts.index[facts["informative"]])
    assert len(chosen) >= 6
    assert list(named.sources) == chosen == named.hydra.sweeper.params["data.name"].split(",")
    assert min(agreement(cells, chosen).values()) < 0.5  # rankings differ
    share = facts.loc["numix_words"]
    assert share["noise"] == pytest.approx(100 * math.sqrt(0.360526 * 0.639474 / 380), rel=1e-3)


def test_the_page_of_the_miniature_has_the_table_of_its_results():
    folder = ROOT / "experiments/vlm_miniature"
    table = (folder / "results/vlm_table.md").read_text(encoding="utf-8").removeprefix("# ")
    assert f"<!-- table -->\n\n{table}\n<!-- end -->" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.vlm
def test_the_table_is_written_by_one_command(tmp_path):
    words = [
        *(
            "+experiment=vlm_table",
            "tracking=none",
            "jobs=1",
            "trainer.workers=0",
            f"hydra.sweep.dir={tmp_path / 'out'}",
        ),
        *("data.name=greek_letters,cyrillic_letters", "models=[vit8_both,vit8_glyphs,vit8_icons]", "scorer=[dcd]"),
        f"store={tmp_path / 'store'}",
    ]
    if not list((default_root() / "miniature").glob("greek_letters-*")):
        pytest.skip("the targets are not drawn here")
    run = subprocess.run([sys.executable, "estimate.py", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    table = pd.read_csv(tmp_path / "out" / "vlm_table.csv", index_col="scorer")
    assert set(table.index) == {"dcd", "mean_rank_elsewhere", "zero_shot_few", "parameters (prior)"}
    tasks = pd.read_csv(tmp_path / "out" / "vlm_table_tasks.csv", index_col="model")
    assert list(tasks.index) == ["vit8_both", "vit8_glyphs", "vit8_icons"]
    assert (tasks["chance"] == 0.5).all()
