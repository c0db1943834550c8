"""What Keras's `fit` lacks under MultiWorkerMirroredStrategy, keras-team/keras issue 20585; to go when Keras mends it.

It fails in two places. The symbolic build reduces a batch that differs in size over the replicas (also under
MirroredStrategy, with an uneven first batch); here it is made from the dataset's element specification. And a step's
logs are reduced along their first axis, which scalars have not; here they have one. A test under `tests/` fails as soon
as plain Keras fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops, tree

from kd_keras.errors import explain_mismatch


class FitsOnWorkers(keras.Model):
    """A Keras model whose `fit`, `evaluate` and `predict` work under every strategy; the base of `Distiller`."""

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is None or self._distribute_strategy is None:
            return super()._maybe_symbolic_build(iterator, data_batch)
        return self.build_from(iterator._distributed_dataset.element_spec)

    def build_from(self, spec: Any) -> None:
        """Makes the variables of the loss, the metrics and the optimizer, which `fit` makes at the first batch.

        Args:
            spec: the `element_spec` of the dataset to fit, distributed or not.
        """
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=tree.map_structure(_one_replica, spec))

    def _make_function(self, step_function: Callable) -> Callable:
        def with_an_axis(data: Any) -> Any:
            return tree.map_structure(lambda value: ops.reshape(value, (1,)), step_function(data))

        if _several_workers(self.distribute_strategy) and self.steps_per_execution > 1:
            came = f"steps_per_execution={self.steps_per_execution}"
            remedy = "TensorFlow's sums over workers fail in the loop that Keras puts several steps into"
            raise ValueError(explain_mismatch("steps_per_execution=1 on several workers", came, remedy))
        return super()._make_function(with_an_axis if _several_workers(self.distribute_strategy) else step_function)


def _several_workers(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and strategy.extended._in_multi_worker_mode()


def _one_replica(spec: Any) -> tf.TensorSpec | None:
    """What one replica sees of a component; Keras's own adapters wrap absent weights in an Optional."""
    spec = spec._value_specs[0] if hasattr(spec, "_value_specs") else spec
    return None if isinstance(spec, tf.OptionalSpec) else spec
