"""Labelled images: by name, from folders, decoded as a person sees them."""
