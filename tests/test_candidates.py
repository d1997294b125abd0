"""Facts of candidates without their weights: counted, read from the id, filtered."""

from __future__ import annotations

import pytest
import timm
from torch import nn

from itm.core.errors import SettingError
from itm.models import candidates
from itm.models.pretraining import TIERS, data_of, paradigm_of, tier_of

# millions of parameters without the head and billions of multiply-adds, as papers and model cards give them
PUBLISHED = {
    "resnet50.a1_in1k": (23.5, 4.1),
    "convnext_tiny.fb_in22k": (27.8, 4.5),
    "vit_small_patch16_224.augreg_in21k": (21.7, 4.6),
    "swin_tiny_patch4_window7_224.ms_in22k": (27.5, 4.5),
    "vit_small_patch14_reg4_dinov2.lvd142m": (22.1, 46.9),
    "vit_base_patch16_siglip_224.v2_webli": (92.9, 17.7),
    "mobilenetv4_conv_medium.e500_r256_in1k": (8.4, 1.1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_shipped_sizes_are_the_published_ones(name: str) -> None:
    parameters, gmacs = PUBLISHED[name]
    facts = candidates.facts_of(name)
    assert facts.parameters / 1e6 == pytest.approx(parameters, abs=0.06)
    assert facts.macs / 1e9 == pytest.approx(gmacs, rel=0.03, abs=0.06)


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_efficientnet.r160_in1k", "pit_ti_224.in1k"])
def test_computed_facts_are_the_shipped_ones(name: str) -> None:
    shipped, computed = candidates.facts_of(name), candidates.compute(name)
    assert computed == shipped
    network = timm.create_model(name.partition(".")[0], num_classes=0)
    assert computed.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert computed.width == network.head_hidden_size


def test_a_convolution_and_a_linear_layer_are_counted_by_hand() -> None:
    def build() -> nn.Module:
        convolution = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        return nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

    assert candidates.count(build, 3, 8) == (3 * 4 * 9 + 4 * 5 + 5, 3 * 4 * 9 * 64 + 4 * 5, 5)


def test_the_table_has_every_id_that_timm_can_run_without_weights() -> None:
    table = candidates.shipped()
    assert table.index.is_unique
    assert len(table) >= 1700
    assert set(table["tier"]) <= set(TIERS)
    assert table[["parameters", "macs", "width", "pixels"]].gt(0).all().all()
    assert (table["paradigm"] == "other").sum() == 0


@pytest.mark.parametrize(
    ("name", "paradigm", "data"),
    [
        ("resnet50.a1_in1k", "supervised", ["imagenet1k"]),
        ("convnext_tiny.fb_in22k_ft_in1k_384", "supervised", ["imagenet22k", "imagenet1k"]),
        ("vit_small_patch16_dinov3.lvd1689m", "dinov3", ["lvd1689m"]),
        ("convnext_tiny.dinov3_lvd1689m", "dinov3", ["lvd1689m"]),
        ("vit_base_patch14_reg4_dinov2.lvd142m", "dinov2", ["lvd142m"]),
        ("vit_small_patch8_224.dino", "dino", ["imagenet1k"]),
        ("vit_base_patch16_224.mae", "mae", ["imagenet1k"]),
        ("convnextv2_base.fcmae_ft_in22k_in1k", "fcmae", ["imagenet1k", "imagenet22k", "imagenet1k"]),
        ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", "clip", ["laion2b", "imagenet12k", "imagenet1k"]),
        ("vit_base_patch16_siglip_224.v2_webli", "siglip", ["webli"]),
        ("eva02_small_patch14_224.mim_in22k", "eva", ["imagenet22k"]),
        ("beit_base_patch16_224.in22k_ft_in22k", "beit", ["imagenet22k", "imagenet22k"]),
        ("deit_tiny_distilled_patch16_224.fb_in1k", "distilled", ["imagenet1k"]),
        ("regnety_320.seer", "swav", ["instagram1b"]),
    ],
)
def test_pretraining_is_read_from_the_id(name: str, paradigm: str, data: list[str]) -> None:
    assert (paradigm_of(name), data_of(name)) == (paradigm, data)


@pytest.mark.parametrize(
    ("license_", "tier"),
    [
        ("apache-2.0", "permissive"),
        ("MIT", "permissive"),
        ("cc-by-nc-4.0", "research"),
        ("apple-amlr", "research"),
        ("fair-noncommercial-research-license", "research"),
        ("dinov3-license", "custom"),
        ("gemma", "custom"),
        ("unknown", "unknown"),
        (None, "unknown"),
    ],
)
def test_an_unknown_licence_is_never_permissive(license_: str | None, tier: str) -> None:
    assert tier_of(license_) == tier


def test_wildcards_match_and_a_misspelt_one_names_the_closest() -> None:
    assert candidates.matching(["resnet50.a1_in1k", "resnet50.a*"])[0] == "resnet50.a1_in1k"
    assert len(candidates.matching(["vit_small*dinov2*"])) == 2
    with pytest.raises(SettingError, match=r"models=resnet50\.a9_in1k: not known\. Did you mean 'resnet50\."):
        candidates.matching(["resnet50.a9_in1k"])


def test_the_command_filters(capsys: pytest.CaptureFixture[str]) -> None:
    candidates.main(["vit_small*", "--paradigm", "dinov2", "--parameters", "30e6", "--tier", "permissive", "--csv"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == candidates.matching(["vit_small*dinov2*"])
    with pytest.raises(SystemExit, match=r"--paradigm=dinov: not known\. Did you mean 'dinov"):
        candidates.main(["--paradigm", "dinov"])
