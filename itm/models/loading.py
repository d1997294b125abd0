"""Put tensors into a network, every one in its place."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from itm.core.errors import CheckpointError

# position lookups that networks compute themselves, and auxiliary classifiers that only training uses
_SURPLUS = re.compile(r"(^|\.)relative_position_index$|^(AuxLogits|aux1|aux2)\.")


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


def fit(net: nn.Module, weights: Mapping[str, Tensor], setting: str) -> None:
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
    weights = {name: value for name, value in weights.items() if name in expected or not _SURPLUS.search(name)}
    for name, own in expected.items():
        if name in weights and weights[name].shape != own.shape:
            found = tuple(weights[name].shape)
            hint = _size_hint(name, weights[name], net, setting)
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


def _size_hint(name: str, tensor: Tensor, net: nn.Module, setting: str) -> str:
    """Name the image size that learned positions belong to."""
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    if name != "pos_embed" or tensor.ndim != 3 or patch is None:
        return ""
    side = math.isqrt(tensor.shape[1]) * (patch[0] if isinstance(patch, tuple) else patch)
    entry = setting.partition(".checkpoint")[0].partition(".pretrained")[0]
    return f" The weights see {side} px: set {entry}.image_size={side}, or another size to resample the positions."


def _without_other_norm(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for own, other in (("fc_norm.", "norm."), ("norm.", "fc_norm.")):
        if f"{own}weight" in expected and f"{own}weight" not in weights and f"{other}weight" in weights:
            kept = {name: tensor for name, tensor in weights.items() if not name.startswith(other)}
            return kept | {name: tensor for name, tensor in expected.items() if name.startswith(own)}
    return dict(weights)
