"""Pretrained backbones with their own preprocessing and pooling."""
