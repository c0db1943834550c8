"""Looks at the teacher before a student is trained on it."""

from __future__ import annotations

import warnings

import keras

from kd_keras.errors import explain_mismatch


class TeacherCheck(keras.callbacks.Callback):
    """Looks at the teacher's answers to the first batches of a `fit`, once.

    Stops with an error where they are not finite, and warns with the teacher's accuracy where that is at chance level:
    a teacher that knows nothing trains a student in silence otherwise.

    Args:
        finite: mean of whether a batch's outputs were finite.
        accuracy: the teacher's accuracy on examples that have a label; left empty where they have none.
        classes: number of classes K, or `None`.
        after: batches to look at.
    """

    def __init__(self, finite: keras.metrics.Mean, accuracy: keras.metrics.Mean, classes: int | None, after: int = 8):
        super().__init__()
        self.finite, self.accuracy, self.classes, self.after = finite, accuracy, classes, after
        self.seen = 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.seen >= self.after:
            return
        self.seen += 1
        if float(self.finite.result()) < 1.0:
            raise FloatingPointError(
                explain_mismatch("a teacher with finite outputs", f"NaN or infinity by batch {batch}", "retrain or reload it")
            )
        if self.seen == min(self.after, self.params.get("steps") or self.after):
            self.seen = self.after
            self._compare_with_chance()

    def _compare_with_chance(self) -> None:
        examples = float(self.accuracy.count * 1.0)
        if not examples or not self.classes:
            return
        accuracy, chance = float(self.accuracy.result()), 1 / self.classes
        # Two standard deviations above chance: of teachers that guess, about one in forty gets past this.
        if accuracy < chance + 2 * (chance * (1 - chance) / examples) ** 0.5:
            warnings.warn(
                f"The teacher is right on {accuracy:.1%} of the first {examples:.0f} examples; chance is {chance:.1%}. "
                "Is it trained, on these classes in this order (class_order=), and normalised alike (preprocess=)?",
                stacklevel=2,
            )
