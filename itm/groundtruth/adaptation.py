"""Which weights of a pre-trained network train on a new dataset: all, none, or a few (PEFT).

- ``full``: every weight except those of the source head.
- ``linear``: none; only the new head learns, from frozen features.
- ``lora``: low-rank updates of the attention's projections (Hu et al., ICLR 2022).
- ``vpt``, ``vpt_deep``: learned prompts before the first block, or new ones before each block (Jia et al., ECCV 2022,
  equations 4 to 7).
- ``bitfit``: the biases (Ben Zaken et al., ACL 2022).

``zero_shot`` trains nothing at all, see :mod:`itm.groundtruth.zero_shot`.
"""

from __future__ import annotations

import math
from typing import get_args

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from itm.core.errors import SettingError, unknown
from itm.groundtruth.protocol import Adaptation
from itm.models.backbone import Backbone

ADAPTATIONS: tuple[Adaptation, ...] = get_args(Adaptation)


def adapt(backbone: Backbone, mode: str, *, rank: int = 8, prompts: int = 10, seed: int = 0) -> Backbone:
    """Mark the weights of a backbone that train, and add the weights of the adaptation.

    The backbone is changed in place: ``requires_grad`` marks the weights that train, and
    :meth:`~itm.models.backbone.Backbone.features` returns the adapted features. Only ``full`` runs in training mode;
    frozen parts keep their batch-norm statistics and use no dropout.

    Args:
        backbone: Backbone to adapt; with LoRA it still returns the same features at first.
        mode: One of :data:`ADAPTATIONS`.
        rank: Rank of LoRA's updates, whose scale ``α / r`` is 1.
        prompts: Number of VPT's prompts; in each block for ``vpt_deep``.
        seed: Seed of the added weights.

    Returns:
        The same backbone.

    Raises:
        SettingError: If the mode is unknown, a number is below 1, the network does not suit the mode, or peft is
            missing.
    """
    _check_known(mode)
    if mode == "zero_shot":
        raise SettingError("adaptation=zero_shot: trains nothing; see itm.groundtruth.zero_shot.")
    for setting, value in (("rank", rank), ("prompts", prompts)):
        if value < 1:
            raise SettingError(f"{setting}={value}: expected 1 or more.")
    backbone.requires_grad_(mode == "full")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if mode == "lora":
            _add_lora(backbone, rank)
        elif mode in ("vpt", "vpt_deep"):
            _add_prompts(backbone, prompts, mode)
        elif mode == "bitfit":
            _free_biases(backbone)
    for weight in backbone.head_parameters():
        weight.requires_grad_(False)
    return backbone


def check_adaptation(mode: str) -> None:
    """Refuse an adaptation that is not known, or whose package is missing or broken.

    Raises:
        SettingError: With the allowed words, the command that installs the package, or the error of its import.
    """
    _check_known(mode)
    if mode != "lora":
        return
    try:
        import peft  # noqa: F401
    except ImportError as error:
        if error.name == "peft":
            raise SettingError(
                "adaptation=lora: needs the package peft; install it with uv sync --extra peft."
            ) from error
        raise SettingError(f"adaptation=lora: the package peft is installed, but its import fails: {error}.") from error


def _check_known(mode: str) -> None:
    if mode not in ADAPTATIONS:
        raise unknown("adaptation", mode, ADAPTATIONS)


def trainable_parameters(module: nn.Module) -> int:
    """Return the number of weights that train."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def _add_lora(backbone: Backbone, rank: int) -> None:
    """Add rank-``r`` updates, zero at the start, to every attention's projections to q, k, v and back."""
    attentions = {name: module for name, module in backbone.net.named_modules() if name.rpartition(".")[2] == "attn"}
    targets: list[str] = []
    for name, attention in attentions.items():
        if hasattr(attention, "qkv_bias_separate"):
            attention.qkv_bias_separate = True  # the same sum, but qkv is called as a layer, so LoRA takes effect
        layers = (f"{name}.{part}" for part in ("qkv", "proj") if isinstance(getattr(attention, part, None), nn.Linear))
        targets += layers
    if not any(target.endswith(".qkv") for target in targets):
        raise _not_a_transformer(backbone, "lora", "a transformer with a joint projection qkv")
    check_adaptation("lora")
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), backbone.net)


def _add_prompts(backbone: Backbone, count: int, mode: str) -> None:
    """Insert the prompts as layers between the blocks; a last layer removes them before pooling."""
    net = backbone.net
    if not isinstance(net, VisionTransformer):
        raise _not_a_transformer(backbone, mode, "a plain vision transformer of timm")
    start, stop = net.num_prefix_tokens, net.num_prefix_tokens + count
    # Xavier's bound for the patch embedding, as in the paper's code
    bound = math.sqrt(6 / (3 * math.prod(net.patch_embed.patch_size) + net.embed_dim))
    layers: list[nn.Module] = []
    for block in net.blocks:
        if not layers or mode == "vpt_deep":
            tokens = torch.empty(count, net.embed_dim).uniform_(-bound, bound)
            layers.append(Splice(start, stop if layers else start, tokens))
        layers.append(block)
    net.blocks = nn.Sequential(*layers, Splice(start, stop))


def _free_biases(backbone: Backbone) -> None:
    biases = [weight for name, weight in backbone.named_parameters() if name.endswith("bias")]
    if not biases:
        raise SettingError(f"adaptation=bitfit: {backbone.model} has no biases; set adaptation=full or linear.")
    for bias in biases:
        bias.requires_grad_(True)


def _not_a_transformer(backbone: Backbone, mode: str, needed: str) -> SettingError:
    others = ", ".join(other for other in ADAPTATIONS if other not in ("lora", "vpt", "vpt_deep", "zero_shot"))
    return SettingError(f"adaptation={mode}: {backbone.model} is not {needed}; set one of {others}.")


class Splice(nn.Module):
    """Replace the tokens ``start:stop`` of a sequence by learned ones, or remove them.

    Args:
        start: Index of the first token to replace.
        stop: Index of the first token after the replaced ones.
        tokens: Initial values, ``[P, D]``, or None to remove.
    """

    tokens: nn.Parameter | None

    def __init__(self, start: int, stop: int, tokens: Tensor | None = None) -> None:
        super().__init__()
        self.start, self.stop = start, stop
        self.register_parameter("tokens", None if tokens is None else nn.Parameter(tokens))

    def forward(self, x: Tensor) -> Tensor:
        """Map a sequence ``[B, N, D]`` to ``[B, N - (stop - start) + P, D]``."""
        parts = [x[:, : self.start], x[:, self.stop :]]
        if self.tokens is not None:
            parts.insert(1, self.tokens.to(x.dtype).expand(len(x), -1, -1))
        return torch.cat(parts, dim=1)
