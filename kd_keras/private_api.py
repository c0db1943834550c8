"""Every private name of Keras and TensorFlow that the project uses, one function each.

Only this file must change if an upgrade of either renames one of them; tests/test_private_api.py tests every function.
The only other place is kd_keras/distribute/keras_fit.py, which must override private methods of Keras's trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras


def sub_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer and all layers inside it, at any depth."""
    return list(model._flatten_layers())


def inner_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers directly inside a layer."""
    return list(layer._layers)


def own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The variables of a layer without those of the layers inside it, trainable ones first."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def layer_state(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The float variables of a layer that it changes itself, such as moving statistics; no frozen weights."""
    variables = layer._non_trainable_variables
    return [variable for variable in variables if keras.backend.is_float_dtype(variable.dtype)]


def automatic_name(layer: keras.layers.Layer) -> str:
    """The name that Keras gives to the first layer of this class: "conv2d"; the next one is "conv2d_1"."""
    from keras.src.utils.naming import to_snake_case

    return to_snake_case(type(layer).__name__)


def automatic_names() -> set[str]:
    """The names, without numbers, that Keras gives to the first layer of each of its classes."""
    from keras.src.utils.naming import to_snake_case

    return {to_snake_case(name) for name, kind in vars(keras.layers).items() if isinstance(kind, type)}


def seed_generators(layer: keras.layers.Layer) -> list[keras.random.SeedGenerator]:
    """The random generators of a layer, without those of the layers inside it."""
    return list(getattr(layer, "_seed_generators", ()))


def global_random_state() -> keras.Variable:
    """The variable behind Keras's global random generator."""
    from keras.src.random.seed_generator import global_seed_generator

    return global_seed_generator().state


def allow_structured_inputs(layer: keras.layers.Layer) -> None:
    """Lets a layer be called with dictionaries and named tuples of tensors as positional arguments."""
    layer._allow_non_tensor_positional_args = True


# ---- a Functional model's graph


def is_functional(model: keras.Model) -> bool:
    """Whether a model is a graph of operations."""
    return hasattr(model, "_nodes_by_depth")


def functional_of(model: keras.Sequential) -> keras.Model:
    """The Functional model that a built Sequential model runs."""
    return model._functional


def nodes_in_order(graph: keras.Model) -> Iterator[Any]:
    """The nodes of a Functional model's graph in topological order."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from graph._nodes_by_depth[depth]


def output_structure(graph: keras.Model) -> Any:
    """The outputs of a Functional model in the structure in which it returns them."""
    return graph._outputs_struct


def forget_calls(layer: keras.layers.Layer) -> None:
    """Makes a layer forget in which graphs it was called."""
    layer._inbound_nodes, layer._outbound_nodes = [], []


# ---- a compiled model


def loss_tracker(model: keras.Model) -> keras.metrics.Metric:
    """The metric that `fit` shows as "loss"."""
    return model._loss_tracker


def compiled_loss(model: keras.Model) -> Any:
    """The loss that `compile` was given, or `None`."""
    return model._compile_loss


def wrap_compiled_losses(model: keras.Model, wrap: Callable[[Any], keras.losses.Loss]) -> list[keras.losses.Loss]:
    """Replaces every loss that `compile` was given by `wrap(loss)`, before Keras uses it for the first time.

    Returns:
        The wrapped losses, also of an earlier call.
    """
    compiled = model._compile_loss
    if not hasattr(compiled, "wrapped"):
        compiled._user_loss = keras.tree.map_structure(
            lambda loss: None if loss is None else wrap(loss), compiled._user_loss
        )
        compiled.wrapped = [loss for loss in keras.tree.flatten(compiled._user_loss) if loss is not None]
    return compiled.wrapped


def loss_of(identifier: Any, label: Any, prediction: Any) -> keras.losses.Loss:
    """The loss object of a name, a function or a loss, as `compile` understands them."""
    from keras.src.trainers.compile_utils import get_loss

    return get_loss(identifier, label, prediction)


def has_compiled_metrics(model: keras.Model) -> bool:
    """Whether `compile` was given metrics."""
    return model._compile_metrics is not None


def compiled_metric_names(model: keras.Model) -> set[str]:
    """The names in the logs of the metrics that `compile` was given, after the first update."""
    compiled = model._compile_metrics
    return set() if compiled is None or not compiled.built else {*compiled.result()}


def has_unweighted_metrics(model: keras.Model) -> bool:
    """Whether `compile` was given `metrics`, which do not use sample weights."""
    compiled = model._compile_metrics
    return compiled is not None and any(metric is not None for metric in keras.tree.flatten(compiled._user_metrics))


def variable_index(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """The index of a variable among those that an optimizer was built for, also within an update of a replica."""
    return optimizer._get_variable_index(variable)


def is_validation_of_fit(arguments: Mapping[str, Any]) -> bool:
    """Whether the arguments of `evaluate` by name are those with which `fit` calls it for its validation."""
    return "_use_cached_eval_dataset" in arguments.get("kwargs", {})


# ---- TensorFlow


def updates_without_merge_call() -> bool:
    """Whether the current strategy applies updates from within a replica, without a merge call."""
    import tensorflow as tf

    return tf.__internal__.distribute.strategy_supports_no_merge_call()


def spans_several_workers(strategy: Any) -> bool:
    """Whether a MultiWorkerMirroredStrategy has more than one worker."""
    return strategy.extended._in_multi_worker_mode()


def element_spec_of(iterator: Any) -> Any:
    """The element specification of the distributed dataset behind an iterator of Keras's trainer."""
    return iterator._distributed_dataset.element_spec


def spec_of_one_replica(spec: Any) -> Any:
    """The specification of what one replica receives of a component of a distributed dataset."""
    return spec._value_specs[0] if hasattr(spec, "_value_specs") else spec


def graph_of_called_function(graph: Any, name: str) -> Any:
    """The graph of a function that an operation of another graph calls."""
    return graph._get_function(name).graph


def start_coordination_service(leader: str, jobs: dict[str, int], timeout: float) -> None:
    """Makes TensorFlow's coordination service report a worker that has been silent for `timeout` seconds.

    MultiWorkerMirroredStrategy starts the same service with a timeout of its own if there is none yet, and no public
    function sets that timeout.

    Args:
        leader: the task that runs the service, such as "/job:worker/task:0".
        jobs: the number of tasks of each job.
        timeout: in seconds.
    """
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager import context

    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=leader,
        coordinated_jobs=[CoordinatedJob(name=job, num_tasks=count) for job, count in jobs.items()],
        heartbeat_timeout_in_ms=int(1000 * timeout),
    )


def clip_gradients(optimizer: keras.optimizers.Optimizer, gradients: list) -> list:
    """The gradients as an optimizer clips them; Keras clips only in its own update."""
    return optimizer._clip_gradients(gradients)


def disable_op_determinism() -> None:
    """Leaves the mode that the public `enable_op_determinism` enters; no public function does so."""
    from tensorflow.python.framework import config

    config.disable_op_determinism()


def op_determinism_is_enabled() -> bool:
    """Whether TensorFlow's operations are deterministic."""
    from tensorflow.python.framework import config

    return config.is_op_determinism_enabled()
