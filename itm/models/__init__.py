"""Pretrained backbones with their own preprocessing and pooling."""

from itm.models.backbone import Backbone, load_backbone

__all__ = ["Backbone", "load_backbone"]
