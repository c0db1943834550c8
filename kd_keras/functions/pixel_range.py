"""The range of pixel values that a teacher was trained on, if it is not 0 to 255."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kd_keras.contracts import Tensor


@dataclass(frozen=True)
class PixelRange:
    """A function from pixel values in 0..255 to another range, with which a recording is compared.

    >>> PixelRange(-1, 1)(255.0)
    1.0
    """

    lowest: float
    highest: float

    def __call__(self, images: Tensor) -> Tensor:
        return images * ((self.highest - self.lowest) / 255) + self.lowest


def range_identity(preprocess: Callable | None) -> list[float] | None:
    """What identifies a `PixelRange` in a plan; `None` for any other function, whose outputs are not known beforehand.

    >>> range_identity(PixelRange(0, 1)), range_identity(abs)
    ([0.0, 1.0], None)
    """
    if not isinstance(preprocess, PixelRange):
        return None
    return [float(preprocess.lowest), float(preprocess.highest)]
