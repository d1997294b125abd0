"""Weights that other code wrote: averaged, prefixed, in their authors' names, with other heads, channels and sizes."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor

from itm.core.errors import CheckpointError, SettingError
from itm.models import check_zoo, load_backbone
from itm.models.builder import NetworkBuilder
from itm.models.checkpoints import LAYOUTS
from itm.models.families import find_model
from itm.models.loading import load_weights

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


@pytest.mark.parametrize(
    "prefix",
    ["model.", "module.", "_orig_mod.", "backbone.", "net.", "module._orig_mod.", "a.b.c.d.e.", "module.module.model."],
)
def test_a_prefix_is_removed(tmp_path: Path, prefix: str) -> None:
    plain = weights()
    content = {"state_dict": {prefix + name: tensor for name, tensor in plain.items()}, "epoch": 2}
    assert same(loaded(tmp_path, content), plain)


@pytest.mark.parametrize(
    "holder",
    [
        "state_dict",
        "model",
        "net",
        "model_state_dict",
        "student",
        "teacher",
        "ema",
        "weights",
        "params",
        "network",
        "backbone",
        "state_dict.model",
        "model_ema.module",
        "checkpoint.generator.params_ema",
    ],
)
def test_holders_of_the_tensors(tmp_path: Path, holder: str) -> None:
    content: object = weights()
    for name in reversed(holder.split(".")):
        content = {name: content, "epoch": 3}
    optimiser = {"state": {0: {"exp_avg": torch.ones(3)}}, "lr": 1}
    assert same(loaded(tmp_path, {**content, "optimizer": optimiser}), weights())  # type: ignore[dict-item]


def shifted(plain: Weights) -> Weights:
    return {name: tensor + 1 for name, tensor in plain.items()}


def test_nested_averaged_weights_are_taken(tmp_path: Path) -> None:
    plain = weights()
    held = {"state_dict": {"model": plain}, "model_ema": {"module": shifted(plain), "decay": 0.99}}
    assert same(loaded(tmp_path, held), shifted(plain))
    lightning = {f"model.{name}": value for name, value in plain.items()}
    lightning |= {f"model_ema.module.{name}": value for name, value in shifted(plain).items()}
    assert same(loaded(tmp_path, {"state_dict": lightning}), shifted(plain))


def heads_of_dino(prefix: str) -> Weights:
    names = ("mlp.0.weight", "mlp.0.bias", "last_layer.weight_g", "last_layer.weight_v")
    return {f"{prefix}.{name}": torch.zeros(2, 3) for name in names}


def test_the_teacher_of_dino_is_taken_without_its_heads(tmp_path: Path) -> None:
    plain = weights(classes=0)
    teacher = {f"backbone.{name}": value for name, value in shifted(plain).items()}
    student = {f"module.backbone.{name}": value for name, value in plain.items()}
    first = {"student": student | heads_of_dino("module.head"), "teacher": teacher | heads_of_dino("head")}
    assert same(loaded(tmp_path, first), shifted(plain))
    second = {f"teacher.{name}": value for name, value in teacher.items()} | heads_of_dino("teacher.dino_head")
    second |= {f"student.backbone.{name}": value for name, value in plain.items()} | heads_of_dino("student.ibot_head")
    assert same(loaded(tmp_path, {"model": second}), shifted(plain))
    assert same(loaded(tmp_path, {**plain, **heads_of_dino("head"), **heads_of_dino("dino_head")}), plain)


def test_of_two_networks_the_one_of_the_right_size_is_taken(tmp_path: Path) -> None:
    plain, wide = weights(), weights(embed_dim=128)
    assert same(loaded(tmp_path, {"student": plain, "teacher": wide}), plain)


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


@pytest.mark.parametrize(
    ("model", "head", "wrapped"),
    [
        ("test_resnet", "fc", "fc.1"),
        ("test_resnet", "fc", "fc.linear"),
        ("test_resnet", "fc", "classifier"),
        ("test_efficientnet", "classifier", "classifier.1.1"),
        ("test_vit", "head", "head.linear"),
        ("test_convnext", "head.fc", "head.fc.1"),
        ("torchvision:resnet18", "fc", "fc.1"),
        ("torchvision:mobilenet_v2", "classifier.1", "classifier.1.1"),
    ],
)
def test_a_head_of_other_layers_is_left_out(tmp_path: Path, model: str, head: str, wrapped: str) -> None:
    if model.startswith("torchvision:"):
        torch.manual_seed(7)
        plain = dict(torchvision.models.get_model(model.partition(":")[2], num_classes=10).state_dict())
    else:
        plain = weights(model)
    matrix = plain.pop(f"{head}.weight")
    del plain[f"{head}.bias"]
    content = {**plain, f"{wrapped}.weight": matrix[:5], f"{wrapped}.bias": torch.zeros(5)}
    found = loaded(tmp_path, content, model)
    assert same({name.removeprefix("body."): value for name, value in found.items()}, plain)
    assert not any(name.startswith(f"{head}.") for name in found)


@pytest.mark.parametrize("channels", [2, 4, 12])
def test_a_stem_of_more_channels_is_refused(tmp_path: Path, channels: int) -> None:
    plain = weights("test_resnet", in_chans=channels)
    with pytest.raises(CheckpointError, match=rf"conv1\.0\.weight.* The weights read {channels} channels, images"):
        loaded(tmp_path, plain, "test_resnet")


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


def test_weights_of_torchvision_s_vit_are_resampled_on_demand() -> None:
    arguments = {"patch_size": 16, "num_layers": 1, "hidden_dim": 48, "num_heads": 3, "mlp_dim": 96, "num_classes": 4}
    plain = dict(torchvision.models.VisionTransformer(image_size=64, **arguments).state_dict())
    own = torchvision.models.VisionTransformer(image_size=96, **arguments)
    family = find_model("torchvision:vit_b_16", "")
    unsized, sized = (NetworkBuilder(family, LAYOUTS["timm"], size, 0, "zoo.m") for size in (None, 96))
    assert sized.arguments == {"image_size": 96}
    with pytest.raises(CheckpointError, match=r"weights see 64 px: set zoo\.m\.image_size=64"):
        load_weights(own, unsized._resampled(plain, own), "zoo.m.checkpoint=x")
    load_weights(own, sized._resampled(plain, own), "zoo.m.checkpoint=x")
    position = plain["encoder.pos_embedding"]
    grid = position[:, 1:].mT.unflatten(2, (4, 4))
    grid = torch.nn.functional.interpolate(grid, size=(6, 6), mode="bicubic", antialias=True, align_corners=False)
    expected = torch.cat([position[:, :1], grid.flatten(2).mT], dim=1)
    torch.testing.assert_close(own.encoder.pos_embedding.detach(), expected)


def test_published_vits_of_torchvision_are_built_at_their_own_size() -> None:
    family = find_model("torchvision:vit_b_16.IMAGENET1K_SWAG_E2E_V1", "model")
    with torch.device("meta"):
        assert family.build(1).state_dict()["encoder.pos_embedding"].shape[1] == (384 // 16) ** 2 + 1


SWIN = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]}


def test_windows_of_another_swin_are_resampled_on_demand(tmp_path: Path) -> None:
    model = "swin_tiny_patch4_window7_224"
    plain = dict(timm.create_model(model, num_classes=0, img_size=384, window_size=12, **SWIN).state_dict())
    with pytest.raises(CheckpointError, match=r"bias_table.* The weights see 384 px: set zoo\.m\.image_size=384"):
        loaded(tmp_path, plain, model, model_args=SWIN)
    found = loaded(tmp_path, plain, model, model_args=SWIN, image_size=224)
    table = found["layers.0.blocks.0.attn.relative_position_bias_table"]
    assert table.shape == (13**2, 1)
    assert same({name: found[name] for name in found if "table" not in name}, plain)


def test_windows_of_torchvision_s_swin_are_resampled_on_demand(tmp_path: Path) -> None:
    arguments = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "num_classes": 3}
    arguments |= {"patch_size": [4, 4]}
    plain = dict(torchvision.models.SwinTransformer(window_size=[4, 4], **arguments).state_dict())
    own = torchvision.models.SwinTransformer(window_size=[7, 7], **arguments)
    built = NetworkBuilder(find_model("torchvision:swin_t", ""), LAYOUTS["timm"], None, 0, "zoo.m")
    with pytest.raises(CheckpointError, match=r"bias_table.* The weights see 128 px"):
        load_weights(own, built._resampled(plain, own), "zoo.m.checkpoint=x")
    sized = NetworkBuilder(find_model("torchvision:swin_t", ""), LAYOUTS["timm"], 224, 0, "zoo.m")
    load_weights(own, sized._resampled(plain, own), "zoo.m.checkpoint=x")
    assert torch.equal(own.head.weight, plain["head.weight"])


@pytest.mark.parametrize(
    "content",
    [
        {1: torch.zeros(2)},
        {"head\nx": torch.zeros(2)},
        {**dict.fromkeys(["a", "b\r\nc"], torch.zeros(2))},
        {"state_dict": {"model": 3}},
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


ODD_CONFIGS = [
    [],
    3,
    {},
    {"architecture": 3},
    {"architecture": "no_such_network"},
    {"architecture": "test_resnet", "pretrained_cfg": 3},
    {"architecture": "test_resnet", "pretrained_cfg": {"input_size": "big"}},
    {"architecture": "test_resnet", "pretrained_cfg": {"mean": None}},
    {"architecture": "test_resnet", "pretrained_cfg": {"interpolation": ["bicubic"]}},
    {"architecture": "test_resnet", "pretrained_cfg": {"classifier": 7}},
]


def test_a_hub_model_that_is_not_cached_is_not_fetched_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("itm.models.families.hf_hub_download", lambda *_, **__: pytest.fail("the hub is asked"))
    with pytest.raises(SettingError, match=r"zoo\.m\.model=hf-hub:a/b: .*HF_HUB_OFFLINE is set.* hf download a/b"):
        check_zoo({"m": {"model": "hf-hub:a/b"}})


def test_a_model_in_a_local_folder(tmp_path: Path) -> None:
    config = {"architecture": "test_resnet", "pretrained_cfg": timm.get_pretrained_cfg("test_resnet").to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_backbone("m", model=f"local-dir:{tmp_path}").dim == load_backbone("m", model="test_resnet").dim
    with pytest.raises(SettingError, match=r"zoo\.m\.model=local-dir:.*config\.json could not be read"):
        load_backbone("m", model=f"local-dir:{tmp_path / 'gone'}")
    for content in ODD_CONFIGS:
        (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(SettingError, match=r"config\.json could not be read \(") as caught:
            load_backbone("m", model=f"local-dir:{tmp_path}")
        assert "\n" not in str(caught.value)
    assert load_backbone("m", model="timm/test_resnet.r160_in1k").dim == load_backbone("m", model="test_resnet").dim


def test_two_sets_of_weights_that_fit_are_not_guessed(tmp_path: Path) -> None:
    plain = weights()
    for one, two in (("student", "teacher"), ("encoder_q", "encoder_k")):
        both = {f"{one}.{name}": value for name, value in plain.items()}
        both |= {f"{two}.{name}": value + 1 for name, value in plain.items()}
        with pytest.raises(CheckpointError, match=rf"2 sets of weights fit .*'state_dict\.{one}\.' .*dict\.{two}\.'"):
            loaded(tmp_path, {"state_dict": both})
    with pytest.raises(CheckpointError, match=r"2 sets of weights fit the network, under 'a\.' and 'b\.'"):
        loaded(tmp_path, {"a": plain, "b": shifted(plain)})


def test_an_empty_holder_is_passed_over_and_sparse_tensors_are_refused(tmp_path: Path) -> None:
    assert same(loaded(tmp_path, {"state_dict_ema": {}, "state_dict": weights()}), weights())
    plain = weights()
    with pytest.raises(CheckpointError, match="cannot be copied"):
        loaded(tmp_path, {**plain, "head.weight": plain["head.weight"].to_sparse()})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"preprocessing": {"crop_pct": "a"}}, r"zoo\.m\.preprocessing\.crop_pct=a: expected a number"),
        ({"preprocessing": {"crop_pct": -1}}, "from 0.001 to 10"),
        ({"preprocessing": {"crop_pct": float("nan")}}, "from 0.001 to 10"),
        ({"preprocessing": {"mean": [1]}}, "expected three numbers"),
        ({"preprocessing": {"std": [0, 0, 0]}}, "from 0.001 to 10"),
        ({"preprocessing": {"interpolation": "bicubicc"}}, "Did you mean 'bicubic'"),
        ({"preprocessing": {"crop_mode": "foo"}}, r"preprocessing\.crop_mode=foo: not known"),
        ({"image_size": 10**23}, r"zoo\.m\.image_size=1000.*expected 1 to 8192 pixels"),
        ({"seed": 10**23}, r"zoo\.m\.seed=1000"),
        ({"source_accuracy": 100.5}, r"zoo\.m\.source_accuracy=100\.5: expected a percentage from 0 to 100"),
        ({"source_accuracy": -1}, "from 0 to 100"),
        ({"source_accuracy": float("nan")}, "from 0 to 100"),
        ({"checkpoint": ""}, r"zoo\.m\.checkpoint: "),
        ({"model": "res\nnet"}, "res net: not known"),
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
