"""Weights that other code wrote: averaged, prefixed, in their authors' names, with other heads, channels and sizes."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from itm.core.errors import CheckpointError, SettingError
from itm.models import load_backbone

Weights = dict[str, Tensor]


def weights(model: str = "test_vit", classes: int = 10, **arguments: object) -> Weights:
    torch.manual_seed(7)
    return dict(timm.create_model(model, num_classes=classes, **arguments).state_dict())


def loaded(folder: Path, content: object, model: str = "test_vit", **entry: object) -> Weights:
    torch.save(content, folder / "w.pth")
    return load_backbone("m", model=model, checkpoint=str(folder / "w.pth"), **entry).net.state_dict()  # type: ignore[arg-type]


def same(found: Weights, expected: Weights) -> bool:
    return all(torch.equal(found[name], tensor) for name, tensor in expected.items() if name in found)


@pytest.mark.parametrize("averaged", ["state_dict_ema", "model_ema"])
@pytest.mark.parametrize("raw", ["state_dict", "model"])
def test_averaged_weights_are_taken_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, averaged: str, raw: str
) -> None:
    caplog.set_level(logging.INFO)
    plain = weights()
    mean = {name: tensor + 1 for name, tensor in plain.items()}
    assert same(loaded(tmp_path, {"epoch": 3, raw: plain, averaged: mean}), mean)
    assert averaged in caplog.text


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "backbone.", "net.", "module._orig_mod."])
def test_a_prefix_is_removed(tmp_path: Path, prefix: str) -> None:
    plain = weights()
    content = {"state_dict": {prefix + name: tensor for name, tensor in plain.items()}, "epoch": 2}
    assert same(loaded(tmp_path, content), plain)


@pytest.mark.parametrize("holder", ["state_dict", "model", "net", "model_state_dict"])
def test_holders_of_the_tensors(tmp_path: Path, holder: str) -> None:
    assert same(loaded(tmp_path, {holder: weights(), "optimizer": {"lr": 1}}), weights())


def test_convnext_in_its_authors_names(tmp_path: Path) -> None:
    def authors(name: str) -> str:
        name = name.replace("stem.", "downsample_layers.0.")
        name = re.sub(r"stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2", name)
        name = re.sub(r"stages\.(\d)\.blocks\.(\d+)", r"stages.\1.\2", name).replace("conv_dw", "dwconv")
        name = name.replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")
        return name.replace("head.fc", "head").replace("head.norm", "norm")

    plain = weights("convnext_atto", classes=3)
    assert same(
        loaded(tmp_path, {"model": {authors(name): value for name, value in plain.items()}}, "convnext_atto"), plain
    )


@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_in_its_authors_names(tmp_path: Path, registers: bool) -> None:
    model = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    arguments = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    plain = weights(model, classes=0, **arguments)
    official = {**plain, "mask_token": torch.zeros(1, 48)}
    if registers:  # the authors keep a position for the class token
        official["register_tokens"] = official.pop("reg_token")
        position = torch.randn(1, 1, 48)
        official["pos_embed"] = torch.cat([position, plain["pos_embed"]], dim=1)
        official["cls_token"] = plain["cls_token"] - position
    found = loaded(tmp_path, official, model, model_args=arguments)
    assert all(torch.allclose(found[name], tensor, atol=1e-6) for name, tensor in plain.items())


def test_a_wrapped_head_is_left_out(tmp_path: Path) -> None:
    plain = weights("test_resnet")
    head = plain.pop("fc.weight")
    del plain["fc.bias"]
    assert same(loaded(tmp_path, {**plain, "fc.1.weight": head[:5], "fc.1.bias": torch.zeros(5)}, "test_resnet"), plain)


def test_a_grey_stem_sees_the_mean_of_the_channels(tmp_path: Path) -> None:
    plain = weights("test_resnet")
    grey = plain["conv1.0.weight"][:, :1].clone()
    found = loaded(tmp_path, {**plain, "conv1.0.weight": grey}, "test_resnet")
    torch.testing.assert_close(found["conv1.0.weight"].sum(dim=1, keepdim=True), grey)
    assert found["conv1.0.weight"].std(dim=1).max() == 0


def test_weights_of_another_size_are_resampled_on_demand(tmp_path: Path) -> None:
    plain = weights("vit_tiny_patch16_224", classes=0, img_size=384, depth=1)
    with pytest.raises(CheckpointError, match=r"weights see 384 px: set zoo\.m\.image_size=384"):
        loaded(tmp_path, plain, "vit_tiny_patch16_224", model_args={"depth": 1})
    found = loaded(tmp_path, plain, "vit_tiny_patch16_224", model_args={"depth": 1}, image_size=224)
    own = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)
    expected = timm.models.vision_transformer.checkpoint_filter_fn(plain, own)["pos_embed"]
    torch.testing.assert_close(found["pos_embed"], expected)
    same_size = loaded(tmp_path, plain, "vit_tiny_patch16_224", model_args={"depth": 1}, image_size=384)
    assert torch.equal(same_size["pos_embed"], plain["pos_embed"])


@pytest.mark.parametrize(
    "content",
    [
        {1: torch.zeros(2)},
        {None: torch.zeros(2)},
        {"state_dict": {("a", 1): torch.zeros(2)}},
        {},
        {"head.weight": torch.tensor(1.0)},
    ],
)
def test_odd_files_are_refused_in_one_line(tmp_path: Path, content: object) -> None:
    with pytest.raises(CheckpointError) as caught:
        loaded(tmp_path, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["efficientvit_m0", "shvit_s1"])
def test_networks_without_a_nameable_head_give_features(model: str) -> None:
    backbone = load_backbone("m", model=model)
    features, logits = backbone(torch.zeros(1, 3, backbone.input_size, backbone.input_size, dtype=torch.uint8))
    assert features.shape == (1, backbone.dim)
    assert logits is None
    assert backbone.num_parameters == sum(weight.numel() for weight in backbone.net.parameters())


def test_a_model_in_a_local_folder(tmp_path: Path) -> None:
    config = {"architecture": "test_resnet", "pretrained_cfg": timm.get_pretrained_cfg("test_resnet").to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_backbone("m", model=f"local-dir:{tmp_path}").dim == load_backbone("m", model="test_resnet").dim
    with pytest.raises(SettingError, match=r"zoo\.m\.model=local-dir:.*config\.json could not be read"):
        load_backbone("m", model=f"local-dir:{tmp_path / 'gone'}")
    assert load_backbone("m", model="timm/test_resnet.r160_in1k").dim == load_backbone("m", model="test_resnet").dim


def test_two_sets_of_weights_that_fit_are_not_guessed(tmp_path: Path) -> None:
    plain = weights()
    both = {f"student.{name}": value for name, value in plain.items()}
    both |= {f"teacher.{name}": value + 1 for name, value in plain.items()}
    with pytest.raises(
        CheckpointError, match=r"two sets of weights fit the network, under 'student\.' and 'teacher\.'"
    ):
        loaded(tmp_path, {"state_dict": both})


def test_an_empty_holder_is_passed_over_and_sparse_tensors_are_refused(tmp_path: Path) -> None:
    assert same(loaded(tmp_path, {"state_dict_ema": {}, "state_dict": weights()}), weights())
    plain = weights()
    with pytest.raises(CheckpointError, match="cannot be copied"):
        loaded(tmp_path, {**plain, "head.weight": plain["head.weight"].to_sparse()})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"preprocessing": {"crop_pct": "a"}}, r"zoo\.m\.preprocessing\.crop_pct=a: expected a number"),
        ({"preprocessing": {"crop_pct": -1}}, "from 0.01 to 10"),
        ({"preprocessing": {"crop_pct": float("nan")}}, "from 0.01 to 10"),
        ({"preprocessing": {"mean": [1]}}, "expected three numbers"),
        ({"preprocessing": {"std": [0, 0, 0]}}, "from 0.01 to 10"),
        ({"preprocessing": {"interpolation": "bicubicc"}}, "Did you mean 'bicubic'"),
        ({"preprocessing": {"crop_mode": "foo"}}, r"preprocessing\.crop_mode=foo: not known"),
        ({"image_size": 10**23}, r"zoo\.m\.image_size=1000.*expected 1 to 8192 pixels"),
        ({"seed": 10**23}, r"zoo\.m\.seed=1000"),
        ({"model": "torchvision:squeezenet1_1"}, "classifier is not a linear layer"),
        ({"model": "xcit_nano_12_p16_224", "image_size": 100}, r"zoo\.m"),
    ],
)
def test_wrong_entries_are_one_line(entry: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        load_backbone("m", **{"model": "test_resnet", **entry})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["xcit_nano_12_p16_224", "efficientvit_m0"])
def test_networks_whose_patch_is_one_number_take_a_size(model: str) -> None:
    assert load_backbone("m", model=model, image_size=192).input_size == 192
