"""Which stored values appear as black and as white, for images whose values are wider than 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from itm.core.errors import SettingError
from itm.core.settings import settings

Range = tuple[float, float]

# White levels in use: floating point in 0 to 1, then 8, 10, 12, 14 and 16 bits.
_WHITES = (1, 255, 1023, 4095, 16383, 65535)
_ABOVE_WHITE = 1.05  # resampling and compression overshoot white a little
_FILLED = 0.4  # of a usual range: 100 of 256 grey levels
_QUANTILES = (0.001, 0.999)  # a hot pixel does not decide
# Values that programs of remote sensing write where nothing was measured. NaN and huge numbers count as such, too.
_NODATA = (-99, -999, -9999, -99999, -999999, -32767, -32768)
_HUGE = 1e30


@settings("data")
class PixelSettings:
    """How the stored values of image files become colours; plain 8-bit images need neither setting.

    Args:
        range: The values that appear as black and as white, such as ``[0, 4095]``; None chooses them from the images.
        bands: The bands of a multi-band image that appear as red, green and blue, or one as grey, counted from 1 as
            GDAL counts; None takes grey and RGB images as they are.
    """

    range: Annotated[Sequence[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=2, max_length=2)] | None
    bands: Annotated[Sequence[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=3)] | None

    def __post_init__(self) -> None:
        if self.range is not None and not self.range[0] < self.range[1]:
            raise SettingError(
                f"data.range=[{self.range[0]:g},{self.range[1]:g}]: expected the value of black below that of white, "
                "as in [0,4095]."
            )
        if self.bands is not None and len(self.bands) == 2:
            raise SettingError(
                f"data.bands={list(self.bands)}: expected three bands (red, green, blue), as in [3,2,1], or one."
            )


PLAIN = PixelSettings(None, None)
"""Nothing set: each wide image is shown in a range of its own."""


def choose_range(values: NDArray[Any]) -> Range:
    """Choose the values that appear as black and as white.

    Values that mark missing pixels are left out, and a thousandth at either end, so that single pixels do not decide.
    If the rest fills at least 40 % of a usual range (0 to 1, or that of 8, 10, 12, 14 or 16 bits), this range is
    taken; otherwise the range goes from the smallest to the largest value, from 0 where this is near.

    Args:
        values: Sampled values of one image or of a dataset, any shape.

    Returns:
        The values of black and of white; equal if all values are.

    Raises:
        ValueError: If no value is finite.
    """
    kept = _without_nodata(values.astype(np.float64).ravel())
    if not len(kept):
        raise ValueError("it holds no finite value")
    low, high = (float(value) for value in np.quantile(kept, _QUANTILES))
    if low == high:  # nearly all pixels are equal: the few others are the picture
        low, high = float(kept.min()), float(kept.max())
    white = next((white for white in _WHITES if high <= white * _ABOVE_WHITE), np.inf)
    if low >= 0 and high - low >= white * _FILLED:
        return 0.0, float(white)
    return (0.0, high) if 0 <= low < high / 4 else (low, high)


def to_bytes(values: NDArray[Any], shown: Range, nodata: float | None = None) -> NDArray[np.uint8]:
    """Scale values so that ``shown`` becomes 0 to 255; what lies outside is clipped, missing pixels become 0.

    Args:
        values: Stored values, any shape.
        shown: The values of black and of white.
        nodata: The file's own mark of a missing pixel.
    """
    low, high = shown
    wide = values.astype(np.float32)
    missing = np.isnan(wide) | (np.isfinite(wide) & (np.abs(wide) >= _HUGE))
    if nodata is not None:
        missing |= wide == np.float32(nodata)
    scaled = (np.where(missing, np.float32(low), wide) - np.float32(low)) * np.float32(255 / (high - low or 1))
    shown_bytes: NDArray[np.uint8] = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return shown_bytes


def _without_nodata(values: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = values[np.isfinite(values) & (np.abs(values) < _HUGE)]
    measured = finite[~np.isin(finite, _NODATA)]
    return _without_distant_ends(measured if len(measured) else finite)


def _without_distant_ends(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out a smallest or largest value that is farther from the others than these are from each other."""
    distinct = np.unique(values)
    for _ in range(4):  # two marks of missing pixels at either end
        if len(distinct) < 4:
            break
        if distinct[1] - distinct[0] > distinct[-1] - distinct[1]:
            distinct = distinct[1:]
        elif distinct[-1] - distinct[-2] > distinct[-2] - distinct[0]:
            distinct = distinct[:-1]
    return values[(values >= distinct[0]) & (values <= distinct[-1])] if len(distinct) else values
