"""Helpers that several scorers share."""
