"""The LiteRT int8 file of a quantization-aware network: integers, learned ranges, and the Keras model to one step."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils

from kd_keras import models
from kd_keras.export.formats import litert, saved_model
from kd_keras.export.quantized import learned_int8
from kd_keras.export.runtimes import interpreter
from kd_keras.export.verification import Reference
from kd_keras.networks.quantization import quantization_aware
from tests.support.quantization import every_kind, integer_tensors, photographs, randomize, steps_of_layers

SHAPE = (16, 16, 3)
FAMILIES = ["vgg8", "wrn_16_1", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v1", "shufflenet_v2"]
# A kernel of LiteRT that multiplies two activations, or an activation that is steep, may be off by more than one step
# if its scale is that much finer than that of what it reads.
ONE_STEP = 1.01


def operations(content):
    details = tf.lite.Interpreter(model_content=content)._get_ops_details()
    return {operation["op_name"] for operation in details}


def float_tensors(content):
    details = tf.lite.Interpreter(model_content=content).get_tensor_details()
    return [tensor["name"] for tensor in details if tensor["dtype"] == np.float32]


def converted(network, images):
    copy = quantization_aware(network, images)
    reference = Reference(copy, images.shape[1:], images, None, None)
    return copy, learned_int8(reference)


@pytest.fixture(scope="module")
def images():
    return photographs(24)


@pytest.fixture(scope="module")
def quantized(images):
    return quantization_aware(randomize(every_kind()), images)


@pytest.fixture(scope="module")
def exported(quantized, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "model.tflite"
    return litert(quantized, path, image_shape=SHAPE, sample=images, precision="int8")


def test_the_file_computes_every_kind_of_operation_in_integers(exported):
    content = exported.path.read_bytes()
    assert float_tensors(content) == []
    kinds = {"CONV_2D", "DEPTHWISE_CONV_2D", "HARD_SWISH", "LOGISTIC", "ADD", "MUL", "CONCATENATION", "SPLIT", "MEAN"}
    assert kinds | {"AVERAGE_POOL_2D", "MAX_POOL_2D", "LEAKY_RELU", "SOFTMAX"} <= operations(content)


def test_the_file_reads_raw_pixels_and_returns_integers(exported):
    run = interpreter(exported.path).get_signature_runner("serving_default")
    image, outputs = run.get_input_details()["images"], run.get_output_details()
    assert (image["dtype"], image["quantization"]) == (np.uint8, (1.0, 0))
    assert {output["dtype"] for output in outputs.values()} == {np.uint8}
    assert outputs["probabilities"]["quantization"] == (1 / 256, 0)


def test_the_file_has_the_learned_ranges(quantized, images, tmp_path):
    copy = keras.models.clone_model(quantized)
    copy.set_weights(quantized.get_weights())
    low, high = quantized.get_layer("logits_linear_quantize").range
    copy.get_layer("logits_linear_quantize").set_range(2 * low, 2 * high)
    path = litert(copy, tmp_path / "model.tflite", image_shape=SHAPE, sample=images, precision="int8").path
    details = interpreter(path).get_signature_runner("serving_default").get_output_details()
    assert details["logits"]["quantization"][0] == pytest.approx(2 * (high - low) / 255, rel=1e-5)


def test_ranges_learned_by_gradient_are_those_of_the_file(images):
    copy = quantization_aware(randomize(every_kind()), images, ranges="gradient")
    copy.compile(optimizer=keras.optimizers.SGD(0.01), loss="sparse_categorical_crossentropy")
    copy.fit(images.astype("float32"), np.arange(len(images)) % 5, epochs=1, verbose=0)
    content = learned_int8(Reference(copy, SHAPE, images, None, None))
    assert float_tensors(content) == []
    steps = steps_of_layers(copy, integer_tensors(content, images[0]), images[0])
    assert len(steps) >= 15 and max(steps.values()) <= ONE_STEP, steps


def test_kernels_of_four_bits_are_those_of_the_file(images, tmp_path):
    copy = quantization_aware(randomize(every_kind()), images, kernel_bits=4)
    copy.save(tmp_path / "copy.keras")
    copy = keras.models.load_model(tmp_path / "copy.keras")
    path = litert(
        copy, tmp_path / "model.tflite", image_shape=SHAPE, sample=images, precision="int8", tolerance=1.0
    ).path
    graph = flatbuffer_utils.read_model(str(path)).subgraphs[0]
    kinds = [flatbuffer_utils.type_to_name(tensor.type) for tensor in graph.tensors]
    assert kinds.count("INT4") == 7 and "FLOAT32" not in kinds
    steps = steps_of_layers(copy, integer_tensors(path.read_bytes(), images[0]), images[0])
    assert len(steps) >= 15 and max(steps.values()) <= ONE_STEP, steps


def test_every_layer_of_the_file_equals_the_keras_model_to_one_step(quantized, exported, images):
    steps = steps_of_layers(quantized, integer_tensors(exported.path.read_bytes(), images[0]), images[0])
    assert len(steps) >= 15
    assert max(steps.values()) <= ONE_STEP, steps


def test_the_logits_of_a_trained_network_equal_those_of_keras_nearly_always_to_one_step(images):
    # A difference of one step in an early layer can become more in a later one.
    keras.utils.set_random_seed(0)
    network = models.build("resnet8", SHAPE, 4)
    labels = images.reshape(len(images), -1).mean(1).argsort().argsort() * 4 // len(images)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=keras.optimizers.Adam(3e-3), loss=loss)
    network.fit(images.astype("float32"), labels, epochs=25, batch_size=12, verbose=0)
    copy, content = converted(network, images)
    run = tf.lite.Interpreter(model_content=content).get_signature_runner("serving_default")
    scale, zero = run.get_output_details()["logits"]["quantization"]
    actual = (run(images=images)["logits"].astype("float32") - zero) * scale
    steps = np.abs(actual - copy.predict(images.astype("float32"), verbose=0)) / scale
    assert (steps <= ONE_STEP).mean() >= 0.95 and steps.max() <= 2 * ONE_STEP


def test_a_softmax_and_dense_layers_inside_the_network_are_integers(images):
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = keras.layers.Multiply(name="attended")([x, keras.layers.Softmax()(keras.layers.Conv2D(8, 1, name="scores")(x))])
    factors = keras.layers.Reshape((1, 1, 8))(keras.layers.GlobalAveragePooling2D()(x))
    x = keras.layers.Multiply(name="gated")([x, keras.layers.Dense(8, activation="sigmoid", name="gate")(factors)])
    network = keras.Model(inputs, keras.layers.Dense(4, name="logits")(keras.layers.GlobalAveragePooling2D()(x)))
    copy, content = converted(randomize(network), images)
    assert float_tensors(content) == [] and {"SOFTMAX", "LOGISTIC"} <= operations(content)
    steps = steps_of_layers(copy, integer_tensors(content, images[0]), images[0])
    assert len(steps) >= 8 and max(steps.values()) <= ONE_STEP, steps


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_every_family_equals_the_keras_model_to_one_step(family, images):
    copy, content = converted(randomize(models.build(family, SHAPE, 10)), images)
    assert float_tensors(content) == []
    steps = steps_of_layers(copy, integer_tensors(content, images[0]), images[0])
    assert len(steps) > 5 and max(steps.values()) <= ONE_STEP, steps


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50"])
def test_every_layer_of_an_application_equals_the_keras_model_to_one_step(name):
    images = photographs(16, 32)
    copy, content = converted(randomize(models.build(f"applications/{name}", (32, 32, 3), 10, weights=None)), images)
    assert float_tensors(content) == []
    steps = steps_of_layers(copy, integer_tensors(content, images[0]), images[0])
    assert len(steps) > 30 and max(steps.values()) <= ONE_STEP, steps


def test_layers_that_stay_in_float_are_float_in_the_file(images, tmp_path):
    network = randomize(every_kind())
    copy = quantization_aware(network, images, keep_float=["logits"])
    path = litert(copy, tmp_path / "model.tflite", image_shape=SHAPE, sample=images, precision="int8").path
    details = interpreter(path).get_signature_runner("serving_default").get_output_details()
    assert {output["dtype"] for output in details.values()} == {np.float32}
    assert "DEQUANTIZE" in operations(path.read_bytes())


def test_a_saved_model_computes_the_same(quantized, images, tmp_path):
    export = saved_model(quantized, tmp_path / "saved", image_shape=SHAPE, sample=images)
    assert export.difference < 1e-4 and export.agreement == 1.0


def test_other_precisions_are_refused(quantized, images, tmp_path):
    for precision in ("float32", "float16"):
        with pytest.raises(ValueError, match=f"Expected precision='int8' for 'every_kind'.* received '{precision}'"):
            litert(quantized, tmp_path / "model.tflite", image_shape=SHAPE, sample=images, precision=precision)
    assert not any(tmp_path.iterdir())
