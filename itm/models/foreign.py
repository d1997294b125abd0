"""Fit weights that other code bases wrote to a network: holders, prefixes, authors' names, heads, grey stems."""

from __future__ import annotations

import logging
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from itm.core.errors import CheckpointError

_log = logging.getLogger(__name__)
_SHARE = 0.9  # of the best part's tensors: another part with as many fits as well
_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?)([._]|$)")
# layers of self-distillation: the teacher beside them is the student's running average
_DISTILLED = re.compile(r"dino_head|ibot_head|last_layer")
# what stands on top of the features, by the names that training code gives it
_HEADS = re.compile(
    r"^(head(?!\.norm)|heads|head_dist|fc|classifier|linear|last_linear|cls_head|projector|proj_head|projection_head"
    r"|predictor|prototypes|dino_head|ibot_head|mask_token)(\.|$)"
)


@dataclass(frozen=True)
class _Part:
    """Tensors of a file that share a beginning of their names, with that beginning removed."""

    prefix: str
    weights: dict[str, Tensor]
    fitting: int = 0  # tensors with the name and shape of one of the network's
    named: int = 0  # tensors with the name of one of the network's

    @property
    def rank(self) -> tuple[int, int]:
        return self.fitting, self.named


def fit_names(weights: Mapping[str, Tensor], net: nn.Module, heads: Sequence[str], source: str) -> dict[str, Tensor]:
    """Return weights under the network's names.

    The tensors may lie under any holder or prefix (``state_dict``, ``model_ema.module``, ``teacher.backbone``): those
    that fit the network best are taken. Where names still differ, timm's ``checkpoint_filter_fn`` of the architecture
    renames those of its authors: DINOv2, Swin, ConvNeXt and others. Of several parts that fit, averaged weights are
    taken before raw ones, as timm's own loader does, and DINO's teacher before its student.

    Args:
        weights: Tensors by name, parts of names separated by dots.
        net: The network, built with a head; it may be on the meta device.
        heads: Names of its classifiers.
        source: The setting that the weights come from, for the log and for messages.

    Returns:
        Tensors by name; what has no place in the network keeps its name and is refused later.

    Raises:
        CheckpointError: If no tensor fits, or the weights of several networks do.
    """
    expected = net.state_dict()
    parts = [_counted(prefix, part, expected) for prefix, part in _parts(dict(weights), len(expected) // 2)]
    if not any(_complete(part.weights, expected, heads) for part in parts):
        parts = [_renamed_by_timm(part, net, expected) for part in parts]
    best = _choose(parts, list(weights), source)
    if best.prefix:
        left = len(weights) - len(best.weights)
        _log.info("%s: tensors under %r taken, %d others left out.", source, best.prefix, max(left, 0))
    found = _without_other_heads(best.weights, expected, heads, source)
    return _with_three_channels(found, expected, source)


def _parts(weights: dict[str, Tensor], least: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the weights, and those under each beginning of names that ``least`` tensors or more share."""
    waiting = [("", weights)]
    while waiting:
        prefix, part = waiting.pop(0)
        yield prefix, part
        groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in part.items():
            first, dot, rest = name.partition(".")
            if dot:
                groups[first][rest] = tensor
        waiting += [(f"{prefix}{first}.", group) for first, group in groups.items() if len(group) >= max(least, 1)]


def _counted(prefix: str, weights: dict[str, Tensor], expected: Mapping[str, Tensor]) -> _Part:
    named = [name for name in weights if name in expected]
    fitting = [name for name in named if weights[name].shape == expected[name].shape]
    return _Part(prefix, weights, len(fitting), len(named))


def _complete(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], heads: Sequence[str]) -> bool:
    """Return whether every place but a head's has a tensor."""
    return all(
        name in weights
        for name in expected
        if name.rpartition(".")[0] not in heads and not name.endswith("num_batches_tracked")
    )


def _renamed_by_timm(part: _Part, net: nn.Module, expected: Mapping[str, Tensor]) -> _Part:
    rename: Any = getattr(sys.modules.get(type(net).__module__), "checkpoint_filter_fn", None)
    if rename is None:
        return part
    try:
        renamed = _counted(part.prefix, dict(rename(dict(part.weights), net)), expected)
    except (KeyError, RuntimeError, AttributeError, ValueError, IndexError, TypeError, AssertionError):
        return part  # not a file of this architecture's authors; the names are refused later
    return renamed if renamed.named >= part.named else part


def _choose(parts: Sequence[_Part], names: Sequence[str], source: str) -> _Part:
    """Return the part that fits best; averaged weights before raw ones."""
    best = max(parts, key=lambda part: part.rank)  # the first of equals, which has the shortest prefix
    if best.named == 0:
        raise CheckpointError(
            f"{source}: none of its {len(names)} tensors is the network's; found {', '.join(names[:4])}. Is it of "
            "another model or layout?"
        )
    equal = [best]
    for part in parts:
        apart = not any(part.prefix.startswith(other.prefix) or other.prefix.startswith(part.prefix) for other in equal)
        if apart and part.fitting >= _SHARE * best.fitting and part.named >= _SHARE * best.named:
            equal.append(part)
    if len(equal) == 1:
        return best
    averaged = [part for part in equal if _AVERAGED.search(part.prefix)]
    if not averaged and len(equal) == 2:
        averaged = [part for part in equal if _is_teacher(part, equal, names)]
    if len(averaged) != 1:
        found = " and ".join(repr(part.prefix) for part in equal[:3])
        raise CheckpointError(
            f"{source}: {len(equal)} sets of weights fit the network, under {found}; save the one that is meant as a "
            "bare state_dict."
        )
    _log.info("%s: averaged weights (%s) taken.", source, averaged[0].prefix.rstrip("."))
    return averaged[0]


def _is_teacher(part: _Part, equal: Sequence[_Part], names: Sequence[str]) -> bool:
    """Return whether a part is the averaged one of a teacher and a student, as DINO saves them.

    A student and a teacher inside one state dict can also be two networks of knowledge distillation: they are a pair
    only beside the heads of DINO.
    """
    if "teacher" not in part.prefix.split(".") or not any("student" in other.prefix.split(".") for other in equal):
        return False
    return part.prefix.startswith("teacher.") or any(_DISTILLED.search(name) for name in names)


def _without_other_heads(
    weights: dict[str, Tensor], expected: Mapping[str, Tensor], heads: Sequence[str], source: str
) -> dict[str, Tensor]:
    """Leave out heads that are not one linear layer of the network's name: features do not need them."""
    own = {f"{head}.{part}" for head in heads for part in ("weight", "bias")}
    inside = tuple(f"{head}." for head in heads)
    other = [
        name
        for name in weights
        if name not in own and name not in expected and (name.startswith(inside) or _HEADS.match(name))
    ]
    if any(f"{head}.weight" not in weights for head in heads):  # one of two heads gives no logits
        other += [name for name in weights if name in own]
    if not other:
        return weights
    _log.info("%s: heads of other layers (%s) are left out.", source, ", ".join(other[:4]))
    dropped = set(other)
    return {name: tensor for name, tensor in weights.items() if name not in dropped}


def _with_three_channels(weights: dict[str, Tensor], expected: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Spread the first convolution of a network for grey images over red, green and blue."""
    adapted = dict(weights)
    for name, tensor in weights.items():
        own = expected.get(name)
        if own is None or own.ndim != 4 or tensor.ndim != 4 or (own.shape[1], tensor.shape[1]) != (3, 1):
            continue
        if tensor.shape[0] == own.shape[0] and tensor.shape[2:] == own.shape[2:] and tensor.is_floating_point():
            adapted[name] = tensor.expand(-1, 3, -1, -1) / 3
            _log.info("%s: %s has 1 channel; a third reads each colour.", source, name)
    return adapted
