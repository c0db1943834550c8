"""Multi-exit networks: the sum of predictions, each exit alone, and stopping early, against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller
from kd_keras.evaluation import macs
from kd_keras.methods import BYOT
from kd_keras.models import EarlyExit, build, exit_count, multi_exit, single_exit
from tests.support.networks import compiled, convolutional, same, values
from tests.support.reference import softmax

SHAPE = (16, 16, 3)
IMAGES = 127.5 + 63.75 * np.random.default_rng(0).normal(size=(6, *SHAPE)).astype("float32")


@pytest.fixture
def summed():
    """A network whose exits disagree, as trained ones do."""
    model = multi_exit(build("resnet8", SHAPE, 4))
    random = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(variable + random.normal(scale=0.2, size=variable.shape))
    return model


def predictions(model):
    return [softmax(single_exit(model, number)(IMAGES).numpy().astype("float64")) for number in (1, 2, 3)]


def test_its_prediction_is_the_mean_of_the_exits_predictions(summed):
    np.testing.assert_allclose(softmax(summed(IMAGES).numpy()), np.mean(predictions(summed), 0), rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "mobilenet_v2", "shufflenet_v2", "applications/MobileNetV2"])
def test_every_family_gets_exits_and_loses_them(name):
    model = build(name, (32, 32, 3), 7)
    whole = build(f"multi_exit/{name}", (32, 32, 3), 7)
    count = exit_count(whole)
    assert count >= 3 and whole.output_shape == (None, 7)
    widths = {whole.get_layer(f"exit{number}_features").output.shape[-1] for number in range(1, count + 1)}
    assert len(widths) == 1, "all features are of one width, to be compared"
    alone = single_exit(whole, count)
    assert alone.count_params() == model.count_params() and macs(alone) == macs(model)
    costs = [macs(single_exit(whole, number)) for number in range(1, count + 1)]
    assert costs[0] < costs[-1] < macs(whole)


def test_the_deepest_exit_is_the_network_itself():
    model = build("resnet8", SHAPE, 4)
    alone = single_exit(multi_exit(model), 3)
    np.testing.assert_array_equal(alone(IMAGES), model(IMAGES))
    assert {id(v) for v in alone.variables} == {id(v) for v in model.variables}


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9, 1.1])
def test_each_example_stops_at_the_first_confident_exit(summed, threshold):
    running = np.cumsum(predictions(summed), 0) / np.array([1, 2, 3])[:, None, None]
    stops = [next((i for i in range(3) if running[i, row].max() >= threshold), 2) for row in range(len(IMAGES))]
    predicted = softmax(EarlyExit(summed, threshold)(IMAGES).numpy())
    np.testing.assert_allclose(predicted, [running[stop, row] for row, stop in enumerate(stops)], rtol=1e-4, atol=1e-6)
    if threshold == 0.6:
        assert len(set(stops)) > 1, "these examples stop in several places"


def test_later_layers_do_not_run_if_all_examples_are_confident(summed):
    """The layers after the first exit give NaN, which nothing may read."""
    summed.get_layer("stage3_block1_1_conv").kernel.assign(np.nan * summed.get_layer("stage3_block1_1_conv").kernel)
    confident, hesitant = EarlyExit(summed, 0.01), EarlyExit(summed, 1.1)
    assert np.isfinite(tf.function(confident)(IMAGES)).all() and not np.isfinite(tf.function(hesitant)(IMAGES)).all()


def test_saved_exported_and_loaded_again(summed, tmp_path):
    model = EarlyExit(summed, 0.6)
    model.save(tmp_path / "early.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "early.keras")(IMAGES), model(IMAGES))
    model.export(str(tmp_path / "early"), verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "early"))
    for images in (IMAGES, IMAGES[:1]):
        np.testing.assert_allclose(exported.serve(images), model(images), atol=1e-5)


def test_it_teaches_itself_and_its_exits_are_dropped(tmp_path):
    model = multi_exit(convolutional(4, normalized=True))
    distiller = compiled(Distiller(student=model, methods=[BYOT()], hard_weight=0))
    random = np.random.default_rng(0)
    before = values(model.trainable_variables)
    distiller.fit(random.normal(size=(32, 8, 8, 3)).astype("float32"), random.integers(0, 5, 32), epochs=2, verbose=0)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, values(model.trainable_variables), strict=True))
    single_exit(model, 2).save(tmp_path / "student.keras")
    alone = keras.saving.load_model(tmp_path / "student.keras")
    assert same(values(alone.variables), values(single_exit(model, 2).variables))
    assert not [layer.name for layer in alone.layers if "conv" in layer.name and layer.name.startswith("exit")]


def test_invalid_models_and_arguments(summed):
    with pytest.raises(ValueError, match="two or more stages"):
        multi_exit(one_stage())
    with pytest.raises(ValueError, match="an exit from 1 to 3"):
        single_exit(summed, 4)
    with pytest.raises(ValueError, match="Build it with multi_exit"):
        exit_count(build("resnet8", SHAPE, 4))
    with pytest.raises(ValueError, match="threshold above 0"):
        EarlyExit(summed, 0)
    with pytest.raises(ValueError, match="final softmax"):
        net = convolutional()
        multi_exit(keras.Model(net.input, keras.layers.Softmax()(net.output)))


def one_stage():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, padding="same")(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(x))
