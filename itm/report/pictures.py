"""Pictures inside a page: small PNG files as ``data:`` addresses, which need no other file."""

from __future__ import annotations

import base64
import io

from PIL import Image


def data_uri(png: bytes) -> str:
    """Return the content of a PNG file as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def thumbnail(image: Image.Image, side: int) -> str:
    """Return an image as a small PNG in a ``data:`` address; an image with a palette keeps its colours unmixed.

    Args:
        image: The image; a smaller one keeps its size.
        side: Longer side of the result, pixels.
    """
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.NEAREST if image.mode == "P" else Image.Resampling.BICUBIC
    buffer = io.BytesIO()
    image.resize(size, how).save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue())
