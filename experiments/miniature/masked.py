"""Vision transformers that learn to fill in what is hidden of an image: MAE and SimMIM."""

from __future__ import annotations

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


class _Masked(Pretraining):
    """Part of the patches is hidden, and predicted from the others.

    Args:
        mask_ratio: Share of the patches that is hidden.
        views: Settings of :class:`experiments.miniature.views.RandomViews` that differ from the family's.
        settings: Of :class:`experiments.miniature.module.Pretraining`.
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
            self.encoder = MaskedVisionTransformerTIMM(vit)  # writes its own initial weights into the network

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of filling in one view; the labels stay unseen."""
        return self.loss_of_views(self.views(images))

    def loss_of_views(self, views: Tensor) -> Tensor:
        """The loss of filling in images, float ``[B, 3, H, W]``, behind a mask drawn now."""
        size = (len(views), self.encoder.sequence_length)
        seen, hidden = random_token_mask(size, self.mask_ratio, device=views.device)
        return self.loss_of_masks(views, seen, hidden)

    def loss_of_masks(self, views: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """The loss behind a given mask: numbers of tokens, the class token's, 0, among the seen."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """Mean of the patches' tokens; the last LayerNorm belongs to single tokens, the mean gets a plain one."""
        vit = cast(Any, self.net)
        tokens = vit.blocks(vit.norm_pre(self.encoder.preprocess(normalize(images.to(self.device)))))
        return F.layer_norm(tokens[:, 1:].mean(1), (tokens.shape[-1],), eps=1e-6)

    def target(self, views: Tensor, hidden: Tensor) -> Tensor:
        """Pixels of the hidden patches, ``[B, hidden, 3 * patch_size^2]``; the class token has none."""
        return cast(Tensor, get_at_index(patchify(views, self.patch_size), hidden - 1))


class MAE(_Masked):
    """The encoder sees the other patches alone; a small decoder predicts the hidden ones' pixels (He et al. 2022).

    Pixels are normalised patch by patch.

    Args:
        decoder_dim: Width of the decoder.
        decoder_depth: Number of its blocks.
        decoder_heads: Number of its attention heads.
        mask_ratio: Share of the patches that is hidden.
        settings: As of the other method of this file.
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
        """Mean squared error of the normalised pixels of the hidden patches."""
        tokens = repeat_token(self.decoder.mask_token, (len(views), self.encoder.sequence_length))
        known = self.embed(self.encoder.encode(views, idx_keep=seen))
        decoded = self.decoder(set_at_index(tokens, seen, known.type_as(tokens)))
        return F.mse_loss(self.predict(get_at_index(decoded, hidden)), normalize_mean_var(self.target(views, hidden)))


class SimMIM(_Masked):
    """The encoder sees all patches, the hidden ones as a learned token; one layer predicts pixels (Xie et al. 2022).

    Args:
        mask_ratio: Share of the patches that is hidden.
        settings: As of the other method of this file.
    """

    def __init__(self, *, mask_ratio: float = 0.6, **settings: Any) -> None:
        super().__init__(mask_ratio=mask_ratio, **settings)
        with seeded(self.seed, 2):
            self.predict = nn.Linear(width(self.net), 3 * self.patch_size**2)

    def loss_of_masks(self, views: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """Mean absolute error of the pixels of the hidden patches."""
        encoded = self.encoder.encode(views, idx_mask=hidden)
        return F.l1_loss(self.predict(get_at_index(encoded, hidden)), self.target(views, hidden))
