"""Experiments and their results; `experiments.miniature` is code, importable from a clone of the repository."""
