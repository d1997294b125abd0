"""Fit weights that other code bases wrote to a network of timm: prefixes, authors' names, wrapped heads, grey stems."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from itm.core.errors import CheckpointError

_log = logging.getLogger(__name__)
_LEVELS = 3  # parts of a name that can be a prefix, as in `model.backbone.module.`


def fit_names(weights: Mapping[str, Tensor], net: nn.Module, heads: Sequence[str], source: str) -> dict[str, Tensor]:
    """Return weights under the network's names.

    Names that fit already stay. Otherwise the prefix under which most names fit is removed. Where names still differ,
    timm's ``checkpoint_filter_fn`` of the architecture renames those of its authors: DINOv2, Swin, ConvNeXt and others.

    Args:
        weights: Tensors by name.
        net: The network, built with a head; it may be on the meta device.
        heads: Names of its classifiers.
        source: The setting that the weights come from, for the log.

    Returns:
        Tensors by name; what has no place in the network keeps its name and is refused later.

    Raises:
        CheckpointError: If the weights of several networks fit, such as a student's and a teacher's.
    """
    expected = net.state_dict()
    found = dict(weights)
    if not _fits(found, expected, heads):
        found = _without_prefix(found, expected, source)
    if not _fits(found, expected, heads):
        found = _renamed_by_timm(found, net, expected, source)
    found = _without_wrapped_heads(found, heads, source)
    return _with_three_channels(found, expected, source)


def _fits(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], heads: Sequence[str]) -> bool:
    """Whether every tensor has a place, and every place but a head's has a tensor."""
    own = {name for name in expected if name.rpartition(".")[0] not in heads and "num_batches_tracked" not in name}
    return own <= set(weights) and set(weights) <= set(expected)


def _matches(names: Sequence[str], expected: Mapping[str, Tensor]) -> int:
    return sum(name in expected for name in names)


def _without_prefix(weights: dict[str, Tensor], expected: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    prefixes: Counter[str] = Counter()
    for name in weights:
        parts = name.split(".")
        for level in range(1, min(_LEVELS, len(parts) - 1) + 1):
            prefixes[".".join(parts[:level]) + "."] += 1
    best, most, equal = "", _matches(list(weights), expected), ""
    for prefix in prefixes:
        count = _matches([name.removeprefix(prefix) for name in weights if name.startswith(prefix)], expected)
        if count > most:
            best, most, equal = prefix, count, ""
        elif count == most and best:
            equal = prefix
    if not best:
        return weights
    if equal:
        raise CheckpointError(
            f"{source}: two sets of weights fit the network, under {best!r} and {equal!r}; save the one that is meant "
            "as a bare state_dict."
        )
    kept = {name.removeprefix(best): tensor for name, tensor in weights.items() if name.startswith(best)}
    dropped = len(weights) - len(kept)
    _log.info("%s: names without the prefix %r; %d other tensors left out.", source, best, dropped)
    return kept


def _renamed_by_timm(
    weights: dict[str, Tensor], net: nn.Module, expected: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    rename: Any = getattr(sys.modules.get(type(net).__module__), "checkpoint_filter_fn", None)
    if rename is None:
        return weights
    try:
        renamed = dict(rename(dict(weights), net))
    except (KeyError, RuntimeError, AttributeError, ValueError, IndexError, TypeError, AssertionError):
        return weights  # not a file of this architecture's authors; the names are refused later
    if _matches(list(renamed), expected) < _matches(list(weights), expected):
        return weights
    _log.info("%s: names of the architecture's authors, renamed as timm does.", source)
    return renamed


def _without_wrapped_heads(weights: dict[str, Tensor], heads: Sequence[str], source: str) -> dict[str, Tensor]:
    """Leave out a head that was replaced by a module of several layers: features do not need it."""
    own = {f"{head}.{part}" for head in heads for part in ("weight", "bias")}
    wrapped = [name for name in weights if name not in own and any(name.startswith(f"{head}.") for head in heads)]
    # a normalisation inside the head belongs to the features: `head.norm` beside `head.fc`
    wrapped = [name for name in wrapped if name.removeprefix(name.partition(".")[0] + ".")[:1].isdigit()]
    if not wrapped:
        return weights
    _log.info("%s: the head has several layers (%s) and is left out.", source, ", ".join(wrapped[:4]))
    return {name: tensor for name, tensor in weights.items() if name not in wrapped}


def _with_three_channels(weights: dict[str, Tensor], expected: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Spread the first convolution of a network for grey images over red, green and blue."""
    adapted = dict(weights)
    for name, tensor in weights.items():
        own = expected.get(name)
        if own is None or own.ndim != 4 or tensor.ndim != 4 or (own.shape[1], tensor.shape[1]) != (3, 1):
            continue
        if tensor.shape[0] == own.shape[0] and tensor.shape[2:] == own.shape[2:]:
            adapted[name] = tensor.expand(-1, 3, -1, -1) / 3
            _log.info("%s: %s has 1 channel; a third reads each colour.", source, name)
    return adapted
