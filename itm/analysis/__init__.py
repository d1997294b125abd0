"""Analyses of features and trained maps: each takes a pool and ITM, and returns a table and a figure."""
