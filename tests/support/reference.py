"""Compares a method's loss with an independent NumPy reference in float64: value, gradient and edge cases.

Every tests/methods/test_<name>.py defines `CASES`, a list of `Case`, which the harness and the table of methods read.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf


class Case(NamedTuple):
    """One comparison: `loss(student, *others)` in kd_keras, `reference(student, *others)` in NumPy.

    The reference returns the same shape, `(B,)` or `()`. `student` is an array or a list of arrays, float32. Of
    `others`, arrays of a float dtype come from a teacher or an adapter, arrays of an integer dtype are labels.
    """

    name: str
    loss: Callable
    reference: Callable
    student: Any
    others: tuple = ()
    step: float = 1e-4  # of the numerical differences; smaller for a loss that is not differentiable everywhere

    def value_error(self) -> float:
        """The largest difference of the loss, relative to its largest value."""
        actual, expected = np.asarray(self.loss(self.student, *self.others)), self.expected(self.student)
        assert actual.shape == expected.shape, f"{self.name}: {actual.shape}, expected {expected.shape}"
        assert actual.dtype == np.float32 and np.isfinite(actual).all() and np.isfinite(expected).all(), self.name
        return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-6))

    def gradient_error(self, coordinates: int = 60) -> float:
        """The largest difference between the gradient of the mean and central differences of the reference in float64.

        It is taken over some coordinates of each of the student's arrays, relative to the largest central difference.
        """
        random = np.random.default_rng(0)
        worst = 0.0
        arrays = zip(self.gradients(), keras.tree.flatten(self.student), strict=True)
        for place, (gradient, array) in enumerate(arrays):
            chosen = random.permutation(array.size)[:coordinates]
            expected = np.array([self._difference(place, number) for number in chosen])
            actual = np.asarray(gradient).reshape(-1)[chosen]
            worst = max(worst, float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-6)))
        return worst

    def gradients(self, student: Any = None, others: tuple | None = None) -> list:
        """The gradient of the mean of the loss with respect to each of the student's arrays."""
        student = self.student if student is None else student
        variables = keras.tree.map_structure(lambda array: tf.Variable(array), student)
        with tf.GradientTape() as tape:
            mean = tf.reduce_mean(self.loss(variables, *(self.others if others is None else others)))
        pairs = zip(tape.gradient(mean, keras.tree.flatten(variables)), keras.tree.flatten(variables), strict=True)
        return [tf.zeros_like(variable) if gradient is None else gradient for gradient, variable in pairs]

    def expected(self, student: Any) -> np.ndarray:
        """The loss by the reference, in float64."""
        return np.asarray(self.reference(_double(student), *map(_double, self.others)))

    def _difference(self, place: int, number: int) -> float:
        values = []
        for step in (self.step, -self.step):
            shifted = [array.astype("float64") for array in keras.tree.flatten(self.student)]
            shifted[place].reshape(-1)[number] += step
            values.append(self.expected(keras.tree.pack_sequence_as(self.student, shifted)).mean())
        return (values[0] - values[1]) / (2 * self.step)

    def edges(self) -> dict[str, tuple[Any, tuple]]:
        """The same arguments as edge cases: zeros, a dead channel, equal rows, values up to 400, a batch of one."""
        changes = {
            "zeros": lambda x: 0 * x,
            "a dead channel": lambda x: np.concatenate([0 * x[..., :1], x[..., 1:]], -1),
            "equal rows": lambda x: np.repeat(x[:1], len(x), 0),
            "up to 400": lambda x: x * np.float32(400 / max(np.abs(x).max(), 1e-6)),
            "a batch of one": lambda x: x[:1],
        }

        def apply(change: Callable, structure: Any, dtype_kinds: str) -> Any:
            return keras.tree.map_structure(
                lambda x: change(x) if isinstance(x, np.ndarray) and x.dtype.kind in dtype_kinds else x, structure
            )

        dtype_kinds = {name: "fiu" if name == "a batch of one" else "f" for name in changes}
        arguments = (self.student, self.others)
        return {
            name: tuple(apply(change, argument, dtype_kinds[name]) for argument in arguments)
            for name, change in changes.items()
        }


def _double(structure: Any) -> Any:
    return keras.tree.map_structure(
        lambda x: x.astype("float64") if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x, structure
    )


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normally distributed float32 numbers; pass another seed for each use."""
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype("float32")


def softmax(z: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.exp(log_softmax(z, axis))


def log_softmax(z: np.ndarray, axis: int = -1) -> np.ndarray:
    z = z - z.max(axis, keepdims=True)
    return z - np.log(np.exp(z).sum(axis, keepdims=True))


def unit(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return x / np.maximum(np.sqrt((x**2).sum(axis, keepdims=True)), 1e-12)


def pooled(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Adaptive average pooling of `(B, H, W, C)`, cell by cell."""
    (height, width), (rows, columns) = maps.shape[1:3], size
    out = np.zeros((len(maps), rows, columns, maps.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * height // rows, int(np.ceil((i + 1) * height / rows))
            left, right = j * width // columns, int(np.ceil((j + 1) * width / columns))
            out[:, i, j] = maps[:, top:bottom, left:right].mean((1, 2))
    return out


def resized(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation of `(B, H, W, C)`, pixel by pixel, with half-pixel centers and repeated edges."""
    (height, width), (rows, columns) = maps.shape[1:3], size

    def neighbors(place: int, length: int, cells: int) -> tuple[int, int, float]:
        position = min(max((place + 0.5) * length / cells - 0.5, 0), length - 1)
        low = int(position)
        return low, min(low + 1, length - 1), position - low

    out = np.zeros((len(maps), rows, columns, maps.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            top, bottom, down = neighbors(i, height, rows)
            left, right, across = neighbors(j, width, columns)
            above = (1 - across) * maps[:, top, left] + across * maps[:, top, right]
            below = (1 - across) * maps[:, bottom, left] + across * maps[:, bottom, right]
            out[:, i, j] = (1 - down) * above + down * below
    return out
