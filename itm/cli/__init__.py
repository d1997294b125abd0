"""Hydra command lines."""
