"""The race: whom a round drops and why, what it costs, and that nothing is extracted twice."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
import torch

import itm
from itm.core.errors import SettingError
from itm.data.image_set import ImageSet
from itm.extraction.extract import extract
from itm.extraction.parts import GrowingSample
from itm.extraction.pool import PoolExtractor
from itm.ranking import race
from itm.ranking.race import Race, RoundScore, judge, plan
from itm.ranking.race_result import Standing

MODELS = {
    name: {"model": name, "model_args": {"img_size": 32}} if "vit" in name else {"model": name, "image_size": 32}
    for name in ("test_resnet", "test_efficientnet", "test_vit", "test_vit2")
}
FIRST = Standing(1, 100)


def image_set(counts: list[int]) -> ImageSet:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    pixels = np.zeros((len(labels), 2, 2, 3), dtype=np.uint8)
    return ImageSet("flat", "train", tuple(map(str, range(len(counts)))), labels, pixels)


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch, one_thread):
    monkeypatch.setenv("ITM_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("counts", "sizes", "said"),
    [
        ([250, 250], (100, 200, 500), ""),
        ([100] * 5, (100, 200, 500), ""),
        ([1000, 600, 400], (100, 200, 400, 800, 2000), ""),
        ([30] * 20, (200, 600), "raised to 200, 10 images for each class"),
        ([40, 50], (90,), "the first round of 100 images takes all 90; no model is dropped"),
        ([9] * 30, (270,), "270 images of 30 classes are fewer than 10 per class; no model is dropped"),
    ],
)
def test_rounds_double_from_ten_images_per_class_to_all_images(counts, sizes, said):
    found, notes = plan(image_set(counts), Race())
    assert found == sizes
    assert said in " ".join(notes)
    assert bool(notes) == bool(said)


def test_a_round_drops_by_the_paired_distance_to_the_leader():
    noise = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    common = torch.linspace(-50, 50, 20, dtype=torch.float64)  # far wider than any distance, and shared by all
    parts = {"near": common - 0.1 * noise, "best": common + 1, "far": common - 2 + 0.1 * noise, "copy": common + 1}
    whole = {"near": 0.95, "best": 1.0, "far": -2.0, "copy": 1.0}
    scores = {name: RoundScore(whole[name], parts[name]) for name in parts}
    rules = Race(share=0.9, keep_at_least=1)
    found = {one.model: one for one in judge(scores, Standing(2, 200, passes=1234), rules)}
    assert list(found) == ["best", "copy", "near", "far"]
    expected = NormalDist().cdf(0.05 / float((parts["best"] - parts["near"]).std()))
    assert found["near"].probability == pytest.approx(expected)
    assert found["near"].behind == pytest.approx(0.05), "of the score on all images, not of the parts' mean"
    assert [found[name].reason for name in ("best", "copy")] == ["", ""]
    assert found["far"].reason == "behind best with probability 1.000"
    assert (found["far"].round, found["far"].images, found["far"].passes) == (2, 200, 1234)


def test_a_round_passes_on_its_share_and_never_fewer_than_asked():
    scores = {f"m{i}": RoundScore(-0.01 * i, torch.tensor([3.0 * i, -3.0 * i])) for i in range(10)}
    found = judge(scores, FIRST, Race(share=0.4))
    assert [one.model for one in found if not one.reason] == ["m0", "m1", "m2", "m3"]
    assert found[4].reason.startswith("not among the best 4 of 10; behind m0 with probability 0.5")
    clear = {f"m{i}": RoundScore(-i, torch.full((4,), -float(i))) for i in range(10)}
    assert sum(not one.reason for one in judge(clear, FIRST, Race(keep_at_least=3))) == 3
    assert judge({}, FIRST, Race()) == []


def test_the_rounds_of_sixty_models_cost_14_percent_of_all_image_passes():
    level = {
        f"m{i}": RoundScore(-0.01 * i, torch.tensor([3.0 * i, -3.0 * i])) for i in range(60)
    }  # none clearly behind
    sizes, _ = plan(image_set([1000, 600, 400]), Race())
    left, costs, seen = level, [], 0
    for size, later in pairwise(sizes):
        costs.append(len(left) * (size - seen))
        standings = judge(left, Standing(1, size), Race(), growth=later / size)
        left, seen = {one.model: level[one.model] for one in standings if not one.reason}, size
    costs.append(len(left) * (sizes[-1] - seen))
    assert costs == [6000, 2700, 2400, 2000, 3600]  # 60, 27, 12, 5 and the least of 3 models


@pytest.mark.parametrize("most", [1000, 50])
def test_the_spread_over_parts_gives_the_standard_error_of_all_images(most, monkeypatch):
    monkeypatch.setattr(race, "random_parts", partial(race.random_parts, most=most))
    images = image_set([300, 100])
    sample = GrowingSample(images, (200, 400), seed=3)
    parts, factor = race._parts(sample, 0, 400)
    first = sample.rows[0]
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    for part in parts:
        assert torch.isin(part.nonzero().flatten(), first).all()
        assert int(part.sum()) == min(100, most)
        assert int(images.labels[part].sum()) * 4 == pytest.approx(min(100, most), abs=2), "stratified"
    means = torch.stack([values[part].mean() for part in parts])
    inside = [values[first][images.labels[first] == label].var() for label in (0, 1)]
    error = (0.75 * inside[0] + 0.25 * inside[1]).sqrt() / 200**0.5  # of a stratified mean
    assert factor * float(means.std()) == pytest.approx(float(error), rel=0.15)


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Images of each forward pass."""
    seen = []
    forward = extract.__globals__["forward"]

    def counted(backbone, images, device, precision):
        seen.append(len(images))
        return forward(backbone, images, device, precision)

    monkeypatch.setitem(extract.__globals__, "forward", counted)
    return seen


def test_dropped_models_are_in_the_table_and_no_image_is_extracted_twice(passes, tmp_path):
    rules = {"start": 100, "keep_at_least": 1, "share": 0.5}
    result = itm.estimate("digits", MODELS, "logme", pretrained=False, limit=400, race=rules, jobs=1)
    raced = result.found.race
    frame = raced.to_frame()
    alive = frame.groupby("round")["model"].count()
    assert alive[1] == 4
    finalists = result.ranking.order
    grown = sum(alive.get(number, 0) * 100 for number in (1, 2)) + 200 * len(finalists)
    grown += 100 * len(finalists) * (2 not in alive.index)
    assert raced.passes == grown == sum(passes) < 1600
    table = result.to_frame()
    dropped = table[table["rank"].isna()]
    assert set(dropped["model"]) == set(MODELS) - set(finalists)
    assert (dropped["dropped_in_round"] >= 1).all()
    assert dropped["reason"].str.contains("behind").all()
    result.report(tmp_path / "out")
    written = pd.read_csv(tmp_path / "out" / "race.csv")
    assert list(written["reason"].fillna("")) == list(frame["reason"])
    assert json.loads((tmp_path / "out" / "ranking.json").read_text())["race"]["passes"] == grown
    assert f"{grown:,} of the 1,600 image passes" in (tmp_path / "out" / "report.html").read_text("utf-8")

    passes.clear()
    winner = {finalists[0]: MODELS[finalists[0]]}
    plain = itm.estimate("digits", winner, "logme", pretrained=False, limit=400, jobs=1)
    assert passes == [], "an ordinary run finds the features of the models that saw all images"
    assert plain.ranking.scores[finalists[0]] == result.ranking.scores[finalists[0]]


def test_an_interrupted_race_continues_and_ends_alike(passes, monkeypatch, tmp_path):
    arguments = {"pretrained": False, "limit": 200, "race": True, "jobs": 1}
    run = PoolExtractor.extract
    calls = iter(range(3))

    def interrupted(self, backbone, images, precision):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return run(self, backbone, images, precision)

    monkeypatch.setattr(PoolExtractor, "extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        itm.estimate("digits", MODELS, "logme", **arguments)
    assert sum(passes) == 300
    monkeypatch.setattr(PoolExtractor, "extract", run)
    continued = itm.estimate("digits", MODELS, "logme", **arguments)
    total = sum(passes)
    fresh = itm.estimate("digits", MODELS, "logme", store=tmp_path / "other", **arguments)
    assert total == sum(passes) - total == fresh.found.race.passes
    pd.testing.assert_frame_equal(continued.found.race.to_frame(), fresh.found.race.to_frame())


def test_few_images_are_raced_without_dropping(image_folder):
    result = itm.estimate(image_folder, MODELS, "logme", pretrained=False, race=True)
    assert len(result.ranking.order) == 4
    assert "16 images of 3 classes are fewer than 10 per class; no model is dropped" in str(result)
    assert result.found.race.passes == result.found.race.full_passes


def test_a_model_with_damaged_features_fails_and_the_others_race(monkeypatch):
    run = PoolExtractor.extract

    def damaged(self, backbone, images, precision):
        found = run(self, backbone, images, precision)
        if backbone.name == "test_vit":
            found.features.x[0] = float("nan")
        return found

    monkeypatch.setattr(PoolExtractor, "extract", damaged)
    result = itm.estimate("digits", MODELS, "logme", pretrained=False, limit=150, race=True)
    assert "NaN or infinite in 1 of" in result.found.failed["test_vit"]
    assert result.found.race.dropped.keys() | set(result.ranking.order) == set(MODELS) - {"test_vit"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("maybe", "race=maybe: expected true or false"),
        ({"enabled": "maybe"}, "race=maybe: expected true or false"),
        ({"start": 1}, r"race\.start=1: expected a number of at least 4"),
        ({"enabled": False, "sart": 50}, r"race\.sart: .*Did you mean 'race\.start'"),
    ],
)
def test_a_wrong_setting_is_one_line(setting, message):
    with pytest.raises(SettingError, match=message):
        Race.from_setting(setting)


def test_the_command_line_takes_race_as_a_word(run, capsys):
    words = ("~zoo", "+zoo.a={model: test_resnet, image_size: 32}", "+zoo.b={model: test_efficientnet, image_size: 32}")
    out = run("data=digits", "data.limit=120", *words, "scorer=logme", "race=true", "race.keep_at_least=1")
    assert len(pd.read_csv(out / "race.csv")) == 2
    assert "dropped: " in capsys.readouterr().out
    table = pd.read_csv(out / "ranking.csv")
    assert len(table) == 2
    assert table["rank"].isna().sum() == 1
