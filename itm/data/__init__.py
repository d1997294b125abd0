"""Labelled images: by name, from folders, decoded as a person sees them."""

from itm.data.decode import decode as decode_image
from itm.data.image_set import ImageSet, load_images

__all__ = ["ImageSet", "decode_image", "load_images"]
