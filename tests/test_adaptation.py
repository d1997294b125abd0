"""Each adaptation trains and computes what its paper says."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from itm.core.errors import SettingError
from itm.groundtruth.adaptation import Splice, adapt, trainable_parameters
from itm.models.backbone import Backbone, load_backbone

D, BLOCKS = 64, 6  # of test_vit
SIDE = 32  # four patches of 16 pixels


def vit(pooling: str = "cls") -> Backbone:
    return load_backbone("vit", model="test_vit", image_size=SIDE, pooling=pooling, seed=1)


def images(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed)).byte()


def trained(backbone: Backbone) -> set[str]:
    return {name for name, weight in backbone.named_parameters() if weight.requires_grad}


def splices(backbone: Backbone) -> list[Splice]:
    return [layer for layer in backbone.net.blocks if isinstance(layer, Splice)]


def with_head() -> Backbone:
    """A network whose weights have a source head, as published ones do."""
    backbone = vit()
    backbone.net.head = torch.nn.Linear(D, 5)
    return backbone


@pytest.mark.parametrize(
    ("mode", "count"),
    [
        ("linear", 0),
        pytest.param(
            "lora", BLOCKS * 2 * (D + 3 * D + D + D), marks=pytest.mark.peft
        ),  # rank 2, at qkv [D, 3 D] and proj [D, D]
        ("vpt", 3 * D),
        ("vpt_deep", BLOCKS * 3 * D),
        ("bitfit", None),
        ("full", None),
    ],
)
def test_each_adaptation_trains_its_weights(mode: str, count: int | None) -> None:
    backbone = with_head()
    names = [name for name, _ in backbone.named_parameters() if ".head." not in name]
    expected = {"full": set(names), "bitfit": {name for name in names if name.endswith(".bias")}}
    if count is None:
        sizes = dict(backbone.named_parameters())
        count = sum(sizes[name].numel() for name in expected[mode])
    assert adapt(backbone, mode, rank=2, prompts=3) is backbone
    assert trainable_parameters(backbone) == count
    assert mode not in expected or trained(backbone) == expected[mode]
    assert all(
        {"lora": "lora_", "vpt": "tokens", "vpt_deep": "tokens"}.get(mode, "") in name for name in trained(backbone)
    )


@pytest.mark.peft
def test_lora_starts_as_the_network_and_learns_low_rank_updates() -> None:
    base = vit().features(images())
    backbone = adapt(vit(), "lora", rank=2)
    torch.testing.assert_close(backbone.features(images()), base, rtol=0, atol=0)
    layers = [module for module in backbone.modules() if hasattr(module, "lora_A")]
    assert len(layers) == 2 * BLOCKS
    with torch.no_grad():
        for layer in layers:
            layer.lora_B["default"].weight.normal_(std=0.1)
    learned = backbone.features(images())
    assert not torch.allclose(learned, base, atol=1e-3)

    plain = vit()  # with W + B A in place of W: the update, by hand
    projections = [part for block in plain.net.blocks for part in (block.attn.qkv, block.attn.proj)]
    for layer, old in zip(layers, projections, strict=True):
        old.weight.data += layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(plain.features(images()), learned, rtol=1e-4, atol=1e-5)
    for layer in layers:
        layer.merge()
    torch.testing.assert_close(backbone.features(images()), learned, rtol=1e-4, atol=1e-5)


@pytest.mark.peft
@pytest.mark.parametrize("kind", [VisionTransformer, Beit])
def test_every_lora_update_takes_part(kind: type[torch.nn.Module]) -> None:
    """BEiT reads its projections' weights past the layer, where an added update would not be seen."""
    backbone = vit()
    torch.manual_seed(0)
    shape = {"img_size": SIDE, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
    backbone.net = kind(**shape).eval()
    before = backbone.features(images())
    adapt(backbone, "lora")
    torch.testing.assert_close(backbone.features(images()), before, rtol=1e-5, atol=1e-5)
    (backbone.features(images()) * torch.randn(32)).sum().backward()
    second = [weight for name, weight in backbone.named_parameters() if "lora_B" in name]
    assert len(second) == 4
    assert all(weight.grad is not None and weight.grad.any() for weight in second)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("mode", ["vpt", "vpt_deep"])
def test_prompts_stand_after_the_class_token(mode: str, pooling: str) -> None:
    backbone = adapt(vit(pooling), mode, prompts=3)
    seen, blocks = [], [layer for layer in backbone.net.blocks if not isinstance(layer, Splice)]
    for block in blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features = backbone.features(images())
    assert features.shape == (3, D)
    assert [x.shape for x in seen] == [(3, 1 + 3 + 4, D)] * BLOCKS
    prompts = [layer.tokens for layer in splices(backbone)[:-1]]
    assert [tuple(tokens.shape) for tokens in prompts] == [(3, D)] * (BLOCKS if mode == "vpt_deep" else 1)
    for x, tokens in zip(seen, prompts, strict=mode == "vpt_deep"):
        assert torch.equal(x[:, 1:4], tokens.expand(3, -1, -1))
    features.square().sum().backward()
    assert all(tokens.grad is not None and tokens.grad.any() for tokens in prompts)
    bound = math.sqrt(6 / (3 * 16 * 16 + D))
    assert all(float(tokens.detach().abs().max()) <= bound for tokens in prompts)
    assert 0.9 * bound < float(torch.cat(prompts).detach().abs().max())


@pytest.mark.parametrize("mode", ["vpt", "vpt_deep"])
def test_mean_pooling_leaves_prompts_out(mode: str) -> None:
    """After blocks that pass their input on, features are the same with prompts of any size as without."""
    plain, prompted = vit("mean"), adapt(vit("mean"), mode, prompts=3)
    with torch.no_grad():
        for layer in splices(prompted)[:-1]:
            layer.tokens.fill_(1e3)
    for backbone in (plain, prompted):
        layers = [layer if isinstance(layer, Splice) else torch.nn.Identity() for layer in backbone.net.blocks]
        backbone.net.blocks = torch.nn.Sequential(*layers)
    torch.testing.assert_close(prompted.features(images()), plain.features(images()), rtol=0, atol=0)


def test_prompts_of_a_transformer_without_class_token() -> None:
    splice = Splice(0, 0, torch.full((2, 1), 7.0))
    x = torch.arange(3.0).view(1, 3, 1)
    assert splice(x).flatten().tolist() == [7, 7, 0, 1, 2]
    assert Splice(0, 2)(splice(x)).flatten().tolist() == [0, 1, 2]
    assert Splice(1, 2, torch.full((2, 1), 7.0))(x).flatten().tolist() == [0, 7, 7, 2]


@pytest.mark.parametrize("mode", [pytest.param("lora", marks=pytest.mark.peft), "vpt_deep"])
def test_additions_are_seeded(mode: str) -> None:
    states = [adapt(vit(), mode, seed=seed).state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    adapt(vit(), mode)
    assert torch.rand(1) == expected  # the caller's random numbers go on


@pytest.mark.parametrize(
    ("model", "mode", "numbers", "message"),
    [
        ("test_vit", "vtp", {}, "adaptation=vtp: .*Did you mean 'vpt'"),
        ("test_vit", "lora", {"rank": 0}, "rank=0: expected 1 or more"),
        ("test_vit", "vpt", {"prompts": 0}, "prompts=0: expected 1 or more"),
        ("test_resnet", "lora", {}, "adaptation=lora: test_resnet is not .*qkv; set one of full, linear"),
        ("test_resnet", "vpt_deep", {}, "adaptation=vpt_deep: test_resnet is not .*; set one of"),
    ],
)
def test_refused(model: str, mode: str, numbers: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        adapt(load_backbone("x", model=model, image_size=SIDE), mode, **numbers)


def test_lora_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SettingError, match=r"adaptation=lora: .*uv sync --extra peft"):
        adapt(vit(), "lora")


def test_a_broken_package_of_lora_is_not_called_missing(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peft.py").write_text("from collections import MutableMapping")
    monkeypatch.delitem(sys.modules, "peft", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingError, match="installed, but its import fails: cannot import name 'MutableMapping'"):
        adapt(vit(), "lora")


def test_bitfit_without_biases() -> None:
    backbone = vit()
    backbone.net = torch.nn.Linear(2, 2, bias=False)
    with pytest.raises(SettingError, match="adaptation=bitfit: test_vit has no biases"):
        adapt(backbone, "bitfit")
