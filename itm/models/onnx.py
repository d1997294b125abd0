"""Weights in ONNX files: the tensors of an exported network under the names that its training code gave them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from itm.core.errors import CheckpointError

if TYPE_CHECKING:
    from onnx import ModelProto

MISSING = "the package onnx is not installed; install it with `uv sync --extra demo` or `pip install onnx`."
_ANONYMOUS = re.compile(r"onnx::\w+_\d+$")  # PyTorch's exporter renames matrices that it transposes
_PATH = re.compile(r"^/(?P<module>.+)/(?P<operation>[A-Za-z]+)(_\d+)?$")

# transformers' names of a DINOv2 encoder: timm's
_DINOV2 = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^layernorm\.", "norm."),
)
_QUERY = ".attention.attention.query."


def read_onnx(path: Path, setting: str) -> dict[str, Tensor]:
    """Read the tensors of an ONNX file that PyTorch exported.

    The exporter stores the matrix of a linear layer transposed and without its name; the name is that of the module
    whose operation multiplies by it. Other values without a name get those of their module and operation.

    Args:
        path: The file.
        setting: The setting as the user typed it, for messages.

    Returns:
        Floating-point tensors by the names of the exported network, in the file's order.

    Raises:
        CheckpointError: If onnx is not installed, or the file is not ONNX.
    """
    model = load_onnx(path, setting)
    from onnx import numpy_helper

    users = {name: node for node in model.graph.node for name in node.input if _ANONYMOUS.match(name)}
    tensors: dict[str, Tensor] = {}
    for initializer in model.graph.initializer:
        value = torch.from_numpy(numpy_helper.to_array(initializer).copy())
        name = initializer.name
        match = _PATH.match(users[name].name) if name in users else None
        if match:
            is_matrix = match["operation"] == "MatMul" and value.ndim == 2
            name = match["module"].replace("/", ".") + (".weight" if is_matrix else f".{match['operation']}")
            value = value.T.contiguous() if is_matrix else value
        if value.is_floating_point():
            tensors[name] = value
    return tensors


def load_onnx(path: Path, setting: str) -> ModelProto:
    """Read an ONNX file; no code in it can run.

    Raises:
        CheckpointError: If onnx is not installed, or the file is not ONNX.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise CheckpointError(f"{setting}={path}: {MISSING}") from error
    try:
        model = onnx.load(path)
    except (DecodeError, OSError, ValueError) as error:
        raise CheckpointError(f"{setting}={path}: damaged or not an ONNX file ({error}).") from error
    if not model.graph.initializer:
        raise CheckpointError(f"{setting}={path}: the ONNX file holds no weights.")
    return model


def with_timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of transformers' DINOv2 encoder to timm's; those of other networks keep their names.

    Queries, keys and values become timm's joint projection. The token that masks patches in pre-training is left out.
    """
    if not any(_QUERY in name for name in tensors):
        return dict(tensors)
    renamed: dict[str, Tensor] = {}
    tensors = _with_positions(tensors)
    for name, value in tensors.items():
        if _QUERY in name:
            parts = [tensors[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            joint = re.sub(r"^encoder\.layer\.(\d+)\.attention\.attention\.query\.", r"blocks.\1.attn.qkv.", name)
            renamed[joint] = torch.cat(parts)
        elif ".attention.attention." not in name and name != "embeddings.mask_token":
            renamed[_timm_name(name)] = value
    return renamed


def _with_positions(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the positions of class token and patches, which a network exported with resampling stores apart."""
    parts = ("embeddings.Concat", "embeddings.Reshape")
    if not all(part in tensors for part in parts):
        return dict(tensors)
    kept = {name: value for name, value in tensors.items() if name not in parts}
    return kept | {"embeddings.position_embeddings": torch.cat([tensors[part] for part in parts], dim=1)}


def _timm_name(name: str) -> str:
    for pattern, replacement in _DINOV2:
        found, count = re.subn(pattern, replacement, name)
        if count:
            return found
    return name
