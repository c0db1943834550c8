"""A method's loss held against an independent NumPy reference in float64: value, gradient and edges.

Every tests/methods/test_<name>.py defines `CASES`, a list of `Case`; the harness and the table of methods read them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf


class Case(NamedTuple):
    """One comparison: `loss(student, *others)` in kd_keras, `reference(student, *others)` in NumPy.

    The reference returns the same shape, `(B,)` or `()`. `student` is an array or a list of arrays, float32; of
    `others` those of a float dtype are what a teacher or an adapter gives, those of an integer dtype labels.
    """

    name: str
    loss: Callable
    reference: Callable
    student: Any
    others: tuple = ()
    step: float = 1e-4  # of the numerical differences; smaller where the loss has kinks

    def value_error(self) -> float:
        """The largest difference of the loss, relative to its largest value."""
        ours, expected = np.asarray(self.loss(self.student, *self.others)), self.expected(self.student)
        assert ours.shape == expected.shape, f"{self.name}: {ours.shape}, expected {expected.shape}"
        assert ours.dtype == np.float32 and np.isfinite(ours).all() and np.isfinite(expected).all(), self.name
        return float(np.abs(ours - expected).max() / max(np.abs(expected).max(), 1e-6))

    def gradient_error(self, coordinates: int = 60) -> float:
        """The largest difference of the mean's gradient from central differences of the reference in float64, over
        some coordinates of each of the student's arrays, relative to the largest of them."""
        random = np.random.default_rng(0)
        worst = 0.0
        for place, (gradient, array) in enumerate(zip(self.gradients(), keras.tree.flatten(self.student))):
            chosen = random.permutation(array.size)[:coordinates]
            expected = np.array([self._difference(place, number) for number in chosen])
            found = np.asarray(gradient).reshape(-1)[chosen]
            worst = max(worst, float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6)))
        return worst

    def gradients(self, student: Any = None, others: tuple | None = None) -> list:
        """The gradient of the loss's mean to each of the student's arrays."""
        student = self.student if student is None else student
        variables = keras.tree.map_structure(lambda array: tf.Variable(array), student)
        with tf.GradientTape() as tape:
            mean = tf.reduce_mean(self.loss(variables, *(self.others if others is None else others)))
        found = tape.gradient(mean, keras.tree.flatten(variables))
        return [tf.zeros_like(v) if g is None else g for g, v in zip(found, keras.tree.flatten(variables))]

    def expected(self, student: Any) -> np.ndarray:
        """The reference's loss, in float64."""
        return np.asarray(self.reference(_double(student), *map(_double, self.others)))

    def _difference(self, place: int, number: int) -> float:
        values = []
        for step in (self.step, -self.step):
            moved = [array.astype("float64") for array in keras.tree.flatten(self.student)]
            moved[place].reshape(-1)[number] += step
            values.append(self.expected(keras.tree.pack_sequence_as(self.student, moved)).mean())
        return (values[0] - values[1]) / (2 * self.step)

    def edges(self) -> dict[str, tuple[Any, tuple]]:
        """The same arguments at the edges: zeros, a dead channel, equal rows, values to 400, a batch of one."""
        changes = {
            "zeros": lambda x: 0 * x,
            "a dead channel": lambda x: np.concatenate([0 * x[..., :1], x[..., 1:]], -1),
            "equal rows": lambda x: np.repeat(x[:1], len(x), 0),
            "up to 400": lambda x: x * np.float32(400 / max(np.abs(x).max(), 1e-6)),
            "a batch of one": lambda x: x[:1],
        }

        def changed(change: Callable, structure: Any, kinds: str) -> Any:
            return keras.tree.map_structure(
                lambda x: change(x) if isinstance(x, np.ndarray) and x.dtype.kind in kinds else x, structure
            )

        kinds = {name: "fiu" if name == "a batch of one" else "f" for name in changes}
        both = (self.student, self.others)
        return {name: tuple(changed(change, part, kinds[name]) for part in both) for name, change in changes.items()}


def _double(structure: Any) -> Any:
    return keras.tree.map_structure(
        lambda x: x.astype("float64") if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x, structure
    )


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normal float32 numbers; another seed for each use."""
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
