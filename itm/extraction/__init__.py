"""Images through backbones into features on disk."""
