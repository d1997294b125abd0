"""The scorer DCD against hand-worked cases and a transcription in numpy."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import itm
from itm.core.errors import FeatureError, ItmError, SettingError
from itm.core.features import Features
from itm.extraction.pool import ExtractionSettings
from itm.extraction.readouts.conductance import conductance as conductance_of
from itm.extraction.readouts.conductance import find_blocks
from itm.models.backbone import load_backbone
from itm.ranking.tasks import check_tasks, with_conductance
from itm.scorers import DCD, LogME
from itm.scorers.dcd import mean_rank


def conductance(profile, images=4, seed=0):
    """Conductance of some images whose mean has the given profile up to a factor."""
    rng = np.random.default_rng(seed)
    rows = rng.uniform(0.5, 1.5, (images, 1)) * np.asarray(profile, dtype=float)
    return Features(rows.astype("float64"), np.zeros(images, dtype=int))


def frame(**columns):
    return pd.DataFrame(columns, index=["a", "b", "c"], dtype=float)


TARGET = {name: conductance([4, 2, 2]) for name in "abc"}
SAME, OTHER = {name: conductance([4, 2, 2], seed=1) for name in "abc"}, {name: conductance([1, 1, 6]) for name in "abc"}
ACCURACY = frame(same=[90, 80, 70], other=[10, 20, 30])


def test_a_source_like_the_target_decides_the_order():
    scorer = DCD(sources={"same": SAME, "other": OTHER}, accuracy=ACCURACY)
    scores = scorer.score(TARGET)
    assert scores["a"] > scores["b"] > scores["c"]
    details = scorer.evaluate(TARGET)["a"].details
    assert details["divergence"]["same"] == pytest.approx(0, abs=1e-12)
    assert details["divergence"]["other"] > 0


def test_a_hand_worked_case():
    # u(T) = (1/2, 1/4, 1/4), u(other) = (1/8, 1/8, 3/4): gaps 3/8, 1/8, 1/2
    scorer = DCD(sources={"same": SAME, "other": OTHER}, accuracy=ACCURACY, temperature=0.25)
    found = scorer.evaluate(TARGET)["a"]
    importance = np.exp([2, 1, 1]) / np.exp([2, 1, 1]).sum()
    divergence = importance @ [3 / 8, 1 / 8, 1 / 2]
    assert found.details["divergence"]["other"] == pytest.approx(divergence)
    # the lower median of (0, d) is 0, so the unit is the mean d / 2: weights softmax(0, -2)
    weight = 1 / (1 + np.exp(-2))
    assert found.details["weights"]["same"] == pytest.approx(weight)
    assert found.value == pytest.approx(-(weight * 1 / 3 + (1 - weight) * 3 / 3))


@pytest.mark.parametrize("normalise", ["share", "log-z"])
@pytest.mark.parametrize("divergence", ["dev", "short", "kl"])
def test_every_reading_agrees_with_a_transcription_in_numpy(normalise, divergence):
    rng = np.random.default_rng(3)
    profiles = rng.uniform(1, 5, (4, 6))
    sources = {f"s{i}": {"a": conductance(profiles[i], seed=i)} for i in range(3)}
    accuracy = pd.DataFrame({f"s{i}": [50.0 + i, 60.0 - 7 * i] for i in range(3)}, index=["a", "b"])
    scorer = DCD(sources=sources, accuracy=accuracy, normalise=normalise, divergence=divergence)
    found = scorer.evaluate({"a": conductance(profiles[3], seed=9)})["a"].details["divergence"]

    shares = profiles / profiles.sum(1, keepdims=True)
    u, temperature = shares, None
    if normalise == "log-z":
        logs = np.log(shares)
        u, temperature = (logs - logs[:3].mean(0)) / logs[:3].std(0), 1.0

    def importance(row):
        scaled = np.exp(row / (temperature or row.std()))
        return scaled / scaled.sum()

    pi = importance(u[3])
    for i in range(3):
        gap = u[3] - u[i]
        if divergence == "dev":
            expected = (pi * abs(gap)).sum()
        elif divergence == "short":
            expected = (pi * np.maximum(gap, 0)).sum()
        else:
            expected = (pi * np.log(pi / importance(u[i]))).sum()
        assert found[f"s{i}"] == pytest.approx(expected)


def test_it_is_directed_and_a_factor_on_the_conductance_changes_nothing():
    def divergence(target, source, factor=1.0):
        pool = {name: conductance(np.multiply(source, factor)) for name in "abc"}
        scorer = DCD(sources={"s": pool, "other": OTHER}, accuracy=ACCURACY.assign(s=1.0))
        return scorer.evaluate({"a": conductance(target)})["a"].details["divergence"]["s"]

    there, back = divergence([4, 2, 2], [1, 3, 9]), divergence([1, 3, 9], [4, 2, 2])
    assert there != pytest.approx(back)
    assert divergence([4, 2, 2], [1, 3, 9], factor=1000) == pytest.approx(there)


def test_equal_divergences_give_the_mean_rank_elsewhere():
    from itm.evaluation.priors import mean_rank_elsewhere

    sources = {"x": SAME, "y": SAME, "z": SAME}
    table = frame(x=[3, 2, 1], y=[1, 5, 2], z=[9, 7, np.nan])
    scores = DCD(sources=sources, accuracy=table).score(TARGET)
    expected = mean_rank_elsewhere(table.assign(target=0.0), "target")
    assert scores == pytest.approx(expected)


def test_planted_families_of_models_are_found():
    # models a, b are good on tasks of one family, c, d on those of the other; each family has its own profile
    rng, first, second = np.random.default_rng(0), [5, 3, 1, 1], [1, 1, 3, 5]
    tasks = {f"first{i}": first for i in range(3)} | {f"second{i}": second for i in range(3)}
    good = {"first": [90, 85, 50, 45], "second": [50, 45, 90, 85]}
    table = pd.DataFrame({t: np.add(good[t[:-1]], rng.normal(0, 1, 4)) for t in tasks}, index=list("abcd"))
    pools = {
        task: {m: conductance(np.add(profile, rng.uniform(0, 0.3, 4)), seed=i) for i, m in enumerate("abcd")}
        for task, profile in tasks.items()
    }
    for task in tasks:
        rest = {name: pool for name, pool in pools.items() if name != task}
        # more of the sources belong to the other family, so the weights must be sharper than by default
        scores = DCD(sources=rest, accuracy=table, beta=0.2).score(pools[task])
        best = set(sorted(scores, key=lambda model: -scores[model])[:2])
        assert best == ({"a", "b"} if task.startswith("first") else {"c", "d"})


def test_labels_play_no_part():
    sources = {"same": SAME, "other": OTHER}
    relabelled = {name: Features(f.x, np.arange(len(f.x))) for name, f in TARGET.items()}
    scorer = DCD(sources=sources, accuracy=ACCURACY)
    assert scorer.score(relabelled) == scorer.score(TARGET)


def test_shared_weights_are_the_mean_over_the_models():
    pool = {"a": conductance([4, 2, 2]), "b": conductance([1, 1, 5]), "c": conductance([2, 4, 2])}
    own = DCD(sources={"same": SAME, "other": OTHER}, accuracy=ACCURACY).evaluate(pool)
    shared = DCD(sources={"same": SAME, "other": OTHER}, accuracy=ACCURACY, weights="shared").evaluate(pool)
    mean = np.mean([own[name].details["weights"]["same"] for name in "abc"])
    assert [shared[name].details["weights"]["same"] for name in "abc"] == pytest.approx([mean] * 3)


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (DCD(), "scorer.dcd: needs conductance and accuracies"),
        (DCD(sources={"same": SAME}, accuracy=ACCURACY), "expected two or more source tasks"),
        (DCD(sources={"same": SAME, "x": OTHER}, accuracy=ACCURACY), "no column for the source 'x'"),
        (
            DCD(sources={"same": SAME, "x": OTHER}, accuracy=ACCURACY.assign(x=np.nan)),
            "'x' has an accuracy for none of the models",
        ),
    ],
)
def test_missing_sources_are_one_line(scorer, message):
    with pytest.raises(SettingError, match=message) as error:
        scorer.score(TARGET)
    assert "\n" not in str(error.value)


def test_a_model_that_a_source_lacks_and_odd_conductance_are_named():
    partial = {name: SAME[name] for name in "ab"}
    with pytest.raises(FeatureError, match="c: no conductance on 'same'"):
        DCD(sources={"same": partial, "other": OTHER}, accuracy=ACCURACY).score(TARGET)
    scorer = DCD(sources={"same": SAME, "other": OTHER}, accuracy=ACCURACY)
    for rows in ([[1.0]], [[1.0, -1.0]], [[np.nan, 1.0]], [[0.0, 0.0]]):
        with pytest.raises(FeatureError, match="a: conductance"):
            scorer.score({"a": Features(np.array(rows), [0])})
    with pytest.raises(SettingError, match=r"scorer.dcd.beta=0"):
        DCD(beta=0.0)


def settings_of(folder, store, **data):
    zoo = {name: {"model": name, "image_size": 32} for name in ("resnet10t", "mobilenetv3_small_050")}
    trainer = {"accelerator": "cpu", "precision": "32", "batch_size": 4, "workers": 0}
    own = {"name": str(folder), "root": None, "limit": None, "on_error": "stop", **data}
    return ExtractionSettings(own, zoo, trainer, str(store), seed=0)


def test_conductance_of_target_and_sources_is_extracted_once_and_given_to_dcd(tree, tmp_path):
    folders = {name: tree(f"a/{name}1.png", f"a/{name}2.png", f"b/{name}3.png", root=name) for name in "xyz"}
    table = pd.DataFrame({"y": [50.0, 60.0], "z": [70.0, 50.0]}, index=["resnet10t", "mobilenetv3_small_050"])
    table.columns = [str(folders[name]) for name in "yz"]
    settings = settings_of(folders["x"], tmp_path / "store")
    scorers = {"dcd": DCD(), "logme": LogME()}
    found = with_conductance(scorers, list(table.columns), table, settings)
    assert found["logme"] is scorers["logme"]
    own = found["dcd"].conductance["resnet10t"]
    backbone = load_backbone("resnet10t", image_size=32)
    images = settings.load_images()
    pixels = torch.stack([backbone.transform(images.image(i)) for i in range(len(images))])
    net = backbone.net

    def embed(x):
        return net.forward_head(net.forward_features(x), pre_logits=True)

    expected = conductance_of(embed, find_blocks(net), backbone.normalize(pixels))
    torch.testing.assert_close(own.x, expected.magnitude, rtol=1e-3, atol=1e-5)
    # the pool holds other features: those on the target are in the scorer
    pool = {name: Features(torch.ones(3, 5), [0, 0, 1]) for name in settings.zoo}
    scores = found["dcd"].score(pool)
    assert set(scores) == set(settings.zoo)
    assert all(-1 <= score < 0 for score in scores.values())


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["a"], r"sources=\['a'\]: scorer=dcd needs two"),
        ([], r"sources=\[\]: scorer=dcd needs two"),
        ("ab", "sources=ab: expected names of datasets"),
        (["a", "missing"], "sources: no accuracies on 'missing'; known: a, b, t, other. Set source_table"),
        (["a", "t"], r"sources=\['a', 't'\]: scorer=dcd needs two"),
        (["a", "a"], "sources: 'a' stands there twice"),
        (["a", "other"], "sources: the accuracies on 'other' are of other models"),
    ],
)
def test_source_tasks_that_cannot_be_used_are_one_line(tasks, message):
    table = pd.DataFrame({"a": [1.0, None], "b": [2.0, None], "t": [3.0, None], "other": [None, 4.0]}, index=["m", "o"])
    with pytest.raises(SettingError, match=message) as raised:
        check_tasks({"dcd": DCD()}, tasks, table, "t", ["m", "n"])
    assert "\n" not in str(raised.value)
    assert check_tasks({"logme": LogME()}, tasks, None, "t", ["m"]) == []  # other scores do not need them


def test_the_target_among_the_source_tasks_is_left_out():
    table = pd.DataFrame({"a": [1.0], "b": [2.0]}, index=["m"])
    assert check_tasks({"dcd": DCD()}, ["a", "t", "b"], table, "t", ["m"]) == ["a", "b"]


def test_sources_without_any_table_are_one_line():
    with pytest.raises(SettingError, match=r"no accuracies on 'a'; known: none. Set source_table=<csv>"):
        check_tasks({"dcd": DCD()}, ["a", "b"], None, "t", ["m"])


def test_the_mean_rank_is_dcd_with_equal_weights():
    found = mean_rank(ACCURACY, ["same", "other"], list(ACCURACY.index))
    flat = DCD(sources={"same": SAME, "other": SAME}, accuracy=ACCURACY).score(SAME)
    assert flat == pytest.approx(found)


def test_a_network_of_one_block_is_one_line(tree, tmp_path):
    folders = [tree(f"a/{name}1.png", f"a/{name}2.png", f"b/{name}3.png", root=name) for name in "xyz"]
    flat = {"model": "vit_tiny_patch16_224", "model_args": {"depth": 1}, "image_size": 32}
    settings = replace(settings_of(folders[0], tmp_path / "store"), zoo={"flat": flat})
    with pytest.raises(ItmError, match=r"flat: found 1 block\(s\) to read conductance from") as raised:
        with_conductance({"dcd": DCD()}, [str(folder) for folder in folders[1:]], ACCURACY, settings)
    assert "\n" not in str(raised.value)


def test_controls_stand_beside_dcd(tree, tmp_path):
    folders = {name: tree(*(f"{c}/{name}{c}{i}.png" for c in "ab" for i in range(6)), root=name) for name in "xyz"}
    models = {"big": {"model": "resnet10t", "image_size": 32}, "small": {"model": "test_resnet", "image_size": 32}}
    table = tmp_path / "table.csv"
    table.write_text("model,y,z\nbig,50,60\nsmall,70,80\n")  # a folder's column has its name
    sources = [str(folders[name]) for name in "yz"]
    found = itm.estimate(
        folders["x"], models=models, pretrained=False, scorer="dcd", sources=sources, source_table=table, store=tmp_path
    )
    names = [ranking.name for ranking in found.rankings]
    assert names == ["dcd", "mean_rank_elsewhere", "parameters"]  # no text encoder, no ImageNet accuracy
    assert found.rankings[1].scores == {"small": -0.5, "big": -1.0}
    assert found.rankings[0].scores == pytest.approx(found.rankings[1].scores)  # it is the best on both
    assert found.rankings[2].order == ["big", "small"]
    assert "P(best) is not known: dcd does not use these images' labels" in str(found.recommendation)
    with pytest.raises(SettingError, match=r"sources=.*needs two"):
        itm.estimate(folders["x"], models=models, pretrained=False, scorer="dcd", store=tmp_path)
