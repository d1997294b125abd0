"""Pretrained backbones with their own preprocessing and pooling."""

from itm.models.backbone import Backbone, check_zoo, load_backbone

__all__ = ["Backbone", "check_zoo", "load_backbone"]
