"""Growing samples: nested and stratified, each image extracted once, and the features of all images at the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from itm.core.errors import StoreError
from itm.core.splits import stratified_order
from itm.data.image_set import ImageSet, load_images
from itm.extraction.extract import Extraction, extract
from itm.extraction.parts import GrowingSample, extract_sample
from itm.extraction.store import FeatureStore
from itm.extraction.stored_features import StoredFeatures
from itm.ranking.ranking import rank


class MeanColour(nn.Module):
    """A network whose features are the mean of each colour; it counts the images that it sees."""

    name, model, pooling, dim, weights_digest, transform_text = "mean", "mean", "gap", 3, "0", "none"

    def __init__(self, head: bool = True) -> None:
        super().__init__()
        self.seen, self.head, self.scale = 0, head, 1.0

    @staticmethod
    def transform(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        self.seen += len(images)
        x = (images.float().mean(dim=(2, 3)) / 255) ** self.scale * 255
        return x, x[:, :2] * 2 if self.head else None


@pytest.fixture
def images() -> ImageSet:
    """Thirty images of noise in three classes of different sizes."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    labels = torch.tensor([0] * 18 + [1] * 9 + [2] * 3)[torch.randperm(30, generator=torch.Generator().manual_seed(1))]
    return ImageSet("noise", "train", ("a", "b", "c"), labels, pixels, groups=torch.arange(30) // 2)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store", shard_size=7)


def runner(backbone: Any, store: FeatureStore, **settings: Any) -> Callable[[ImageSet], Extraction]:
    return lambda images: extract(backbone, images, store, workers=0, batch_size=4, progress=False, **settings)


def grow(backbone: Any, sample: GrowingSample, number: int, store: FeatureStore, **settings: Any) -> Extraction:
    return extract_sample(backbone, sample, number, store, "32", runner(backbone, store, **settings))


def test_every_beginning_of_the_order_is_stratified() -> None:
    labels = torch.tensor([3] * 60 + [5] * 30 + [9] * 10)
    order = stratified_order(labels, 0)
    assert sorted(order.tolist()) == list(range(100))
    for size in (10, 33, 50, 77):
        counts = [int((labels[order[:size]] == label).sum()) for label in (3, 5, 9)]
        assert counts == pytest.approx([0.6 * size, 0.3 * size, 0.1 * size], abs=2)
    assert sorted(labels[order[:6]].tolist()) == [3, 3, 5, 5, 9, 9], "two of each class come first"
    assert not torch.equal(order, stratified_order(labels, 1))


def test_each_image_is_extracted_once_and_the_last_sample_is_stored_as_all_images(images, store, tmp_path):
    sample, backbone = GrowingSample(images, (10, 18, 30), seed=0), MeanColour()
    for number, size in enumerate(sample.sizes):
        found = grow(backbone, sample, number, store)
        assert backbone.seen == size
        assert found.cached is False
        chosen = stratified_order(images.labels, 0)[:size].sort().values
        assert torch.equal(found.rows, chosen)
        pixels = torch.stack([MeanColour.transform(images.image(int(i))) for i in chosen])
        torch.testing.assert_close(found.features.x, pixels.float().mean(dim=(2, 3)))
        assert torch.equal(found.features.y, images.labels[chosen])
        assert torch.equal(found.features.groups, images.groups[chosen])
    plain = extract(MeanColour(), images, FeatureStore(tmp_path / "other", shard_size=7), progress=False)
    stored = runner(backbone, store)(images)
    assert stored.cached
    assert torch.equal(stored.features.x, plain.features.x)
    assert torch.equal(stored.features.logits, plain.features.logits)
    assert len(list(store.root.glob("[!.]*"))) == 1, "the parts are gone"
    again = grow(MeanColour(), sample, 1, store)
    assert torch.equal(again.features.y, images.labels[again.rows])
    assert len(again.rows) == 18
    assert again.cached


def test_a_sample_goes_on_after_an_interruption(images, store):
    sample, first = GrowingSample(images, (10, 30), seed=0), MeanColour(head=False)
    grow(first, sample, 0, store)
    later = MeanColour(head=False)
    assert len(grow(later, sample, 1, store).rows) == 30
    assert later.seen == 20


def test_unreadable_images_keep_their_reason(tree, store):
    folder = tree(f"{c}/{i}.png" for c in "ab" for i in range(20))
    images = load_images(folder)
    bad = int(GrowingSample(images, (8, len(images)), 0).rows[1][0])
    images.items[bad].write_bytes(b"no image")
    images = load_images(folder)
    sample = GrowingSample(images, (8, len(images)), 0)
    found = grow(MeanColour(), sample, 1, store, on_error="skip")
    assert bad not in found.rows.tolist()
    assert len(found.rows) == len(images) - 1
    assert [images.path(bad) in reason for reason in found.skipped] == [True]


def test_features_beyond_the_memory_allowed_are_read_from_the_store(images, store):
    one = runner(MeanColour(head=False), store)(images)
    size = one.features.x.nbytes
    pool = StoredFeatures(images, store, memory=size + size // 2)
    for name in ("kept", "read"):
        pool.add(name, one)
    pool.sort(["read", "other", "kept"])
    assert list(pool) == ["read", "kept"]
    assert pool["kept"] is one.features
    assert pool["read"] is not one.features
    assert torch.equal(pool["read"].x, one.features.x)
    store.remove(one.key)
    assert torch.equal(pool["kept"].x, one.features.x)
    with pytest.raises(StoreError, match="removed or damaged during the run"):
        pool["read"]


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_an_image_that_one_model_refuses_is_left_out_for_all(images, store, memory):
    means = torch.tensor([np.array(images.image(index)).mean() for index in range(len(images))])
    second = means.sort().values[1]

    class Bright(MeanColour):
        """A network whose transform refuses the two darkest images."""

        weights_digest = "bright"

        @staticmethod
        def transform(image):
            if np.array(image).mean() <= second:
                raise ValueError("too dark")
            return MeanColour.transform(image)

    pool, whole = StoredFeatures(images, store, memory), runner(MeanColour(head=False), store)(images)
    pool.add("any", whole)
    assert pool.leave_out_incomplete().tolist() == []
    assert len(pool["any"].x) == 30
    pool.add("bright", runner(Bright(head=False), store, on_error="skip")(images))
    assert pool.leave_out_incomplete().tolist() == means.argsort()[:2].sort().values.tolist()
    for model in pool:
        assert torch.equal(pool[model].x, whole.features.x[means > second])


@pytest.mark.parametrize("scorer", ["logme", "etran"])
def test_a_ranking_never_holds_the_features_of_all_models(images, store, scorer):
    class Counted(StoredFeatures):
        alive, most = WeakSet(), 0

        def __getitem__(self, model):
            features = super().__getitem__(model)
            self.alive.add(features)
            Counted.most = max(self.most, len(self.alive))
            return features

    kept, read = {}, Counted(images, store, memory=0)
    for scale, name in enumerate("abcdefgh", start=1):
        backbone = MeanColour()
        backbone.weights_digest, backbone.scale = name, float(scale)
        found = runner(backbone, store)(images)
        kept[name] = found.features
        read.add(name, found)
    assert rank(read, scorer).scores == rank(kept, scorer).scores
    assert Counted.most <= 3, "the next one is read before the last one of each loop is let go"


def test_a_claim_excludes_others_until_it_ends(store):
    claim = partial(store.claim, "0" * 64)
    with claim() as first, claim() as second:
        assert (first, second) == (True, False)
    with claim() as again:
        assert again
