"""Put tensors into a network, every one in its place."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from itm.core.errors import CheckpointError

# position lookups that networks compute themselves, and auxiliary classifiers that only training uses
_SURPLUS = re.compile(r"(^|\.)(relative_position_index|relative_coords_table|attn_mask)$|^(AuxLogits|aux1|aux2)\.")
_LARGE = 2**20  # bytes
_PIXELS_OF_WINDOW = 32  # Swin's windows span a 32nd of the image's side


def match_by_order(weights: Mapping[str, Tensor], names: Iterable[str], setting: str) -> dict[str, Tensor]:
    """Rename tensors of another code base that come in the network's own order.

    Args:
        weights: Tensors under foreign names.
        names: The network's names, in its order.
        setting: The setting as the user typed it, for messages.

    Returns:
        The network's names with the tensors.

    Raises:
        CheckpointError: If the counts differ, or a pair differs in its last part (weight, bias, running_mean, ...).
    """
    names = list(names)
    for foreign, own in zip(weights, names, strict=False):
        if foreign.rpartition(".")[2] != own.rpartition(".")[2]:
            raise CheckpointError(f"{setting}: in order, {foreign} would become {own}; the file is of another network.")
    if len(weights) != len(names):
        raise CheckpointError(f"{setting}: {len(weights)} tensors, the network has {len(names)}.")
    return dict(zip(names, weights.values(), strict=True))


def load_weights(net: nn.Module, weights: Mapping[str, Tensor], setting: str) -> None:
    """Load tensors into a network, every one in its place.

    Counters of batches may be missing (inference ignores them), auxiliary classifiers and position lookups may be
    there in excess (networks do without or compute them). The last LayerNorm of a transformer belongs to its pooling:
    where the network pools otherwise than the weights did, theirs is left out and the network's, which starts as the
    identity scale, stays.

    Args:
        net: Changed in place.
        weights: Name to tensor.
        setting: The setting as the user typed it, for messages.

    Raises:
        CheckpointError: At the first tensor that has another shape, is missing, or is not the network's.
    """
    expected = net.state_dict()
    weights = _without_other_norm(weights, expected)
    weights = {name: value for name, value in weights.items() if not _SURPLUS.search(name)}
    computed = {name: value for name, value in expected.items() if _SURPLUS.search(name)}
    weights |= computed
    for name in weights:
        if name in expected and name not in computed:
            check_values(name, weights[name], expected[name].is_floating_point(), setting)
    for name, own in expected.items():
        if name in weights and weights[name].shape != own.shape:
            found = tuple(weights[name].shape)
            hint = _channel_hint(weights[name], own) or _size_hint(name, weights[name], net, setting)
            raise CheckpointError(f"{setting}: {name} has shape {found}, the network needs {tuple(own.shape)}.{hint}")
    for name, own in expected.items():
        if name not in weights and not name.endswith("num_batches_tracked"):
            raise CheckpointError(f"{setting}: {name} is missing, of shape {tuple(own.shape)}. Is the layout right?")
    for name, tensor in weights.items():
        if name not in expected:
            shape = tuple(tensor.shape)
            raise CheckpointError(f"{setting}: {name}, of shape {shape}, is not part of the network.")
    expected.update(weights)  # keeps the versions of the layers, which some layers ask for
    try:
        net.load_state_dict(expected)
    except RuntimeError as error:  # sparse, quantised or meta tensors of the right shape
        raise CheckpointError(
            f"{setting}: the tensors cannot be copied ({str(error).splitlines()[-1].strip()})."
        ) from error


def check_values(name: str, tensor: Tensor, is_floating: bool, setting: str) -> None:
    """Refuse values that no weight can have.

    Args:
        name: The tensor's name.
        tensor: The tensor.
        is_floating: Whether the network's own tensor is floating-point; counters are whole numbers.
        setting: The setting as the user typed it, for messages.

    Raises:
        CheckpointError: If the tensor has no memory, is sparse or quantised, or holds NaN, infinite, complex, boolean
            or whole numbers.
    """
    found = None
    if tensor.is_meta:
        found = "has no values (meta device)"
    elif tensor.is_quantized:
        found = "is quantised; expected floating-point values"
    elif tensor.layout != torch.strided:
        found = "cannot be copied (sparse); expected a dense tensor"
    elif is_floating and not tensor.is_floating_point():
        found = f"holds {str(tensor.dtype).removeprefix('torch.')} values; expected floating-point values"
    elif tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size() > _LARGE:
        found = f"repeats few values over the shape {tuple(tensor.shape)}; expected one value per element"
    elif is_floating and not bool(tensor.isfinite().all()):
        found = "holds NaN or infinite values; the training diverged or the file is damaged"
    if found is not None:
        raise CheckpointError(f"{setting}: {name} {found}.")


def _channel_hint(tensor: Tensor, own: Tensor) -> str:
    """Explain a stem that reads more than red, green and blue."""
    if own.ndim != 4 or tensor.ndim != 4 or own.shape[1] != 3 or tensor.shape[1] == 3:
        return ""
    return (
        f" The weights read {tensor.shape[1]} channels, images here have 3 (red, green and blue); grey weights of 1 "
        "channel are adapted, others need weights for 3 channels."
    )


def _size_hint(name: str, tensor: Tensor, net: nn.Module, setting: str) -> str:
    """Name the image size that learned positions belong to."""
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", getattr(net, "patch_size", 1))
    pixels = patch[0] if isinstance(patch, tuple) else int(patch)
    if name.endswith("relative_position_bias_table") and tensor.ndim == 2 and len(tensor) > 3:
        has_token = isinstance(getattr(net, "cls_token", None), nn.Parameter)
        window = (math.isqrt(len(tensor) - 3 * has_token) + 1) // 2
        side = window * (pixels if has_token else _PIXELS_OF_WINDOW)
    elif name in ("pos_embed", "encoder.pos_embedding") and tensor.ndim == 3:
        side = math.isqrt(tensor.shape[1]) * pixels
    else:
        return ""
    entry = setting.partition(".checkpoint")[0].partition(".pretrained")[0]
    return f" The weights see {side} px: set {entry}.image_size={side}, or another size to resample the positions."


def _without_other_norm(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for own, other in (("fc_norm.", "norm."), ("norm.", "fc_norm.")):
        if f"{own}weight" in expected and f"{own}weight" not in weights and f"{other}weight" in weights:
            kept = {name: tensor for name, tensor in weights.items() if not name.startswith(other)}
            return kept | {name: tensor for name, tensor in expected.items() if name.startswith(own)}
    return dict(weights)
