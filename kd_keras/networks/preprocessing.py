"""What a network does to the pixels that it receives."""

from __future__ import annotations

from typing import NamedTuple


class PixelStatistics(NamedTuple):
    """Mean and standard deviation of pixel values from 0 to 255: one number for all channels, or one for each.

    >>> PixelStatistics(mean=(127.5,), std=(63.75,)).std
    (63.75,)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
