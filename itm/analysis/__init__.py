"""Looks at features and trained maps that are no score: each takes a pool and ITM, and gives a table and a figure."""
