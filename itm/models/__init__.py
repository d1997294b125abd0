"""Pretrained backbones with their own preprocessing and pooling."""

from itm.models.backbone import Backbone, load_backbone
from itm.models.entry import check_zoo

__all__ = ["Backbone", "check_zoo", "load_backbone"]
