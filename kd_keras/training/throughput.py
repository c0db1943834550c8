"""Reports how fast a training runs: images per second, and the time that is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import keras

logger = logging.getLogger("kd_keras")


class ReportThroughput(keras.callbacks.Callback):
    """Logs images per second and the time left, after each epoch and within long ones.

    The rate is that since the last report, with tests and checkpoints; the first report therefore has the time to
    compile in it.

    Args:
        images: images of an epoch.
        steps: steps of an epoch.
        epochs: epochs of the training.
        every: the fewest seconds between reports, except after the last epoch.
        clock: returns the time in seconds.
    """

    def __init__(
        self, images: int, steps: int, epochs: int, every: float = 60.0, clock: Callable[[], float] = time.perf_counter
    ):
        super().__init__()
        self._images_per_step, self._steps, self._epochs = images / steps, steps, epochs
        self._every, self._clock = every, clock
        self._epoch = 0
        self._last: tuple[float, float] | None = None  # the time and the number of steps of the last report

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch
        if self._last is None:
            self._last = self._clock(), epoch * self._steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._report(self._epoch * self._steps + batch + 1, self._every)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._report((epoch + 1) * self._steps, 0.0 if epoch + 1 == self._epochs else self._every)

    def _report(self, step: int, least: float) -> None:
        now = self._clock()
        if self._last is None or now - self._last[0] < max(least, 1e-9) or step <= self._last[1]:
            return
        rate = (step - self._last[1]) / (now - self._last[0])
        self._last = now, step
        left = (self._epochs * self._steps - step) / rate
        logger.info(
            "%.1f of %d epochs, %.0f images/s, %s left.",
            step / self._steps, self._epochs, rate * self._images_per_step, duration(left),
        )  # fmt: skip


def duration(seconds: float) -> str:
    """A time in words, to two units.

    >>> duration(3.2), duration(125), duration(7380), duration(200000)
    ('3 s', '2 min 5 s', '2 h 3 min', '2 d 7 h')
    """
    whole = round(seconds)
    for first, second, name, below in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= first:
            return f"{whole // first} {name} {whole % first // second} {below}"
    return f"{whole} s"
