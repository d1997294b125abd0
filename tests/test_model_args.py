"""Arguments of a zoo's networks: widths, depths, preprocessing, and files of the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import CNN, PIXELS, VIT

from itm.core.errors import CheckpointError, SettingError
from itm.models.backbone import load_backbone
from itm.models.checkpoints import LAYOUTS, locate

ROOT = Path(__file__).parents[1]


def test_networks_are_built_with_their_arguments():
    backbone = load_backbone("tiny", **VIT, preprocessing=PIXELS)
    assert (backbone.dim, len(backbone.net.blocks), backbone.input_size) == (24, 2, 32)
    assert backbone.net.patch_embed.patch_size == (8, 8)
    assert load_backbone("tiny", **CNN, image_size=32).dim == 16


def test_images_of_the_networks_size_stay_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    backbone = load_backbone("tiny", **VIT, preprocessing=PIXELS)
    assert np.array_equal(backbone.transform(Image.fromarray(pixels)).permute(1, 2, 0).numpy(), pixels)
    seen = backbone.normalize(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1))
    assert seen.flatten(1).tolist() == [[-1.0] * 3, [1.0] * 3]


def test_equal_tensors_in_another_architecture_are_another_backbone():
    two, four = (load_backbone("tiny", **{**VIT, "model_args": VIT["model_args"] | {"num_heads": n}}) for n in (2, 4))
    assert two.weights_digest == four.weights_digest
    assert two.model != four.model, "by which features and trials are kept"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_args": {"dept": 2}}, r"zoo\.a\.model_args=\{'dept': 2\}: .* unexpected keyword argument 'dept'"),
        ({"model_args": {"num_classes": 5}}, r"zoo\.a\.model_args\.num_classes: is not set here"),
        ({"model_args": [1]}, r"zoo\.a\.model_args=\[1\]: expected a mapping"),
        ({"preprocessing": {"crop": 1}}, r"zoo\.a\.preprocessing=crop: not known\. Did you mean 'crop_"),
    ],
)
def test_wrong_arguments_name_their_setting(settings, message):
    with pytest.raises(SettingError, match=message):
        load_backbone("a", model="vit_tiny_patch16_224", **settings)


def test_a_checkpoint_of_the_repository_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate("repository:pyproject.toml", LAYOUTS["timm"], "zoo.a.checkpoint") == ROOT / "pyproject.toml"
    with pytest.raises(CheckpointError, match=r"zoo\.a\.checkpoint=repository:none: no such file in .* clone"):
        locate("repository:none", LAYOUTS["timm"], "zoo.a.checkpoint")
