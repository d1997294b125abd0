"""trainer.precision=auto: bfloat16 where the device has units for it and the features agree, else float32."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import itm
from itm.core import devices
from itm.core.errors import SettingError
from itm.data.image_set import ImageSet
from itm.extraction import precision
from itm.extraction.extract import extract, feature_key
from itm.extraction.precision import choose_precision
from itm.extraction.store import FeatureStore


class Projection(nn.Module):
    """Random projections of the pixels; with an offset far above them, bfloat16 cannot distinguish two images."""

    name, model, pooling, dim, weights_digest, transform_text = "projection", "projection", "none", 8, "0", "none"

    def __init__(self, cancels: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(8, 48, generator=generator)
        self.weight = nn.Parameter(weight - weight.mean(1, keepdim=True) if cancels else weight)
        self.offset, self.passes = (1e4 if cancels else 0.0), 0

    @staticmethod
    def transform(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        self.passes += len(images)
        return nn.functional.linear(images.float().flatten(1) / 255 + self.offset, self.weight), None


@pytest.fixture
def images() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    return ImageSet("noise", "train", ("a", "b"), torch.arange(40) % 2, pixels)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store")


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16_units", lambda device: True)


@pytest.mark.parametrize(("cancels", "chosen"), [(False, "bf16"), (True, "32")])
def test_bfloat16_is_used_where_its_features_agree(images, store, units, caplog, cancels, chosen):
    backbone = Projection(cancels)
    pixels = torch.stack([backbone.transform(images.image(i)) for i in range(0, 40, 2)]).float().flatten(1) / 255
    exact = (pixels + backbone.offset) @ backbone.weight.T
    mixed = ((pixels + backbone.offset).bfloat16() @ backbone.weight.bfloat16().T).float()
    cosine = torch.cosine_similarity(exact, mixed).min()
    assert (cosine > 0.999) == (chosen == "bf16"), "the two cases are what they are meant to be"
    with caplog.at_level(logging.INFO):
        assert choose_precision(backbone, images, store, "cpu") == chosen
    assert f"projection: {'bfloat16' if chosen == 'bf16' else 'float32'}, as the least cosine" in caplog.text
    assert backbone.passes == 32
    assert choose_precision(backbone, images, store, "cpu") == chosen
    assert backbone.passes == 32, "compared once"


def test_a_comparison_that_was_cut_short_is_made_again(images, store, units):
    backbone = Projection(cancels=False)
    choose_precision(backbone, images, store, "cpu")
    path = store.folder(feature_key(backbone, images, "bf16")) / "agreement.json"
    path.write_text('{"cos')
    assert choose_precision(backbone, images, store, "cpu") == "bf16"
    assert backbone.passes == 64


def test_stored_float32_features_are_used(images, store, units):
    backbone = Projection(cancels=False)
    extract(backbone, images, store, progress=False)
    backbone.passes = 0
    assert choose_precision(backbone, images, store, "cpu") == "32"
    assert backbone.passes == 0


def test_a_processor_without_units_runs_float32(images, store, monkeypatch):
    monkeypatch.setattr(devices, "_cpu_flags", lambda: {"avx2", "avx512f"})
    assert choose_precision(Projection(cancels=False), images, store, "cpu") == "32"
    assert not store.root.exists()
    for flags in ({"avx512_bf16"}, {"fpu", "amx_bf16"}):
        monkeypatch.setattr(devices, "_cpu_flags", lambda flags=flags: flags)
        assert devices.has_bf16_units("cpu")
    assert not devices.has_bf16_units("mps")


def test_the_flags_of_x86_and_arm_are_read(monkeypatch):
    for text, flags in (
        ("processor\t: 0\nflags\t\t: fpu avx512_bf16\n", {"fpu", "avx512_bf16"}),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", {"fp", "asimd", "bf16"}),
    ):
        monkeypatch.setattr(Path, "read_text", lambda self, text=text, **settings: text)
        assert devices._cpu_flags() == flags

    def missing(self, **settings):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert devices._cpu_flags() == set()


@pytest.mark.parametrize("race", [False, True])
def test_an_estimate_takes_auto_and_says_what_it_used(units, tmp_path, one_thread, race):
    models = {name: {"model": name, "image_size": 32} for name in ("test_resnet", "test_efficientnet")}
    found = itm.estimate(
        "digits", models, "logme", pretrained=False, limit=150, precision="auto", store=tmp_path, jobs=1, race=race
    ).found
    stored = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*/manifest.json")}
    assert {one["key"]["precision"] for one in stored.values()} == {"bf16"}
    assert {candidate.precision for candidate in found.candidates.values()} == {"bf16"}


def test_fine_tuning_refuses_auto():
    from itm.groundtruth.hardware import Hardware

    with pytest.raises(SettingError, match=r"trainer\.precision=auto"):
        Hardware().check("auto")
