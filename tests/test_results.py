"""The numbers in the READMEs equal those in the result tables, and every experiment is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from itm.groundtruth import summary
from itm.groundtruth import tables as groundtruth
from itm.groundtruth.trials import TrialStore

ROOT = Path(__file__).parents[1]
README = (ROOT / "experiments" / "README.md").read_text("utf-8")
RESULTS = ROOT / "experiments" / "results"
NAMES = {path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml")}
OF_DATASETS = {"cnn_table", "main_table", "radar", "rank_metrics", "stability", "wz_similarity"}
OF_FOLDERS = {"images_needed", "miniature", "miniature_ablations", "registered", "segmentation_table", "vlm_table"}
"""Experiments whose results lie in folders of their own."""
DATASETS = ("digits", "elpv", "fashion_mnist")


def row(name: str) -> str:
    """The row of an experiment in the README's tables."""
    (found,) = (line for line in README.splitlines() if line.startswith("|") and f"| `{name}` |" in line)
    return found


def means(name: str, column: str, dataset: str, order: list[str] | None = None) -> str:
    frame = pd.read_csv(RESULTS / name / f"{dataset}.csv", keep_default_na=False, na_values=[""])
    if "shift" in frame:
        frame = frame[frame["shift"]]
    found = frame.groupby(column, sort=False)["score"].mean()
    return ", ".join(f"{value:.3f}" for value in (found if order is None else found[order]))


def test_the_readme_lists_every_experiment_once():
    rows = [line.split("|")[2].strip() for line in README.splitlines() if line.startswith("|") and "`" in line]
    assert {word.strip("`") for word in rows if word.startswith("`")} == NAMES - OF_FOLDERS
    assert set(re.findall(r"\+experiment=(\w+)", README)) <= NAMES
    assert all(f"+experiment={name}`" in README for name in OF_FOLDERS)


@pytest.mark.parametrize("name", sorted(NAMES - OF_FOLDERS))
def test_every_experiment_has_a_table_and_a_figure_and_its_command_beside_them(name):
    files = ["_".join(DATASETS)] if name in OF_DATASETS else DATASETS
    for file in files:
        assert len(pd.read_csv(RESULTS / name / f"{file}.csv"))
        assert (RESULTS / name / f"{file}.png").read_bytes().startswith(b"\x89PNG")
    commands = (RESULTS / "README.md").read_text("utf-8")
    assert re.search(rf"`{name}/.*`\+experiment={name} ", commands)


@pytest.mark.parametrize(
    ("name", "column", "order"),
    [
        ("ablation_centers", "centers", None),
        ("ablation_eta", "eta", None),
        ("ablation_fixed_n", "steps", None),
        ("ablation_heldout", "heldout", None),
        ("ablation_loss", "loss", None),
        ("ablation_scaling", "scaling", ["unit", "l2", "none", "standardize"]),
    ],
)
def test_mean_scores_equal_the_tables(name, column, order):
    assert "; ".join(means(name, column, dataset, order) for dataset in DATASETS) in row(name)


def test_weighted_taus_equal_the_table():
    table = pd.read_csv(RESULTS / "main_table" / "digits_elpv_fashion_mnist.csv", index_col="scorer")
    said = {"SFDA": "sfda", "GBC": "gbc", "TransRate": "transrate", "H-score": "hscore", "**ITM": "itm"}
    said |= {"linear probe": "linear_probe", "LogME": "logme", "kNN": "knn", "LEAD": "lead"}
    said |= {'"mean rank elsewhere"': "mean rank elsewhere (prior)"}
    for words, scorer in said.items():
        assert f"{words} {table.loc[scorer, 'mean']:.2f}" in row("main_table"), scorer
    assert f"ITM {table.loc['itm', 'seconds']:.0f} of {table['seconds'].sum():.0f} s in all" in row("main_table")


def test_the_numbers_of_the_miniature_equal_its_table():
    folder = ROOT / "experiments" / "miniature"
    text, table = (
        (folder / "README.md").read_text("utf-8"),
        pd.read_csv(folder / "results" / "miniature.csv", index_col=0),
    )
    text = text[text.index("## Result") : text.index("### Over other targets")]
    for scorer, row in table.iterrows():
        (line,) = (
            line
            for line in text.splitlines()
            if re.match(rf"\| [*`]*{re.escape(str(scorer))}[*`]*(, 8 models)? \|", line)
        )
        said = [float(word.replace("\N{MINUS SIGN}", "-")) for word in line.split("|")[2:8]]
        assert said == pytest.approx(row.iloc[:6].tolist(), abs=0.0051), scorer
    front = " ".join((ROOT / "README.md").read_text("utf-8").split())
    means = [table.loc[name, "mean"] for name in ("itm", "linear_probe", "logme", "regularized_hscore")]
    assert "{:.2f}, the probe's {:.2f}, LogME's {:.2f}, the regularised H-score's {:.2f}".format(*means) in front


def test_the_true_accuracies_of_the_miniature_follow_from_its_records():
    records = TrialStore(ROOT / "experiments" / "miniature" / "records").read_all()
    assert len(records) == len(list((ROOT / "experiments" / "miniature" / "records").glob("*/record.json")))
    best = summary.best_accuracies(summary.to_frame(records))
    for name in ("miniature", "miniature_elpv"):
        table = groundtruth.load(str(ROOT / "experiments" / "groundtruth" / f"{name}.csv"))
        found = best.reindex(index=table.index, columns=table.columns)
        pd.testing.assert_frame_equal(found, table, atol=1e-3, check_names=False)


def test_range_and_seed_noise_of_the_miniature_equal_its_trials():
    """Range of the fourteen models, seed noise and the two untrained controls, per target."""
    cells = pd.read_csv(ROOT / "experiments" / "groundtruth" / "miniature_cells.csv")
    text = (ROOT / "experiments" / "miniature" / "README.md").read_text("utf-8")
    table, controls = summary.best_accuracies(cells), ["resnet10_random", "vit_random"]
    pool, enough = table.drop(index=controls), 0
    for target, deviation in summary.noise(cells[~cells["model"].isin(controls)]).items():
        best, worst = pool[target].max(), pool[target].min()
        (line,) = re.findall(rf"^\| `{target}` \| ([\d.| ]+) \|$", text, re.MULTILINE)
        said = [float(word) for word in line.split("|")]
        assert said.pop(3) == pytest.approx((best - worst) / deviation, abs=0.51), target
        assert said == pytest.approx([best, worst, deviation, *table.loc[controls, target]], abs=0.051), target
        enough += best - worst >= 5 * deviation
    assert enough >= 4


def said(text: str, label: str) -> list[float]:
    """The numbers of the row of a table that begins with this label."""
    (line,) = re.findall(rf"^\| [*`]*{re.escape(label)}[*`]* \|(.*)\|$", text, re.MULTILINE)
    return [float(word.replace("\N{MINUS SIGN}", "-")) for word in re.findall(r"[\N{MINUS SIGN}]?\d+(?:\.\d+)?", line)]


def test_the_differences_over_targets_and_models_equal_the_table():
    folder = ROOT / "experiments" / "miniature"
    text = (folder / "README.md").read_text("utf-8")
    text = text[text.index("### Over other targets") : text.index("### Which models")]
    table = pd.read_csv(folder / "results" / "differences.csv")
    table = table[(table["part"] == "published") & (table["controls"] == "out")].set_index("scorer")
    columns = ["mean", "low", "high", "difference", "difference low", "difference high", "wins", "loses"]
    for scorer, row in table.iterrows():
        expected = row[columns[:3] if scorer == "itm" else columns].tolist()
        assert said(text, str(scorer)) == pytest.approx(expected, abs=0.0051), scorer
    shown = table[(table["difference high"] < 0) & ~table.index.str.contains(r"prior|:")]
    assert list(shown.index) == ["lead"], "the one score that ITM is shown to be ahead of"
    assert sum("(" not in name and ":" not in name for name in table.index) - 1 == 16
    front = " ".join((ROOT / "README.md").read_text("utf-8").split())
    means = [table.loc[name, "mean"] for name in ("itm", "sfda")]
    assert "weighted tau is {:.2f}, second to SFDA's {:.2f}".format(*means) in front
    for words, name in (("the regularised H-score is", "regularized_hscore"), ("minus SFDA", "sfda")):
        row = -table.loc[name, ["difference", "difference high", "difference low"]]
        numbers = [f"{value:.2f}".replace("-", "\N{MINUS SIGN}") for value in row]
        assert f"{words} {numbers[0]} (" in front
        assert "{} to {}".format(*numbers[1:]) in front


def test_the_errors_of_scores_by_family_and_width_equal_the_table():
    folder = ROOT / "experiments" / "miniature"
    text = (folder / "README.md").read_text("utf-8")
    table = pd.read_csv(folder / "results" / "rank_errors.csv")
    scorers = ["itm", "linear_probe", "knn", "logme", "regularized_hscore", "sfda"]
    for _, row in table[table["by"] != "model"].iterrows():
        found = said(text, row["group"])[-6:]  # a width is a number as well
        assert found == pytest.approx(row[scorers].tolist(), abs=0.051), row["group"]
    by_model = table[table["by"] == "model"].set_index("group")["itm"].round(1)
    assert by_model[["simmim", "densenet", "resnet10_wide"]].tolist() == [1.2, -0.9, -0.9]


def test_the_curve_over_images_equals_the_table():
    folder = ROOT / "experiments" / "miniature"
    text = (folder / "README.md").read_text("utf-8")
    text = text[text.index("### How many images") : text.index("## Registered targets")]
    table = pd.read_csv(folder / "results" / "images_needed.csv").pivot(index="scorer", columns="images", values="mean")
    assert list(table.columns) == [50, 100, 200, 400]
    for scorer, row in table.iterrows():
        assert said(text, str(scorer)) == pytest.approx(row.tolist(), abs=0.0051), scorer
