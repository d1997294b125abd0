"""Contrastive training of an image and a text encoder (Radford et al., ICML 2021) with open_clip's model and loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from experiments.miniature.module import Pretraining
from experiments.miniature.pictures import Pictures
from experiments.miniature.views import RandomViews, normalize
from experiments.vlm_miniature.tokens import CONTEXT, VOCABULARY

_VIEWS = {"scale": (0.6, 1.0), "brightness": 0.3, "contrast": 0.3, "invert": 0.1}
_TEXT = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 96, "heads": 4, "layers": 2}
_EMBED_DIM = 96
_MOST_SCALE = 100.0  # of the logits, as CLIP's authors clip it
SIDE = 32
"""Side of the pictures, pixels."""


def model_config(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Return open_clip's configuration of a model with an image encoder.

    Args:
        vision: Fields of open_clip's ``CLIPVisionCfg``.
    """
    return {"embed_dim": _EMBED_DIM, "vision_cfg": {"image_size": SIDE, **vision}, "text_cfg": dict(_TEXT)}


def preprocessing() -> dict[str, Any]:
    """Return open_clip's preprocessing of the pictures."""
    cfg = PreprocessCfg(size=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
    return {"size": cfg.size, "mean": cfg.mean, "std": cfg.std, "interpolation": cfg.interpolation}


class Clip(Pretraining):
    """Find the name of each picture among the names of the batch, and the reverse.

    Args:
        vision: Image encoder, fields of open_clip's ``CLIPVisionCfg``.
        tokens: Token numbers of every name, int64, ``[names, CONTEXT]``; the labels of the pictures are its rows.
        views: Settings of :class:`experiments.miniature.views.RandomViews` that differ from this file's defaults.
        settings: Settings of :class:`experiments.miniature.module.Pretraining`.
    """

    tokens: Tensor

    def __init__(
        self,
        *,
        vision: Mapping[str, Any],
        tokens: Tensor,
        views: Mapping[str, Any] | None = None,
        clip: float | None = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(model="open_clip", model_args=vision, num_classes=0, clip=clip, **settings)
        self.register_buffer("tokens", tokens, persistent=False)
        self.views = RandomViews(**{**_VIEWS, **(views or {})})
        self.criterion = open_clip.ClipLoss()

    def build_net(self, model: str, model_args: Mapping[str, Any] | None, num_classes: int) -> nn.Module:
        """Build the two encoders; ``model_args`` are the fields of the image encoder."""
        return cast(nn.Module, open_clip.CLIP(**model_config(model_args or {})))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return open_clip's contrastive loss of one view of each picture and its name."""
        net = cast(Any, self.net)
        image, text = net.encode_image(self.views(images)), net.encode_text(self.tokens[labels])
        scale = net.logit_scale.exp().clamp(max=_MOST_SCALE)
        return cast(Tensor, self.criterion(F.normalize(image), F.normalize(text), scale))

    def features(self, images: Tensor) -> Tensor:
        """Return embeddings ``[B, D]`` of uint8 images ``[B, 3, H, W]``, before the normalisation to unit length."""
        return cast(Tensor, cast(Any, self.net).encode_image(normalize(images.to(self.device))))

    @torch.inference_mode()
    def held_out_accuracy(self, known: Pictures, new: Pictures, limit: int = 5000) -> dict[str, float]:
        """Return how often a held-out picture's own name is the nearest, among all names of the held-out pictures."""
        self.net.eval()
        names = torch.unique(new.labels)
        text = F.normalize(cast(Any, self.net).encode_text(self.tokens[names]))
        image = F.normalize(torch.cat([self.features(part) for part in torch.split(new.images, 250)]))
        found = names[(image @ text.T).argmax(1)]
        return {"retrieval": round(100 * float((found == new.labels).float().mean()), 2), "names": float(len(names))}


def tokenize(names: Sequence[str], merges: str) -> Tensor:
    """Return token numbers ``[names, CONTEXT]`` by open_clip's tokenizer with the merges of a file."""
    tokenizer = open_clip.SimpleTokenizer(bpe_path=merges, context_length=CONTEXT)
    return cast(Tensor, tokenizer(list(names)))
