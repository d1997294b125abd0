"""Many models in one order."""
