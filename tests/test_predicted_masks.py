"""Masks that a probe of frozen features predicts, against scikit-learn and on images that colours alone decide."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import Ridge
from synthetic import clusters, striped

from itm.cli.pipeline import run_estimate
from itm.core.features import Features
from itm.core.splits import split_indices
from itm.data.masks import IGNORE
from itm.evaluation.predicted_masks import PENALTIES, RidgeProbe, predict_examples, varied_groups
from itm.extraction.readouts.dense import Dense
from itm.models.backbone import load_backbone
from itm.report.masks import class_colour, mask_image
from itm.report.pictures import thumbnail
from itm.scorers import KNN, LogME


def test_the_probe_is_scikit_learns_ridge_on_standardised_features():
    features = clusters(200, 6, 3)
    x, y = features.x.numpy() * np.arange(1, 7), features.y.numpy()
    probe = RidgeProbe.fit(Features(torch.tensor(x), features.y), 4, penalty=0.05)
    standard = (x - x.mean(0)) / x.std(0)
    expected = Ridge(alpha=0.05 * len(x)).fit(standard, np.eye(4)[y]).predict(standard)
    found = (torch.tensor(x).float() @ probe.weights.T + probe.bias).numpy()
    assert np.allclose(found[:, :3], expected[:, :3], atol=1e-4)
    assert np.all(found[:, 3] == -np.inf)  # a class without a row is never predicted


def test_the_penalty_is_the_one_that_held_out_groups_prefer():
    few = clusters(75, 60, 3, spread=0.2)  # nearly as many dimensions as rows: a weak penalty fits noise
    rows = torch.arange(75).repeat_interleave(2)
    features = Features(few.x[rows], few.y[rows], groups=rows)
    train, held = split_indices(features.y, 0.8, 0, features.groups)

    def hits(penalty):
        probe = RidgeProbe.fit(features.take(train), 3, penalty)
        scores = features.x[held].float() @ probe.weights.T + probe.bias
        return int((scores.argmax(1) == features.y[held]).sum())

    best = max(PENALTIES, key=hits)
    assert hits(best) > hits(PENALTIES[0])
    chosen = RidgeProbe.fit(features, 3)
    assert torch.allclose(chosen.weights, RidgeProbe.fit(features, 3, best).weights)


def test_constant_features_and_fewer_rows_than_features_give_finite_weights():
    x = torch.zeros(5, 20)
    x[:, 3] = torch.arange(5.0)
    probe = RidgeProbe.fit(Features(x, torch.tensor([0, 0, 1, 1, 1])), 2)
    assert torch.isfinite(probe.weights).all()
    assert (x @ probe.weights.T + probe.bias).argmax(1).tolist() == [0, 0, 1, 1, 1]


def test_the_images_shown_have_as_many_classes_as_possible():
    y = torch.tensor([0, 0, 0, 0, 1, 2, 0, 3, 1, 1])
    groups = torch.tensor([7, 7, 9, 9, 9, 9, 11, 11, 13, 13])
    assert varied_groups(Features(torch.zeros(10, 1), y, groups=groups), 2).tolist() == [9, 11]
    assert varied_groups(Features(torch.zeros(10, 1), y, groups=groups), 9).tolist() == [9, 11, 7, 13]


@pytest.fixture
def coloured():
    """Eight images whose class is their brightness, with sampled pixels of their colours."""
    images, net = striped(8), load_backbone("raw_rgb", model="raw_rgb")
    indices = list(range(len(images)))
    pixels = torch.stack([Dense(1).transform(net)(images.image(index)) for index in indices])
    rows = Dense(40).read(net, pixels, images, indices)
    return images, Features(rows.x, rows.y, groups=rows.indices)


def test_masks_of_other_images_are_predicted_where_colours_decide(coloured):
    images, features = coloured
    examples = predict_examples({"colours": features}, ["colours"], images, {"colours": {"model": "raw_rgb"}})
    assert len(examples.true) == 4
    for mask, predicted in zip(examples.true, examples.predicted["colours"], strict=True):
        labelled = mask != IGNORE
        assert predicted.shape == mask.shape
        assert (predicted == mask)[labelled].mean() > 0.95
    assert examples.classes == {0: "dark", 1: "bright"}


def test_the_probe_sees_no_pixel_of_the_images_shown(coloured, monkeypatch):
    images, features = coloured
    seen = []
    fit = RidgeProbe.fit
    monkeypatch.setattr(
        RidgeProbe, "fit", lambda rows, count, penalty=None: seen.append(rows.groups) or fit(rows, count)
    )
    examples = predict_examples({"colours": features}, ["colours"], images, {"colours": {"model": "raw_rgb"}})
    shown = {images.digests.index(digest) for digest in examples.images.digests}
    assert len(shown) == 4
    assert shown.isdisjoint(seen[0].tolist())


def test_a_network_that_fails_costs_its_own_masks_alone(coloured, caplog):
    images, features = coloured
    zoo = {"bad": {"model": "raw_rgb", "image_size": -3}, "colours": {"model": "raw_rgb"}}
    examples = predict_examples({"bad": features, "colours": features}, ["bad", "colours"], images, zoo)
    assert list(examples.predicted) == ["colours"]
    assert "bad: no predicted masks" in caplog.text


def test_a_single_image_has_no_predicted_mask(coloured):
    images, features = coloured
    alone = features.take(features.groups == 0)
    assert predict_examples({"colours": alone}, ["colours"], images.select([0]), {"colours": {}}) is None


def test_small_pictures_of_masks_keep_the_colours_of_the_classes():
    mask = np.zeros((200, 300), dtype=np.uint8)
    mask[:, 150:], mask[:100, :150] = 30, IGNORE
    shown = mask_image(mask)
    small = Image.open(io.BytesIO(base64.b64decode(thumbnail(shown, 108).partition(",")[2]))).convert("RGB")
    assert small.size == (108, 72)
    found = {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(np.asarray(small).reshape(-1, 3), axis=0).tolist()}
    assert found == {class_colour(0).lower(), class_colour(30).lower(), "#ffffff"}
    assert len({class_colour(label).lower() for label in range(60)}) == 60


def test_the_page_shows_images_masks_and_predicted_masks(tmp_path):
    images = striped(8)
    run = {
        "data": {"name": "striped", "limit": None, "on_error": "stop", "rows": 160},
        "zoo": {"raw_rgb": {"model": "raw_rgb"}},
        "trainer": {"accelerator": "cpu", "precision": "32", "batch_size": 8, "workers": 0},
        "source": {"name": None, "limit": None}, "groundtruth": None, "seed": 0, "seeds": 1, "resamples": 2,
        "jobs": 1, "store": str(tmp_path),
    }  # fmt: skip
    page = run_estimate(run, {"logme": LogME()}, images).to_html()
    assert re.findall(r"<figcaption>(.*?)</figcaption>", page) == ["image", "true mask", "raw_rgb"]
    assert page.count('alt="raw_rgb, ') == 4
    assert all(word in page for word in ("dark</li>", "bright</li>", "ignored</li>", "sampled pixels"))
    assert "One image of each class" not in page
    assert "http" not in re.sub(r'base64,[^"]*', "", page)


def test_the_colours_alone_are_never_recommended_and_models_below_them_are_named(tmp_path):
    run = {
        "data": {"name": "striped", "limit": None, "on_error": "stop", "rows": 160},
        "zoo": {"raw_rgb": {"model": "raw_rgb"}, "tiny": {"model": "test_resnet", "image_size": 32}},
        "trainer": {"accelerator": "cpu", "precision": "32", "batch_size": 8, "workers": 0},
        "source": {"name": None, "limit": None}, "groundtruth": None, "seed": 0, "seeds": 1, "resamples": 2,
        "jobs": 1, "store": str(tmp_path),
    }  # fmt: skip
    report = run_estimate(run, {"knn": KNN()}, striped(8))
    assert report.rankings[0].order[0] == "raw_rgb"  # colours decide these classes
    assert report.recommendation.model == "tiny"
    assert "1 of 1 models score below the colours alone (raw_rgb) by knn: tiny." in report.all_warnings()
