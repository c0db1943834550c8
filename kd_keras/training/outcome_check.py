"""Warns at the end of a training that has learned nothing."""

from __future__ import annotations

import math
import warnings

import keras
from keras import ops

from kd_keras.private_api import loss_tracker

ACCURACIES = ("accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy")


class OutcomeCheck(keras.callbacks.Callback):
    """Warns at the end of a `fit` if the student's accuracy is at chance level, or if the loss has exploded.

    It reads the logs of the last epoch: the validation's accuracy if there is one, else that of training.
    `Distiller.fit` adds one.
    """

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._first_loss: float | None = None
        self._last: dict[str, float] = {}
        self._rows = 0.0

    def on_test_end(self, logs: dict | None = None) -> None:
        self._rows = self._count_rows()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._last = dict(logs or {})
        if not any(name.startswith("val_") for name in self._last):
            self._rows = self._count_rows()
        if self._first_loss is None:
            self._first_loss = self._last.get("loss")

    def on_train_end(self, logs: dict | None = None) -> None:
        loss = self._last.get("loss")
        if loss is not None and self._first_loss is not None and loss > 10 * max(self._first_loss, 1.0):
            warnings.warn(
                f"The loss rose from {self._first_loss:g} in the first epoch to {loss:g} in the last. Lower the "
                "learning rate, or pass clipnorm=1.0 to the optimizer.",
                stacklevel=2,
            )
        shape = getattr(self.model.student, "output_shape", None)
        names = [f"{prefix}{name}" for prefix in ("val_", "") for name in ACCURACIES]
        accuracy = next((self._last[name] for name in names if name in self._last), None)
        if accuracy is None or not isinstance(shape, tuple) or isinstance(shape[0], tuple) or self._rows < 100:
            return
        chance = 1 / max(shape[-1] or 1, 2)
        if accuracy < chance + 2 * math.sqrt(chance * (1 - chance) / self._rows):
            warnings.warn(
                f"After training the student is right on {accuracy:.1%} of {self._rows:.0f} examples; chance is "
                f"{chance:.1%}. It has learned nothing: check the learning rate, the labels and the range of the "
                "pixel values.",
                stacklevel=2,
            )

    def _count_rows(self) -> float:
        return float(ops.convert_to_numpy(loss_tracker(self.model).count))
