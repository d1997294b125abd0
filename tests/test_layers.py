"""Several layers and patches: maps in one pass, and a choice of layer that no image judges twice."""

import math

import numpy as np
import pytest
import torch
from synthetic import noise, striped

from itm import rank
from itm.core.errors import SettingError
from itm.core.features import Features
from itm.core.splits import split_indices
from itm.data.masks import IGNORE
from itm.evaluation.predicted_masks import predict_examples
from itm.extraction.candidate import Candidate
from itm.extraction.extract import extract
from itm.extraction.readouts.dense import Dense, MaskSettings, patches
from itm.extraction.store import FeatureStore
from itm.models.backbone import load_backbone
from itm.scorers import NCTI, Combined, LogME, RegularizedHScore
from itm.scorers.cross_fitted import CrossFitted, cross_fitted


@pytest.fixture(scope="module")
def backbone():
    settings = {"model": "resnet10t", "model_args": {"channels": [8, 12, 16, 20]}, "image_size": 32}
    return load_backbone("tiny", **settings)


def test_maps_of_several_layers_are_those_of_timm_and_the_first_is_the_last(backbone):
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        every = backbone.net.forward_intermediates(backbone.normalize(images), norm=True, intermediates_only=True)
        found = backbone.feature_maps(images, 3)
        assert [one.shape[1] for one in found] == [20, every[3].shape[1], every[1].shape[1]]
        assert torch.equal(found[0], backbone.feature_map(images))
        assert len(backbone.feature_maps(images, 99)) == len(every)  # all there are
    assert backbone.map_shapes(1) == [backbone.map_shape]
    flat = load_backbone("rgb", model="raw_rgb")
    assert len(flat.feature_maps(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 4)) == 1


def test_layers_stand_side_by_side_and_the_last_one_is_that_of_one_layer(backbone, tmp_path):
    images, store = striped(), FeatureStore(tmp_path)
    one = extract(backbone, images, store, readout=Dense(10), progress=False)
    readout = Dense(10, layers=3)
    several = extract(backbone, images, store, readout=readout, progress=False)
    facts = Candidate.from_backbone(backbone, several, readout)
    assert facts.layers == tuple(shape[0] for shape in backbone.map_shapes(3))
    assert several.features.dim == sum(facts.layers)
    assert torch.allclose(several.features.x[:, :20], one.features.x, atol=1e-6)
    assert torch.equal(several.features.y, one.features.y)
    assert several.key.digest != one.key.digest
    assert Candidate.from_backbone(backbone, one, Dense(10)).layers == ()


def grouped(seed, layers=3, rows=240, dim=4):
    """Layers of noise, of which the second alone knows the classes; rows in groups of six."""
    parts = [noise(rows, dim, 3, seed + place) for place in range(layers)]
    y, groups = parts[0].y, torch.arange(rows) // 6
    x = [part.x for part in parts]
    x[1] = x[1] + 3 * torch.eye(3, dim, dtype=torch.float64)[y]
    return Features(torch.cat(x, dim=1), y, groups=groups)


def test_each_half_is_scored_with_the_layer_that_is_best_on_the_other():
    pool = {"deep": grouped(0), "flat": Features(grouped(1).x[:, 4:8], grouped(0).y, groups=grouped(0).groups)}
    score = CrossFitted(LogME(), {"deep": (4, 4, 4)})
    runs, failed = score.evaluate_sound(pool)
    assert failed == {}
    halves = split_indices(pool["deep"].y, 0.5, 0, pool["deep"].groups)
    expected = [LogME().score({"m": Features(pool["deep"].x[rows, 4:8], pool["deep"].y[rows])})["m"] for rows in halves]
    assert runs["deep"][0].value == pytest.approx(sum(expected) / 2)
    assert runs["deep"][0].details == {"layer_first_half": 1, "layer_second_half": 1}
    assert runs["flat"][0].details == {"layer_first_half": 0, "layer_second_half": 0}


def test_twelve_layers_of_noise_score_no_better_than_one():
    many, single = [], []
    for seed in range(12):
        y, groups = noise(240, 4, 3, seed).y, torch.arange(240) // 6
        x = noise(240, 48, 3, seed).x
        many.append(CrossFitted(LogME(), {"m": (4,) * 12}).score({"m": Features(x, y, groups=groups)})["m"])
        halves = split_indices(y, 0.5, 0, groups)
        single.append(np.mean([LogME().score({"m": Features(x[rows, :4], y[rows])})["m"] for rows in halves]))
    error = math.hypot(np.std(many), np.std(single)) / math.sqrt(12)
    assert abs(np.mean(many) - np.mean(single)) < 3 * error


@pytest.mark.parametrize("scorer", [NCTI(folds=2), RegularizedHScore(), Combined(("logme", "knn"), prior=None)])
def test_relative_scores_and_combinations_choose_layers_too(scorer):
    fitted = cross_fitted({"own": scorer}, dict.fromkeys("abc", (4, 4, 4)))["own"]
    pool = {name: grouped(7 * seed) for seed, name in enumerate("abc")}
    pool = {name: Features(one.x, pool["a"].y, groups=one.groups) for name, one in pool.items()}
    pool["a"] = grouped(0)
    ranking = rank(pool, fitted)
    assert ranking.name == scorer.name
    assert ranking.order[0] == "a"  # its second layer alone goes with these labels
    assert fitted.resampled == scorer.resampled


def test_a_model_that_no_half_can_score_is_named_with_its_reason():
    pool = {
        "good": grouped(0),
        "bad": Features(torch.full((240, 12), torch.nan), grouped(0).y, groups=grouped(0).groups),
    }
    runs, failed = CrossFitted(LogME(), {"good": (4, 4, 4), "bad": (6, 6)}).evaluate_sound(pool)
    assert list(runs) == ["good"]
    assert "NaN" in failed["bad"]


def test_patches_have_the_class_of_most_of_their_pixels():
    mask = np.array(
        [
            [0, 0, 1, 1, 2, 2],
            [0, 1, 1, 0, 2, 0],
            [3, 3, IGNORE, IGNORE, 1, 1],
            [3, IGNORE, IGNORE, 0, 1, 1],
        ],
        dtype=np.uint8,
    )
    assert patches(mask, 3).labels.tolist() == [0, 1, 2, 3, 1, 3, 0, 1]  # rows 0 and 1, 2, 3; half ignored still counts
    even = patches(mask[:, :4], 2)
    assert even.labels.tolist() == [0, 1, 3]  # the last patch is mostly ignored
    assert torch.allclose(even.places, torch.tensor([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5]]))


def test_every_model_has_the_same_patches(backbone, tmp_path):
    images, store = striped(), FeatureStore(tmp_path)
    readout = Dense.for_images(images, 6 * 50, 0, MaskSettings("patches"))
    nets = [backbone, load_backbone("rgb", model="raw_rgb")]
    first, second = (extract(net, images, store, readout=readout, progress=False).features for net in nets)
    assert torch.equal(first.y, second.y)
    assert torch.equal(first.groups, second.groups)
    assert first.groups.bincount().tolist() == [49] * 6  # 7 x 7
    assert "patches" in readout.key


def test_masks_are_predicted_from_several_layers(backbone, tmp_path):
    images, zoo = (
        striped(8),
        {"tiny": {"model": "resnet10t", "model_args": {"channels": [8, 12, 16, 20]}, "image_size": 32}},
    )
    features = extract(backbone, images, FeatureStore(tmp_path), readout=Dense(60, layers=4), progress=False).features
    examples = predict_examples({"tiny": features}, ["tiny"], images, zoo, 4)
    hits = [(p == t)[t != IGNORE].mean() for p, t in zip(examples.predicted["tiny"], examples.true, strict=True)]
    assert np.mean(hits) > 0.9


@pytest.mark.parametrize(
    ("value", "line"), [({"layers": 0}, r"masks\.layers=0"), ({"sampling": "pixel"}, r"masks\.sampling.*pixels")]
)
def test_wrong_settings_of_masks_are_refused_in_one_line(value, line):
    with pytest.raises(SettingError, match=line):
        MaskSettings(**value)
