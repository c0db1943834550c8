"""A workaround for Keras's `fit` under MultiWorkerMirroredStrategy: delete it once keras-team/keras 20585 is fixed.

Keras fails in two places. Its symbolic build reduces a batch whose slices differ in size (also under MirroredStrategy,
with an uneven first batch); here the build reads the dataset's element specification instead. And Keras reduces the
logs of a step along their first axis, which scalars lack; here each of them receives one. A test fails as soon as plain
Keras trains on several workers.

Overriding a private method cannot be a function of kd_keras/private_api.py. The three private methods of Keras's
trainer that this class overrides or calls are used in no other file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops, tree

from kd_keras.private_api import element_spec_of, spans_several_workers, spec_of_one_replica


class FitsOnWorkers(keras.Model):
    """A Keras model whose `fit`, `evaluate` and `predict` work under every strategy; the base of `Distiller`."""

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds also without a strategy: TensorFlow traces a step twice if its first trace creates variables."""
        if iterator is None or (self._distribute_strategy is None and self.run_eagerly):
            return super()._maybe_symbolic_build(iterator, data_batch)
        return self.build_from(element_spec_of(iterator))

    def build_from(self, spec: Any) -> None:
        """Creates the variables of the loss, the metrics and the optimizer, which `fit` creates at the first batch.

        Args:
            spec: the `element_spec` of the dataset to fit, distributed or not.
        """
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=tree.map_structure(_spec_of_array, spec))

    def _make_function(self, step_function: Callable) -> Callable:
        if not _has_several_workers(self.distribute_strategy):
            return super()._make_function(step_function)
        if self.steps_per_execution > 1:
            raise ValueError(
                "Expected steps_per_execution=1 on several workers, but received "
                f"steps_per_execution={self.steps_per_execution}. TensorFlow's sums over workers fail in the loop into "
                "which Keras puts several steps."
            )
        return super()._make_function(lambda data: tree.map_structure(_with_axis, step_function(data)))


def _has_several_workers(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and spans_several_workers(strategy)


def _with_axis(value: Any) -> Any:
    return ops.reshape(value, (1,))


def _spec_of_array(spec: Any) -> tf.TensorSpec | None:
    """The specification for one replica; `None` for a missing sample weight, which Keras wraps in an Optional."""
    spec = spec_of_one_replica(spec)
    return None if isinstance(spec, tf.OptionalSpec) else spec
