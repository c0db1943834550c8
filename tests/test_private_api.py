"""Every private name of Keras and TensorFlow that the project uses still exists and does what the project needs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kd_keras import private_api
from kd_keras.distribute.keras_fit import FitsOnWorkers
from tests.support.networks import convolutional, mirrored


@pytest.fixture(scope="module")
def nested():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="inner"), layers.Dropout(0.5)], name="nested")
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, {"logits": layers.Dense(2, name="outer")(inner(inputs))})


def test_sub_layers_are_at_any_depth(nested):
    assert {"nested", "inner", "outer"} <= {layer.name for layer in private_api.sub_layers(nested)}


def test_inner_layers_are_direct(nested):
    assert {layer.name for layer in private_api.inner_layers(nested)} == {"x", "nested", "outer"}


def test_own_variables_are_without_those_of_inner_layers(nested):
    assert private_api.own_variables(nested) == []
    norm = layers.BatchNormalization()
    norm.build((None, 3))
    names = [variable.name for variable in private_api.own_variables(norm)]
    assert names == ["gamma", "beta", "moving_mean", "moving_variance"]


@pytest.mark.parametrize("kind", [layers.Conv2D, layers.BatchNormalization, keras.Sequential, layers.Conv2DTranspose])
def test_the_names_that_keras_gives(kind):
    keras.utils.clear_session()
    first, second = (kind() if kind in (layers.BatchNormalization, keras.Sequential) else kind(1, 1) for _ in range(2))
    assert (first.name, second.name) == (private_api.automatic_name(first), private_api.automatic_name(first) + "_1")


def test_seed_generators_of_a_layer():
    (generator,) = private_api.seed_generators(layers.Dropout(0.5, seed=3))
    assert tuple(generator.state.shape) == (2,) and private_api.seed_generators(layers.Dense(3)) == []


def test_the_global_random_state_changes_with_every_draw():
    before = np.array(private_api.global_random_state())
    keras.random.normal((2,))
    assert (np.array(private_api.global_random_state()) != before).any()


def test_structured_inputs():
    class Sum(layers.Layer):
        def __init__(self):
            super().__init__()
            private_api.allow_structured_inputs(self)

        def call(self, tensors, options):
            return sum(tensors.values())

    assert float(Sum()({"a": tf.ones(()), "b": tf.ones(())}, ("no tensor",))) == 2


def test_the_graph_of_a_functional_model(nested):
    class Subclassed(keras.Model):
        pass

    assert private_api.is_functional(nested) and not private_api.is_functional(Subclassed())
    inner = private_api.functional_of(nested.get_layer("nested"))
    assert private_api.is_functional(inner)
    order = [node.operation.name for node in private_api.nodes_in_order(nested)]
    assert order == ["x", "nested", "outer"]
    assert private_api.output_structure(nested).keys() == {"logits"}


def test_forgotten_calls():
    layer, inputs = layers.Dense(3), keras.Input((4,))
    keras.Model(inputs, layer(inputs))
    private_api.forget_calls(layer)
    with pytest.raises(AttributeError, match="never been called"):
        _ = layer.output


def test_a_compiled_model():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile(optimizer="sgd")
    assert private_api.compiled_loss(model) is None and not private_api.has_compiled_metrics(model)
    model.compile(optimizer="sgd", loss="mse", metrics=["accuracy"])
    loss = private_api.compiled_loss(model)
    assert float(loss(tf.zeros((2, 1)), 2 * tf.ones((2, 1)))) == 4 and private_api.has_compiled_metrics(model)
    assert private_api.has_unweighted_metrics(model)
    model.compile(optimizer="sgd", loss="mse", weighted_metrics=["accuracy"])
    assert private_api.has_compiled_metrics(model) and not private_api.has_unweighted_metrics(model)
    assert private_api.loss_tracker(model).name == "loss"


def test_strategies():
    seen = []
    mirrored(2).run(lambda: seen.append(private_api.updates_without_merge_call()))
    assert seen[0] is False and private_api.updates_without_merge_call() is True
    assert private_api.spans_several_workers(tf.distribute.MultiWorkerMirroredStrategy()) is False


def test_the_specification_of_a_distributed_dataset():
    class Iterator:
        """As Keras's trainer wraps a dataset."""

        def __init__(self, dataset):
            self._distributed_dataset = dataset

    rows = mirrored(2).experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices(np.zeros((8, 3))).batch(4))
    spec = private_api.element_spec_of(Iterator(rows))
    assert private_api.spec_of_one_replica(spec) == tf.TensorSpec((None, 3), tf.float64)
    assert private_api.spec_of_one_replica(tf.TensorSpec((None, 3))) == tf.TensorSpec((None, 3))


def test_keras_passes_its_iterator_to_the_symbolic_build():
    class Recording(FitsOnWorkers):
        def __init__(self, model):
            super().__init__()
            self.model, self.specs = model, []

        def call(self, inputs):
            return self.model(inputs)

        def build_from(self, spec):
            self.specs.append(spec)
            super().build_from(spec)

    with mirrored(2).scope():
        model = Recording(convolutional())
        model.compile(
            optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
        )
    model.fit(np.zeros((8, 8, 8, 3), "float32"), np.zeros(8), batch_size=4, verbose=0)
    assert len(model.specs) == 1


def test_the_graph_of_a_called_function():
    @tf.function
    def inner(x):
        return tf.sin(x)

    @tf.function
    def outer(x):
        return inner(x)

    graph = outer.get_concrete_function(tf.zeros(())).graph
    (call,) = [op for op in graph.get_operations() if "PartitionedCall" in op.type]
    called = private_api.graph_of_called_function(graph, call.get_attr("f").name)
    assert "Sin" in {op.type for op in called.get_operations()}


def test_the_coordination_service_is_configured(monkeypatch):
    from tensorflow.python.eager import context

    received = {}
    service = type("Context", (), {"configure_coordination_service": lambda self, **options: received.update(options)})
    assert hasattr(context.context(), "configure_coordination_service")
    monkeypatch.setattr(context, "context", service)
    private_api.start_coordination_service("/job:chief/task:0", {"chief": 1, "worker": 2}, timeout=7.5)
    assert received["service_leader"] == "/job:chief/task:0" and received["heartbeat_timeout_in_ms"] == 7500
    assert [(job.name, job.num_tasks) for job in received["coordinated_jobs"]] == [("chief", 1), ("worker", 2)]


def test_op_determinism_can_be_left():
    tf.config.experimental.enable_op_determinism()
    assert private_api.op_determinism_is_enabled()
    private_api.disable_op_determinism()
    assert not private_api.op_determinism_is_enabled()


def test_automatic_names_are_those_of_the_classes_of_keras():
    names = private_api.automatic_names()
    assert {"conv2d", "batch_normalization", "dense", "multi_head_attention"} < names and "conv1" not in names
    assert private_api.automatic_name(keras.layers.DepthwiseConv2D(3)) in names


def test_the_validation_of_fit_is_recognized():
    seen = []

    class Model(keras.Sequential):
        def evaluate(self, *args, **kwargs):
            seen.append(private_api.is_validation_of_fit({"kwargs": kwargs}))
            return super().evaluate(*args, **kwargs)

    model = Model([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 2)), np.ones((4, 1))
    model.fit(x, y, validation_data=(x, y), verbose=0)
    model.evaluate(x, y, verbose=0)
    assert seen == [True, False]


def test_compiled_losses_are_wrapped_once_and_resolved():
    class Doubled(keras.losses.Loss):
        def __init__(self, loss):
            super().__init__()
            self.loss = loss

        def __call__(self, y_true, y_pred, sample_weight=None):
            return 2 * private_api.loss_of(self.loss, y_true, y_pred)(y_true, y_pred, sample_weight)

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    label, prediction = np.ones((4, 1), "float32"), np.zeros((4, 1), "float32")
    for given in ("mse", keras.losses.mean_squared_error, keras.losses.MeanSquaredError()):
        model.compile("sgd", given)
        (wrapped,) = private_api.wrap_compiled_losses(model, Doubled)
        assert wrapped.loss is given and private_api.wrap_compiled_losses(model, Doubled) == [wrapped]
        assert float(private_api.compiled_loss(model)(label, prediction)) == 2.0
    model.compile("sgd", {"dense": "mse"})
    assert len(private_api.wrap_compiled_losses(model, Doubled)) == 1


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_place_of_a_variable_in_an_optimizer(replicas):
    places = []

    class Recorder(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            places.append(private_api.variable_index(self, variable))

    strategy = mirrored(replicas)
    with strategy.scope():
        variables, optimizer = [keras.Variable([float(number)]) for number in range(3)], Recorder()
        optimizer.build(variables)
    strategy.run(lambda: optimizer.apply([tf.ones(1)] * 3, variables))
    assert sorted(set(places)) == [0, 1, 2]
