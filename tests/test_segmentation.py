"""Features of pixels, fine-tuning with a linear decoder and mean IoU, against hand-worked cases and torch's own."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import weightedtau
from sklearn.metrics import jaccard_score
from synthetic import striped
from torch.nn import functional as F
from torchmetrics.classification import MulticlassJaccardIndex

from itm.core.errors import SettingError
from itm.core.splits import split_indices
from itm.data.image_set import ImageSet
from itm.data.masks import IGNORE, Masks
from itm.dva.module import mean_iou
from itm.evaluation.segmentation import segmentation_table
from itm.extraction.extract import extract, feature_key
from itm.extraction.readouts.dense import Dense, balanced_pixels, read_map
from itm.extraction.store import FeatureStore
from itm.groundtruth.images import ImageSplits
from itm.groundtruth.module import FineTuneSettings
from itm.groundtruth.protocol import Protocol
from itm.groundtruth.segmentation import MaskedImages, SegmentationModule, class_ious, paired_crops, paired_whole
from itm.groundtruth.train import train_trial
from itm.groundtruth.trials import Trial, TrialStore
from itm.models.backbone import load_backbone
from itm.scorers import ITM
from itm.scorers.base import check
from itm.scorers.common.folds import assign_folds


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(
        "tiny", model="resnet10t", model_args={"channels": [8, 8, 16, 16], "output_stride": 8}, image_size=32
    )


def test_a_thin_class_gets_as_many_pixels_as_a_wide_one_and_ignored_pixels_are_never_drawn():
    mask = np.zeros((50, 40), dtype=np.uint8)
    mask[:, 7] = 3  # 50 pixels, one column
    mask[20:] = IGNORE  # 20 rows are left
    for seed in range(5):
        drawn = balanced_pixels(mask.ravel(), 30, seed)
        assert len(set(drawn.tolist())) == 30
        assert np.bincount(mask.ravel()[drawn], minlength=4).tolist() == [15, 0, 0, 15]
    # the thin class gives all of its 20 pixels, the wide one the rest
    assert np.bincount(mask.ravel()[balanced_pixels(mask.ravel(), 100, 0)]).tolist() == [80, 0, 0, 20]
    everything = balanced_pixels(mask.ravel(), 10_000, 0)
    assert np.array_equal(everything, np.flatnonzero(mask.ravel() != IGNORE))


def test_shares_that_do_not_divide_differ_by_one_pixel():
    mask = np.repeat(np.arange(4, dtype=np.uint8), 25)
    counts = [np.bincount(mask[balanced_pixels(mask, 30, seed)]).tolist() for seed in range(20)]
    assert all(sorted(one) == [7, 7, 8, 8] for one in counts)
    assert len({tuple(one) for one in counts}) > 1  # by lot


def test_features_are_read_as_grid_sample_reads_them_and_exactly_at_the_centres_of_cells():
    maps = torch.randn(2, 5, 3, 4)
    centres = torch.tensor([[(2 * x + 1) / 4 - 1, (2 * y + 1) / 3 - 1] for y in range(3) for x in range(4)])
    assert torch.allclose(read_map(maps[:1], [centres]), maps[0].flatten(1).T, atol=1e-6)
    places = [torch.rand(7, 2) * 1.2 - 0.6, torch.rand(3, 2) * 1.2 - 0.6]
    found = read_map(maps, places)
    for row, (image, (x, y)) in enumerate([(0, p) for p in places[0]] + [(1, p) for p in places[1]]):
        column, line = (x + 1) / 2 * 4 - 0.5, (y + 1) / 2 * 3 - 0.5  # in cells
        left, top = int(column // 1), int(line // 1)
        expected = torch.zeros(5)
        for dy in (0, 1):
            for dx in (0, 1):
                weight = (1 - abs(column - left - dx)) * (1 - abs(line - top - dy))
                expected += weight * maps[image, :, min(max(top + dy, 0), 2), min(max(left + dx, 0), 3)]
        assert torch.allclose(found[row], expected, atol=1e-5)


def test_rows_of_an_image_do_not_depend_on_the_other_images(backbone, tmp_path):
    images = striped()
    readout = Dense(10, seed=3)
    whole = extract(backbone, images, FeatureStore(tmp_path), readout=readout, progress=False)
    part = extract(backbone, images.select([4]), FeatureStore(tmp_path), readout=readout, progress=False)
    rows = whole.features.groups == 4
    assert torch.allclose(whole.features.x[rows], part.features.x, atol=1e-5)
    assert torch.equal(whole.features.y[rows], part.features.y)
    assert whole.features.y.bincount().tolist() == [30, 30]
    assert torch.equal(whole.features.groups, torch.arange(6).repeat_interleave(10))


def test_stored_rows_are_read_again_and_the_key_names_the_readout(backbone, tmp_path):
    images, store = striped(), FeatureStore(tmp_path, shard_size=4)
    first = extract(backbone, images, store, readout=Dense(10), progress=False)
    again = extract(backbone, images, store, readout=Dense(10), progress=False)
    assert (first.cached, again.cached) == (False, True)
    assert torch.equal(first.features.x, again.features.x)
    keys = {feature_key(backbone, images, "32", readout).digest for readout in (Dense(10), Dense(11), Dense(10, 1))}
    assert len(keys | {feature_key(backbone, images, "32").digest}) == 4
    (store.folder(first.key) / next(store.folder(first.key).glob("00000004-*")).name).unlink()
    resumed = extract(backbone, images, store, readout=Dense(10), progress=False)
    assert not resumed.cached
    assert torch.equal(first.features.x, resumed.features.x)


def test_splits_and_folds_never_share_an_image(backbone, tmp_path):
    features = extract(backbone, striped(12), FeatureStore(tmp_path), readout=Dense(20), progress=False).features
    train, held_out = split_indices(features.y, 0.8, 0, features.groups)
    assert set(features.groups[train].tolist()).isdisjoint(features.groups[held_out].tolist())
    folds = assign_folds(check("model", features), 4)
    for image in range(12):
        assert len(set(folds[features.groups == image].tolist())) == 1


def test_fewer_rows_than_classes_and_a_model_without_a_map_are_refused():
    with pytest.raises(SettingError, match=r"data\.rows=1: expected 2 pixels or more"):
        Dense.for_images(striped(), 1, 0)
    with pytest.raises(SettingError, match=r"zoo\.flat: .* gives no feature map"):
        load_backbone("flat", model="torchvision:vit_b_16").feature_map(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))


@pytest.mark.parametrize("model", ["torchvision:mobilenet_v2", "torchvision:resnet18", "mobilenetv2_035", "raw_rgb"])
def test_the_mean_of_the_last_map_is_the_pooled_feature_where_the_network_pools_so(model):
    net = load_backbone("net", model=model, image_size=None if model.startswith("torchvision") else 64).eval()
    images = torch.randint(0, 256, (2, 3, net.input_size, net.input_size), dtype=torch.uint8)
    with torch.no_grad():
        maps = net.feature_map(images)
        pooled = net.features(images)
    assert maps.shape[1:] == net.map_shape
    if maps.shape[1] == pooled.shape[1]:
        assert torch.allclose(maps.mean((2, 3)), pooled, atol=1e-4)
    else:
        assert model == "mobilenetv2_035"  # timm's gives the map before its last convolution


def test_crops_of_image_and_mask_show_the_same_places(backbone):
    # each pixel's colour is its class, so a crop of one is the crop of the other
    mask = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4), np.ones((16, 16), dtype=np.uint8))
    image = np.repeat(mask[..., None] * 15, 3, axis=2)
    images = ImageSet(
        "grid", "train", tuple("abcdefghijklmnop"), torch.zeros(1).long(), image[None], masks=Masks(mask[None])
    )
    pair, _ = MaskedImages(images)[0]
    for seed in range(10):
        torch.manual_seed(seed)
        pixels, classes = paired_crops(backbone, scale=(0.1, 0.9))(pair)
        agree = (pixels[0].float() / 15).round() == classes
        assert agree.float().mean() > 0.75  # interpolation mixes colours at the borders
        inside = F.max_pool2d(classes[None].float(), 3, 1, 1) == -F.max_pool2d(-classes[None].float(), 3, 1, 1)
        assert agree[inside[0]].float().mean() > 0.93
    pixels, classes = paired_whole(backbone)(pair)
    assert pixels.shape[1:] == (32, 32)
    assert torch.equal(classes, torch.from_numpy(mask))


def test_mean_iou_of_a_hand_worked_case():
    # truth a a a b b, predicted a a b b a: a 2/4, b 1/3; class c has no pixel
    confusion = torch.tensor([[2, 1, 0], [1, 1, 0], [0, 0, 0]])
    assert class_ious(confusion).tolist()[:2] == pytest.approx([1 / 2, 1 / 3])
    assert class_ious(confusion).isnan().tolist() == [False, False, True]
    counts = (torch.tensor([[3.0, 2, 0]]), torch.tensor([[3.0, 2, 0]]), torch.tensor([[2.0, 1, 0]]))
    assert float(mean_iou(*counts)) == pytest.approx(5 / 12)


def test_the_module_measures_what_torchmetrics_measures_at_the_size_of_each_mask(backbone):
    module = SegmentationModule(backbone, 3, FineTuneSettings(lr=1e-3, weight_decay=0.0))
    module._num_held_out = lambda: 1
    module.eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    masks = [torch.randint(0, 3, size, dtype=torch.uint8) for size in ((20, 30), (41, 17))]
    masks[0][:5] = IGNORE
    with torch.no_grad():
        module.validation_step(((images, masks), torch.zeros(2)), 0)
        logits = module(images)
    metric = MulticlassJaccardIndex(3, average=None, ignore_index=IGNORE)
    for one, mask in zip(logits, masks, strict=True):
        full = F.interpolate(one[None], size=mask.shape, mode="bilinear")
        metric.update(full.argmax(1), mask[None].long())
    found = module.measures(module.confusion.compute())
    assert [found[f"iou_{index}"] for index in range(3)] == pytest.approx((100 * metric.compute()).tolist(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(100 * float(metric.compute().mean()), rel=1e-5)


def trial_of(backbone, images, **settings):
    protocol = Protocol(epochs=10, batch_size=4, warmup_epochs=0.5, crop_scale=(0.5, 1.0))
    known = {"dataset": "striped", "train": images.train.fingerprint, "test": images.test.fingerprint, "model": "tiny"}
    place = {"architecture": "tiny", "weights": backbone.weights_digest, "transform": "", "pooling": "gap"}
    return Trial(**known, **place, lr=1e-2, weight_decay=0.01, protocol=protocol, **settings)


@pytest.mark.parametrize("adaptation", ["full", "linear"])
def test_training_separates_dark_from_bright_and_records_the_iou_of_each_class(backbone, tmp_path, adaptation):
    images = ImageSplits(striped(24), dataclasses.replace(striped(6, side=30, seed=1), split="test"))
    record = train_trial(trial_of(backbone, images, adaptation=adaptation), backbone, images, TrialStore(tmp_path))
    assert record.error is None
    best = record.best
    assert best["accuracy"] == pytest.approx((best["iou_0"] + best["iou_1"]) / 2)
    assert best["accuracy"] > 55  # one class everywhere gives at most half of its share
    assert record.history[-1]["train_loss"] < record.history[0]["train_loss"]


@pytest.mark.parametrize(
    "adaptation", [pytest.param("lora", marks=pytest.mark.peft), "vpt", "vpt_deep", "bitfit", "linear"]
)
def test_a_transformer_is_adapted_to_masks(adaptation, tmp_path):
    images = ImageSplits(striped(16), dataclasses.replace(striped(6, side=30, seed=1), split="test"))
    net = load_backbone("tiny", model="test_vit", image_size=32)
    record = train_trial(trial_of(net, images, adaptation=adaptation), net, images, TrialStore(tmp_path))
    assert record.error is None
    assert record.history[-1]["train_loss"] < record.history[0]["train_loss"]
    head = 2 * net.map_shape[0] + 2
    assert (record.facts["trainable"] == head) == (adaptation == "linear")
    assert record.facts["trainable"] < 0.5 * net.num_parameters
    settings = FineTuneSettings(lr=1e-3, weight_decay=0.0, adaptation=adaptation)
    module = SegmentationModule(load_backbone("tiny", model="test_vit", image_size=32), 2, settings)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert module.eval()(pixels).shape == (2, 2, *net.map_shape[1:])
    with torch.no_grad():
        same = torch.allclose(module.backbone.feature_map(pixels), net.feature_map(pixels), atol=1e-5)
    assert same != adaptation.startswith("vpt")  # prompts alone change features from the start


def test_itm_scores_mean_iou_of_the_held_out_rows(backbone, tmp_path):
    features = extract(backbone, striped(12), FeatureStore(tmp_path), readout=Dense(20), progress=False).features
    settings = {"iterations": 20, "evaluate_every": 10, "heldout": "plain"}
    miou = ITM(measure="miou", **settings).evaluate({"model": features})["model"]
    accuracy = ITM(**settings).evaluate({"model": features})["model"]
    assert miou.value == max(miou.details["mious"].values())
    assert accuracy.details["curve"] == miou.details["curve"]
    assert 0 <= miou.value <= accuracy.value  # of two balanced classes an IoU is never above the accuracy


def test_mean_iou_of_counts_is_scikit_learns_macro_jaccard():
    generator = np.random.default_rng(0)
    true, predicted = generator.integers(0, 5, (2, 300))
    counts = [np.bincount(rows, minlength=5) for rows in (true, predicted, true[true == predicted])]
    found = mean_iou(*(torch.tensor(one[None], dtype=torch.float64) for one in counts))
    assert float(found) == pytest.approx(jaccard_score(true, predicted, average="macro"))


def test_images_keep_their_masks_through_decoding():
    images = striped()
    assert isinstance(images.image(0), Image.Image)
    assert images.mask(0).shape == (24, 24)


def test_the_table_has_both_taus_and_the_regret_of_scores_and_priors_and_the_papers_rows():
    models = pd.DataFrame(
        {
            "model": list("abcd"),
            "true_accuracy": [40.0, 30.0, 20.0, 10.0],
            "parameters": [1, 4, 2, 3],
            "stride": [32.0, 16.0, 16.0, 8.0],
        }
    )
    good = models.assign(scorer="good", score=[4.0, 3.0, 2.0, 1.0])
    bad = models.assign(scorer="bad", score=[1.0, 2.0, 3.0, 4.0])
    table = segmentation_table(pd.concat([good, bad]).assign(dataset="tiles"))
    assert table.loc[("good", "tiles"), "tau_w (scipy)"] == pytest.approx(1)
    assert table.loc[("bad", "tiles"), "tau_w (scipy)"] == pytest.approx(-1)
    assert table.loc[("bad", "tiles"), "regret"] == pytest.approx(30)
    expected = weightedtau([40, 30, 20, 10], [1, 4, 2, 3]).statistic
    assert table.loc[("parameters (prior)", "tiles"), "tau_w (scipy)"] == pytest.approx(expected)
    assert table.loc[("output stride (prior)", "tiles"), "regret"] == pytest.approx(30)
    assert table.loc[("itm, published", "CamVid"), "reported"] == 0.61
