"""Errors, features, splits, seeds, files, processes and progress: what every other package shares."""
