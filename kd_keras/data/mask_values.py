"""What the values of a mask mean: each number or color belongs to a class, or to no class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from kd_keras.contracts import IGNORED
from kd_keras.errors import explain_mismatch, shorten

Color: TypeAlias = tuple[int, int, int]
Value: TypeAlias = "int | Color"

_UNKNOWN = -2


@dataclass(frozen=True)
class MaskValues:
    """The values of the pixels of some masks.

    Attributes:
        names: K names of classes.
        values: the value of each class: a number from 0 to 65535, or a color (red, green, blue) of 0..255.
        ignored: the values of pixels that belong to no class.

    Raises:
        ValueError: if there is no class, a value is out of range or belongs to two classes, or there are both numbers
            and colors.

    >>> values = MaskValues(("road", "car"), (7, 9), ignored=(255,))
    >>> values.to_classes(np.array([[9, 255]], "uint8"), "a.png").tolist()
    [[1, -1]]
    """

    names: tuple[str, ...]
    values: tuple[Value, ...]
    ignored: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        everything = (*self.values, *self.ignored)
        if not self.names or len(self.names) != len(self.values):
            received = f"{len(self.names)} names, {len(self.values)} values"
            raise ValueError(explain_mismatch("at least one class, and a value for each", received))
        kinds = {isinstance(value, tuple) for value in everything}
        if len(kinds) > 1:
            advice = "a class and an ignored value must be of one kind"
            raise ValueError(
                explain_mismatch("either numbers or colors as values of a mask", shorten(everything), advice)
            )
        for value in everything:
            numbers, highest = (value, 255) if isinstance(value, tuple) else ((value,), 65535)
            if not all(isinstance(n, int) and 0 <= n <= highest for n in numbers) or len(numbers) not in (1, 3):
                expected = "a number from 0 to 65535, or a color (red, green, blue) of 0..255, as value of a mask"
                raise ValueError(explain_mismatch(expected, shorten(value)))
        repeated = sorted({value for value in everything if everything.count(value) > 1}, key=str)
        if repeated:
            raise ValueError(
                explain_mismatch("a different value for each class and ignored value", f"{repeated} twice")
            )

    @property
    def are_colors(self) -> bool:
        """Whether the values are colors."""
        return isinstance(self.values[0], tuple)

    def to_classes(self, pixels: np.ndarray, place: str) -> np.ndarray:
        """The class of each pixel.

        Args:
            pixels: `(H, W)` or `(H, W, 1)` integers, or `(H, W, 3)` colors.
            place: the file or the example, for the error message.

        Returns:
            `(H, W)` int32, `IGNORED` for pixels of an ignored value.

        Raises:
            ValueError: if a value belongs to no class and is not ignored, or if there are colors instead of numbers.
        """
        if not self.are_colors and pixels.ndim == 3 and pixels.shape[-1] == 3:
            if (pixels != pixels[..., :1]).any():
                advice = "pass class_names={name: (red, green, blue), ...}"
                raise ValueError(explain_mismatch(f"numbers of classes in {place}", "colors", advice))
            pixels = pixels[..., :1]
        codes = _as_codes(pixels, place, self.are_colors)
        known = np.array([_code(value) for value in (*self.values, *self.ignored)])
        classes = np.array([*range(len(self.values)), *[IGNORED] * len(self.ignored)], "int32")
        order = np.argsort(known)
        indices = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
        result = np.where(known[order][indices] == codes, classes[order][indices], _UNKNOWN)
        if (result == _UNKNOWN).any():
            raise ValueError(self._explain_unknown(codes[result == _UNKNOWN], place))
        return result.astype("int32")

    def _explain_unknown(self, codes: np.ndarray, place: str) -> str:
        values: list[Value] = [int(code) for code in np.unique(codes)]
        if self.are_colors:
            values = [(code >> 16, code >> 8 & 255, code & 255) for code in np.unique(codes).tolist()]
        ignored = f" or the ignored values {list(self.ignored)}" if self.ignored else ""
        expected = f"the values {shorten(list(self.values))} of {len(self.names)} classes{ignored} in {place}"
        advice = "pass class_names={name: value, ...} with the values of all classes, or ignored=(...)"
        return explain_mismatch(expected, shorten(values), advice)


def make_mask_values(
    class_names: Sequence[str] | Mapping[str, Value], ignored: Value | Sequence[Value] = ()
) -> MaskValues:
    """The values of masks from the arguments of `data.load_masks`.

    Args:
        class_names: K names, whose values are 0 to K - 1; or the value of each class by its name.
        ignored: the values of pixels that belong to no class: one number, or a sequence of numbers or colors.

    Raises:
        TypeError: if the names are a single text.
        ValueError: as `MaskValues`.

    >>> make_mask_values(("road", "car"), 255).ignored
    (255,)
    """
    if isinstance(class_names, str):
        raise TypeError(explain_mismatch("a list of class names, or their values by name", repr(class_names)))
    if isinstance(class_names, Mapping):
        names, values = tuple(class_names), tuple(map(_as_value, class_names.values()))
    else:
        names, values = tuple(class_names), tuple(range(len(class_names)))
    listed = (ignored,) if isinstance(ignored, int) else tuple(ignored)
    return MaskValues(names, values, tuple(map(_as_value, listed)))


def _as_value(value: Value) -> Value:
    return tuple(value) if isinstance(value, (list, tuple)) else value  # type: ignore[return-value]


def _code(value: Value) -> int:
    return value[0] << 16 | value[1] << 8 | value[2] if isinstance(value, tuple) else value


def _as_codes(pixels: np.ndarray, place: str, are_colors: bool) -> np.ndarray:
    """One number `(H, W)` for each pixel."""
    if not are_colors:
        return (pixels[..., 0] if pixels.ndim == 3 else pixels).astype("int64")
    if pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise ValueError(explain_mismatch(f"colors (H, W, 3) in {place}", f"pixels of shape {pixels.shape}"))
    red, green, blue = (pixels[..., channel].astype("int64") for channel in range(3))
    return red << 16 | green << 8 | blue
