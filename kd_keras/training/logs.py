"""The logs of a model that distills: which losses and metrics `fit` and `evaluate` show."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops, tree

from kd_keras.contracts import Batch, Tensor
from kd_keras.distribute.keras_fit import FitsOnWorkers
from kd_keras.distribute.replicas import branch_together
from kd_keras.errors import explain_mismatch
from kd_keras.private_api import compiled_metric_names, has_compiled_metrics, is_validation_of_fit, loss_tracker
from kd_keras.training.data_check import check_arrays
from kd_keras.training.fit_arguments import check_data_kinds, check_steps


class LogsTerms(FitsOnWorkers):
    """A model whose logs contain the terms of its loss, and whose `evaluate` and `test_on_batch` set a mode."""

    _is_evaluating = False

    def _prepare_logs(self, names: Sequence[str]) -> None:
        """Creates the trackers of the losses with these names; `fit` shows those of its last traced step."""
        self._trackers = {name: keras.metrics.Mean(name=name) for name in names}
        # By mode, training (False) or evaluation (True): the losses to show, and whether the batches have labels.
        self._logged: dict[bool, tuple[set[str], bool]] = {False: ({"loss"}, True), True: (set(), True)}

    def _log(self, names: set[str], has_labels: bool) -> None:
        self._logged[self._is_evaluating] = names, has_labels

    def _update_trackers(self, means: dict[str, Tensor], rows: Tensor, is_finite: Tensor | bool) -> None:
        rows = ops.where(is_finite, rows, 0)  # a skipped batch does not count
        for name, mean in means.items():
            tracker = loss_tracker(self) if name == "loss" else self._trackers[name]
            tracker.update_state(ops.where(is_finite, mean, 0.0), sample_weight=rows)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Tensor]:
        """Updates the compiled metrics, which need labels, and returns the logs."""
        if y is not None:
            return super().compute_metrics(x, y, y_pred, sample_weight)
        self._log(self._logged[self._is_evaluating][0], has_labels=False)
        return self.get_metrics_result()

    def _update_metrics(self, batch: Batch, output: Any, is_finite: Tensor) -> None:
        """Updates the compiled metrics, unless the batch is skipped.

        Raises:
            ValueError: if one has the name of a loss in the logs.
        """
        if not has_compiled_metrics(self) or batch.label is None:
            return
        given = batch.label, output, batch.weight
        leaves = tree.flatten(given)

        def update(*tensors: Any) -> None:
            present = iter(tensors)
            filled = [None if leaf is None else next(present) for leaf in leaves]
            self.compute_metrics(batch.inputs, *tree.pack_sequence_as(given, filled))

        branch_together(is_finite, update, lambda *_: None, *(leaf for leaf in leaves if leaf is not None))
        taken = sorted(compiled_metric_names(self) & {*self._trackers, "loss"})
        if taken:
            expected = f"metrics of other names than the losses {sorted({*self._trackers, 'loss'})}"
            raise ValueError(explain_mismatch(expected, f"{taken[0]!r}", "pass another name= to the method or metric"))

    def get_metrics_result(self) -> dict[str, Tensor]:
        """The logs: the total, in training every term, and with labels the compiled metrics."""
        logged, has_labels = self._logged[self._is_evaluating]
        trackers = {**self._trackers, "loss": loss_tracker(self)}
        if not has_labels:
            return {name: tracker.result() for name, tracker in trackers.items() if name in logged}
        hidden = trackers.keys() - logged
        return {name: value for name, value in super().get_metrics_result().items() if name not in hidden}

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `evaluate`, of the student: its "loss" is the hard loss, and no variable changes."""
        arguments = check_steps(super().evaluate, args, kwargs)
        if not is_validation_of_fit(arguments):  # which `fit` has checked
            check_data_kinds(arguments, "evaluate")
            check_arrays(self, arguments, "the data to evaluate")
        with self._evaluation():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `predict`, of the student."""
        check_steps(super().predict, args, kwargs)
        return super().predict(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `test_on_batch`, of the student."""
        arguments = inspect.signature(super().test_on_batch).bind(*args, **kwargs).arguments
        check_arrays(self, arguments, "the batch")
        with self._evaluation():
            return super().test_on_batch(*args, **kwargs)

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        self._is_evaluating = True
        try:
            yield
        finally:
            self._is_evaluating = False
