"""Weights and networks in ONNX files, against timm's own tensors and onnx's reference evaluation."""

import numpy as np
import pytest
import timm
import torch

from itm.core.errors import CheckpointError, SettingError
from itm.models.backbone import load_backbone

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SMALL = {"img_size": 28, "embed_dim": 24, "depth": 2, "num_heads": 2}


def save(path, nodes, tensors, shape, output):
    """Write a graph with one input and one output."""
    initializers = [
        numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in tensors.items()
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def dinov2():
    torch.manual_seed(1)
    return timm.create_model("vit_small_patch14_dinov2", num_classes=0, **SMALL)


def exported(net):
    """The tensors of timm's network as PyTorch's exporter writes transformers' network: matrices apart, transposed."""
    tensors, nodes = {}, []

    def matrix(module, weight):
        tensors[name := f"onnx::MatMul_{len(nodes)}"] = weight.T
        nodes.append(helper.make_node("MatMul", ["image", name], [f"out{len(nodes)}"], name=f"/{module}/MatMul"))

    state = {name: value.numpy() for name, value in net.state_dict().items()}
    tensors["backbone.embeddings.cls_token"] = state["cls_token"]
    for name, operation, rows in (("Concat", 1957, slice(0, 1)), ("Reshape", 1962, slice(1, None))):
        tensors[f"onnx::{name}_{operation}"] = state["pos_embed"][:, rows]
        nodes.append(
            helper.make_node("Identity", [f"onnx::{name}_{operation}"], [name], name=f"/backbone/embeddings/{name}_6")
        )
    for part in ("weight", "bias"):
        tensors[f"backbone.embeddings.patch_embeddings.projection.{part}"] = state[f"patch_embed.proj.{part}"]
        tensors[f"backbone.layernorm.{part}"] = state[f"norm.{part}"]
    for block in range(SMALL["depth"]):
        old, new = f"blocks.{block}", f"backbone.encoder.layer.{block}"
        for index, word in enumerate(("query", "key", "value")):
            rows = slice(24 * index, 24 * (index + 1))
            matrix(f"{new}/attention/attention/{word}".replace(".", "/", 2), state[f"{old}.attn.qkv.weight"][rows])
            tensors[f"{new}.attention.attention.{word}.bias"] = state[f"{old}.attn.qkv.bias"][rows]
        matrix(f"{new}/attention/output/dense".replace(".", "/", 2), state[f"{old}.attn.proj.weight"])
        tensors[f"{new}.attention.output.dense.bias"] = state[f"{old}.attn.proj.bias"]
        for number in (1, 2):
            tensors[f"{new}.layer_scale{number}.lambda1"] = state[f"{old}.ls{number}.gamma"]
            matrix(f"{new}/mlp/fc{number}".replace(".", "/", 2), state[f"{old}.mlp.fc{number}.weight"])
            tensors[f"{new}.mlp.fc{number}.bias"] = state[f"{old}.mlp.fc{number}.bias"]
            for part in ("weight", "bias"):
                tensors[f"{new}.norm{number}.{part}"] = state[f"{old}.norm{number}.{part}"]
    tensors["decoder.weight"] = np.ones(3)
    return nodes, tensors


def test_an_exported_dinov2_gives_timm_s_tensors_back(tmp_path):
    net = dinov2()
    nodes, tensors = exported(net)
    file = save(tmp_path / "dino.onnx", nodes, tensors, [1, 24], "out2")
    backbone = load_backbone(
        "d", model="vit_small_patch14_dinov2", model_args=SMALL, checkpoint=str(file), layout="onnx"
    )
    found, expected = backbone.net.state_dict(), net.state_dict()
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def cnn(path):
    """Write a network that takes [B, H, W, 3]: transpose, convolution, pooling, classifier."""
    rng = np.random.default_rng(0)
    tensors = {"w": rng.normal(size=(5, 3, 3, 3)), "b": rng.normal(size=5), "head": rng.normal(size=(5, 2))}
    nodes = [
        helper.make_node("Transpose", ["image"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["channels", "w", "b"], ["map"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["row"]),
        helper.make_node("MatMul", ["row", "head"], ["logits"]),
    ]
    return save(path, nodes, tensors, [None, 32, 32, 3], "logits")


@pytest.mark.parametrize("bgr", [False, True])
def test_features_of_a_converted_network_are_its_pooled_last_map(tmp_path, bgr):
    pytest.importorskip("onnx2torch")
    from onnx.reference import ReferenceEvaluator

    file = cnn(tmp_path / "cnn.onnx")
    backbone = load_backbone(
        "n",
        model=f"onnx:{file}",
        model_args={"bgr": bgr},
        pretrained=True,
        preprocessing={"mean": [0.4, 0.5, 0.6], "std": [1 / 255] * 3},
    )
    assert (backbone.dim, backbone.input_size, backbone.has_head) == (5, 32, False)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3))
    with torch.no_grad():
        found = backbone.features(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.uint8))
    fed = (pixels - 255 * np.array([0.4, 0.5, 0.6])).astype(np.float32)
    graph = onnx.load(file)
    graph.graph.output.append(helper.make_tensor_value_info("row", TensorProto.FLOAT, None))
    expected = ReferenceEvaluator(graph).run(["row"], {"image": fed[..., ::-1] if bgr else fed})[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-2)


def test_a_control_has_other_weights_than_the_file(tmp_path):
    pytest.importorskip("onnx2torch")
    file = cnn(tmp_path / "cnn.onnx")
    trained, control = (load_backbone("n", model=f"onnx:{file}", pretrained=pretrained) for pretrained in (True, False))
    assert trained.weights_digest != control.weights_digest
    assert "control" in control.pretraining


def test_damaged_files_and_other_networks_are_one_line(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph" * 9)
    with pytest.raises(CheckpointError, match=r"broken.onnx: damaged or not an ONNX file") as error:
        load_backbone("n", model="resnet10t", checkpoint=str(broken), layout="onnx")
    assert "\n" not in str(error.value)
    flat = save(
        tmp_path / "flat.onnx",
        [helper.make_node("MatMul", ["image", "w"], ["logits"])],
        {"w": np.ones((3, 2))},
        [1, 3],
        "logits",
    )
    with pytest.raises(SettingError, match="expected a convolutional network"):
        load_backbone("n", model=f"onnx:{flat}", pretrained=True)
