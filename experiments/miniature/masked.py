"""Masked image modelling with vision transformers: MAE and SimMIM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import torch.nn.functional as F
from lightly.models.modules import MaskedVisionTransformerTIMM
from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
from lightly.models.utils import (
    get_at_index,
    normalize_mean_var,
    patchify,
    random_token_mask,
    repeat_token,
    set_at_index,
)
from torch import Tensor, nn

from experiments.miniature.module import Pretraining, seeded, width
from experiments.miniature.views import RandomViews, normalize

_VIEWS = {"scale": (0.5, 1.0), "brightness": 0.2, "contrast": 0.2, "invert": 0.2}


class _Masked(Pretraining, ABC):
    """Base class: mask part of the patches and predict them from the others.

    Args:
        mask_ratio: Share of masked patches.
        views: Settings of :class:`experiments.miniature.views.RandomViews` that differ from this file's defaults.
        clip: Largest gradient norm, or None for no limit.
        settings: Settings of :class:`experiments.miniature.module.Pretraining`.
    """

    def __init__(
        self,
        *,
        mask_ratio: float,
        views: Mapping[str, Any] | None = None,
        clip: float | None = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(clip=clip, **settings)
        self.mask_ratio = mask_ratio
        self.views = RandomViews(**{**_VIEWS, **(views or {})})
        vit = cast(Any, self.net)
        self.patch_size = int(vit.patch_embed.patch_size[0])
        self.num_patches = int(vit.patch_embed.num_patches)
        with seeded(self.seed, 1):
            self.encoder = MaskedVisionTransformerTIMM(vit)  # overwrites the network's initial weights

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of one view; the labels are not used."""
        return self.loss_of_views(self.views(images))

    def loss_of_views(self, views: Tensor) -> Tensor:
        """Return the loss of images, float ``[B, 3, H, W]``, with a new random mask."""
        size = (len(views), self.encoder.sequence_length)
        seen, hidden = random_token_mask(size, self.mask_ratio, device=views.device)
        return self.loss_of_masks(views, seen, hidden)

    @abstractmethod
    def loss_of_masks(self, views: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """Return the loss for a given mask: indices of visible and masked tokens; the class token 0 is visible."""

    def features(self, images: Tensor) -> Tensor:
        """Return the mean of the patch tokens after a plain LayerNorm; the trained one is for single tokens."""
        vit = cast(Any, self.net)
        tokens = vit.blocks(vit.norm_pre(self.encoder.preprocess(normalize(images.to(self.device)))))
        return F.layer_norm(tokens[:, 1:].mean(1), (tokens.shape[-1],), eps=1e-6)

    def target(self, views: Tensor, hidden: Tensor) -> Tensor:
        """Return the pixels of the masked patches, ``[B, masked, 3 * patch_size^2]``."""
        return cast(Tensor, get_at_index(patchify(views, self.patch_size), hidden - 1))


class MAE(_Masked):
    """Encode the visible patches; a small decoder predicts the pixels of the masked ones (He et al. 2022).

    The predicted pixels are normalised per patch.

    Args:
        decoder_dim: Width of the decoder.
        decoder_depth: Number of decoder blocks.
        decoder_heads: Number of attention heads of the decoder.
        mask_ratio: Share of masked patches.
        settings: Settings of the base classes.
    """

    def __init__(
        self,
        *,
        decoder_dim: int = 64,
        decoder_depth: int = 2,
        decoder_heads: int = 4,
        mask_ratio: float = 0.75,
        **settings: Any,
    ) -> None:
        super().__init__(mask_ratio=mask_ratio, **settings)
        with seeded(self.seed, 2):
            self.embed = nn.Linear(width(self.net), decoder_dim)
            self.decoder = MaskedVisionTransformerDecoderTIMM(
                self.num_patches, decoder_dim, decoder_depth, decoder_heads
            )
            self.predict = nn.Linear(decoder_dim, 3 * self.patch_size**2)

    def loss_of_masks(self, views: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """Return the mean squared error of the normalised pixels of the masked patches."""
        tokens = repeat_token(self.decoder.mask_token, (len(views), self.encoder.sequence_length))
        known = self.embed(self.encoder.encode(views, idx_keep=seen))
        decoded = self.decoder(set_at_index(tokens, seen, known.type_as(tokens)))
        return F.mse_loss(self.predict(get_at_index(decoded, hidden)), normalize_mean_var(self.target(views, hidden)))


class SimMIM(_Masked):
    """Encode all patches, the masked ones as a learned token; one layer predicts their pixels (Xie et al. 2022).

    Args:
        mask_ratio: Share of masked patches.
        settings: Settings of the base classes.
    """

    def __init__(self, *, mask_ratio: float = 0.6, **settings: Any) -> None:
        super().__init__(mask_ratio=mask_ratio, **settings)
        with seeded(self.seed, 2):
            self.predict = nn.Linear(width(self.net), 3 * self.patch_size**2)

    def loss_of_masks(self, views: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """Return the mean absolute error of the pixels of the masked patches."""
        encoded = self.encoder.encode(views, idx_mask=hidden)
        return F.l1_loss(self.predict(get_at_index(encoded, hidden)), self.target(views, hidden))
