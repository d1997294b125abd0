"""The published tables, tables of one's own, and the shipped analyses."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from scipy import stats

from itm.core.errors import DataError, SettingError
from itm.evaluation import paper
from itm.evaluation.priors import mean_rank_elsewhere
from itm.groundtruth import __main__ as groundtruth_command
from itm.groundtruth import tables as groundtruth
from itm.groundtruth.tables import PAPER10, PAPER_CNNS, load, missing_cells, parameters, reported

REPORTED = {
    "table1_weighted_tau": (8, 11),
    "table1_seconds": (8, 11),
    "table2_loss_ablation": (3, 11),
    "table3_segmentation": (4, 6),
    "table4_wz_cosine": (9, 9),
    "table8_kendall": (7, 11),
    "table8_spearman": (7, 11),
    "table9_cnn_weighted_tau": (8, 11),
}


def test_the_papers_table_is_whole() -> None:
    table = load("paper")
    assert table.shape == (20, 11)
    assert (table.index.name, table.columns.name) == ("model", "dataset")
    assert missing_cells(table) == []
    assert set(groundtruth.PAPER_COLUMN.values()) == set(table.columns)
    assert set(parameters().index) == set(table.index)
    assert table.dtypes.eq("float64").all()
    assert float(table.to_numpy().sum()) == pytest.approx(18833.62, abs=0.005)  # checksum of the 220 numbers


@pytest.mark.parametrize("name", REPORTED)
def test_reported_tables(name: str) -> None:
    table = reported(name)
    assert table.shape == REPORTED[name]
    if "Avg" in table:  # printed to two or three decimals, from unrounded values
        np.testing.assert_allclose(table.drop(columns="Avg").mean(axis=1), table["Avg"], rtol=2e-3, atol=0.0101)


def test_misspelt_names_are_told() -> None:
    with pytest.raises(SettingError, match=r"table=table1_tau: not known\. Did you mean"):
        reported("table1_tau")
    with pytest.raises(SettingError, match=r"groundtruth=papr: not known\. Did you mean 'paper'"):
        load("papr")
    with pytest.raises(SettingError, match=r"groundtruth=no/such.csv: no such file"):
        load("no/such.csv")


def test_own_table_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "my zoo é.csv"
    path.write_text("\ufeffmodel, pets ,DTD\nResNet-50,93.5,\nmine,0,100\n\n", encoding="utf-8")
    table = load(path)
    assert missing_cells(table) == [("ResNet-50", "DTD")]
    assert table.loc["mine"].tolist() == [0.0, 100.0]
    table.to_csv(tmp_path / "again.csv")
    pd.testing.assert_frame_equal(load(tmp_path / "again.csv"), table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected model,<dataset>"),
        ("name,Pets\na,90\n", "line 1: expected model,<dataset>,.*found 'name,Pets'"),
        ("model;Pets\na;90\n", "line 1: expected model,<dataset>"),
        ("model,Pets,Pets\na,90,91\n", "line 1: .*each name once"),
        ("model,Pets\n", "no accuracy is above 1"),
        ("model,Pets\na,0.93\nb,0.91\n", "no accuracy is above 1; expected percent"),
        ("model,Pets,Cars\na,90,80\nb,91\n", r"line 3 \(b\): expected 3 columns, found 2"),
        ("model,Pets\na,90\na,91\n", "line 3: expected a model not listed above, found 'a'"),
        ("model,Pets\n,90\n", "line 2: expected a model"),
        ("model,Pets,Cars\na,90,80\nb,91,9O\n", r"line 3 \(b\), column Cars: expected a percentage.*found '9O'"),
        ("model,Pets\na,100.5\n", r"line 2 \(a\), column Pets: expected a percentage from 0 to 100.*'100.5'"),
        ("model,Pets\na,-1\n", "column Pets"),
        ("model,Pets\na,nan\n", "column Pets.*nothing where missing; found 'nan'"),
    ],
)
def test_a_bad_table_is_named_to_the_cell(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(b"model,Pets\n\xff\xfe\x00,90\n")
    with pytest.raises(DataError, match="cannot be read as CSV in UTF-8"):
        load(path)


def test_missing_cells_are_named_model_by_model() -> None:
    table = pd.DataFrame({"a": [1.0, np.nan], "b": [np.nan, np.nan]}, index=["x", "y"])
    assert missing_cells(table) == [("x", "b"), ("y", "a"), ("y", "b")]


@pytest.mark.parametrize(
    ("model", "architecture", "classes"),
    [
        ("ResNet-34", "resnet34", 1000),
        ("InceptionV3", "inception_v3", 1000),
        ("MobileNetv2", "mobilenetv2_100", 1000),
        ("DINO-S8", "vit_small_patch8_224", 0),
    ],
)
def test_parameters_are_those_of_the_architecture(model: str, architecture: str, classes: int) -> None:
    with torch.device("meta"):
        network = timm.create_model(architecture, num_classes=classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters()[model]


def test_the_paper_s_pools_are_those_that_its_text_names() -> None:
    text = "ResNet-18 MobileNetv2 EfficientNet-B0 DenseNet-121 DINO-S8 DINO-B16 MoCov3-B16 MAE-B16 MAE-L16 SimMIM-B16"
    assert set(PAPER10) == set(text.split())
    assert len(set(PAPER_CNNS)) == 12
    assert set(PAPER10) | set(PAPER_CNNS) == set(load("paper").index)


@pytest.mark.parametrize(("definition", "means"), [("scipy", (0.65, 0.49)), ("paper", (0.57, 0.37))])
def test_priors_do_as_well_as_published_scores(definition: str, means: tuple[float, float]) -> None:
    """On the paper's ten models, against ITM's published 0.61."""
    table = load("paper").drop(columns="VOC").loc[list(PAPER10)]
    taus = paper.prior_taus(table, definition)
    assert taus.mean().round(2).to_dict() == {"mean rank elsewhere": means[0], "parameters": means[1]}
    table.loc["MAE-L16", "Pets"] = np.nan
    with pytest.raises(SettingError, match="MAE-L16 has no accuracy on Pets"):
        paper.prior_taus(table)


def test_priors_of_each_dataset_match_scipy() -> None:
    table = load("paper").drop(columns="VOC").loc[list(PAPER10)]
    taus = paper.prior_taus(table)
    for dataset in table.columns:
        elsewhere = [mean_rank_elsewhere(table, dataset)[model] for model in table.index]
        for prior, score in (("mean rank elsewhere", elsewhere), ("parameters", parameters()[table.index])):
            assert taus.loc[dataset, prior] == pytest.approx(stats.weightedtau(table[dataset], score)[0]), dataset


def test_the_parameter_prior_rises_where_pairs_of_equal_size_are_left_out() -> None:
    """README's 0.44: three transformers share a size, and the printed formula counts such pairs as not predicted."""
    table, size = load("paper").drop(columns="VOC").loc[list(PAPER10)], parameters()
    taus = []
    for dataset in table.columns:
        rank = table[dataset].rank(ascending=False)
        pairs = [(a, b) for a, b in combinations(PAPER10, 2) if size[a] != size[b]]
        weights = np.array([1 / (rank[a] + rank[b]) for a, b in pairs])
        signs = np.array([np.sign((rank[b] - rank[a]) * (size[a] - size[b])) for a, b in pairs])
        taus.append(weights @ signs / weights.sum())
    assert round(float(np.mean(taus)), 2) == 0.44


def test_no_definition_gives_the_reported_segmentation_taus() -> None:
    """A finding kept: the printed accuracies and scores do not lead to the printed 0.61 and 0.72."""
    taus = paper.segmentation_taus()
    assert taus.round(3).to_dict("index") == {
        "CamVid": {"scipy": 0.566, "paper": 0.446, "reported": 0.61},
        "Cityscapes": {"scipy": 0.657, "paper": 0.588, "reported": 0.72},
    }


def test_the_command_prints_the_analyses(capsys: pytest.CaptureFixture[str]) -> None:
    paper.main(["priors"])
    paper.main(["segmentation"])
    words = capsys.readouterr().out.split()
    assert {"0.646", "0.493", "0.610", "0.450", "0.566", "0.588"} <= set(words)


@pytest.mark.parametrize("command", [paper.main, groundtruth_command.main])
def test_the_commands_refuse_a_misspelt_word(
    command: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(["prior"])
    assert "invalid choice: 'prior'" in capsys.readouterr().err
