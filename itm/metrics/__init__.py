"""Rank statistics of scores against true accuracies."""
