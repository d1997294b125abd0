"""Transferability scores, one paper per file."""
