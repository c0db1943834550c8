"""The ONNX file of a quantization-aware network: QDQ, kernels per channel, and the Keras model to one step."""

import keras
import numpy as np
import pytest

from kd_keras import models
from kd_keras.export.formats import onnx as export
from kd_keras.networks.quantization import quantization_aware
from kd_keras.networks.quantized_layers import QUANTIZED_KERNELS, ChannelScale, HardSigmoid, Rescaled
from tests.support.quantization import every_kind, onnx_integer_tensors, photographs, randomize, steps_of_layers

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")
SHAPE = (16, 16, 3)
FAMILIES = ["resnet8", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2"]
ONE_STEP = 1.01


def built(family):
    keras.utils.set_random_seed(0)
    return models.build(family, SHAPE, 10)


def written(network, images, path):
    """The quantization-aware copy of an untrained network, whose differences of one step add up, and its ONNX file."""
    copy = quantization_aware(randomize(network), images)
    return copy, export(copy, path / "model.onnx", image_shape=SHAPE, sample=images, tolerance=1.0).path.read_bytes()


@pytest.fixture(scope="module")
def images():
    return photographs(24)


@pytest.fixture(scope="module")
def pair(images, tmp_path_factory):
    return written(every_kind(), images, tmp_path_factory.mktemp("onnx"))


def test_kernels_are_int8_with_a_scale_per_channel_and_biases_int32(pair):
    copy, content = pair
    graph = onnx.load_from_string(content).graph
    onnx.checker.check_model(content, full_check=True)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {node.output[0]: node for node in graph.node}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    kinds = (*QUANTIZED_KERNELS, ChannelScale, HardSigmoid, Rescaled)
    assert len(convolutions) == sum(getattr(each, "groups", 1) for each in copy.layers if isinstance(each, kinds))
    for node in convolutions:
        kernel, scales, zeros = (constants[name] for name in producers[node.input[1]].input)
        assert kernel.dtype == np.int8 and scales.shape == zeros.shape == kernel.shape[:1] and not zeros.any()
        for bias in node.input[2:]:
            assert constants[producers[bias].input[0]].dtype == np.int32


def test_the_kernels_are_those_that_the_network_rounds(pair):
    copy, content = pair
    layer = copy.get_layer("logits_linear")
    kernel = np.array(layer.kernel, "float64")
    step = np.abs(kernel).max(0) / 127
    graph = onnx.load_from_string(content).graph
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    expected = np.round(kernel / step).T[..., None, None]
    assert any(array.dtype == np.int8 and np.array_equal(array, expected) for array in stored)
    assert any(array.shape == step.shape and np.allclose(array, step, rtol=1e-6) for array in stored)


def test_onnxruntime_computes_in_integers(images, tmp_path):
    _, content = written(built("resnet8"), images, tmp_path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == 11 and kinds.count("QLinearAdd") == 3 and "Conv" not in kinds


def test_every_layer_of_every_kind_equals_the_keras_model_to_one_step(pair, images):
    copy, content = pair
    steps = steps_of_layers(copy, onnx_integer_tensors(content, images[0]), images[0])
    assert len(steps) >= 15 and max(steps.values()) <= ONE_STEP, steps


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_a_family_equals_the_keras_model_to_one_step(family, images, tmp_path):
    copy, content = written(built(family), images, tmp_path)
    steps = steps_of_layers(copy, onnx_integer_tensors(content, images[0]), images[0])
    assert len(steps) > 5 and max(steps.values()) <= ONE_STEP, steps


def test_layers_that_stay_in_float_are_float_in_the_file(images, tmp_path):
    copy = quantization_aware(randomize(every_kind()), images, keep_float=["right"])
    path = export(copy, tmp_path / "model.onnx", image_shape=SHAPE, sample=images).path
    graph = onnx.load(path).graph
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    kernels = [constants[node.input[1]] for node in graph.node if node.op_type == "Conv" and node.input[1] in constants]
    assert set(kernels) == {onnx.TensorProto.FLOAT} and len(kernels) == 1


def test_kernels_of_four_bits_equal_the_keras_model_to_one_step(images, tmp_path):
    copy = quantization_aware(randomize(every_kind()), images, kernel_bits=4)
    path = export(copy, tmp_path / "model.onnx", image_shape=SHAPE, sample=images, tolerance=1.0).path
    steps = steps_of_layers(copy, onnx_integer_tensors(path.read_bytes(), images[0]), images[0])
    assert len(steps) >= 15 and max(steps.values()) <= ONE_STEP, steps


def test_equal_kernels_of_other_shapes_and_outputs_that_are_not_served(images, tmp_path):
    """Kernels of only zeros have equal bytes; the kernel of the second head is not in the file."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE, name="image")
    x = keras.layers.Conv2D(8, 3, activation="relu", name="first")(inputs)
    x = keras.layers.Conv2D(16, 3, kernel_initializer="zeros", bias_initializer="ones", name="wide")(x)
    x = keras.layers.Conv2D(8, 3, kernel_initializer="zeros", bias_initializer="ones", name="narrow")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    heads = {name: keras.layers.Dense(5, name=name)(x) for name in ("logits", "aux")}
    copy = quantization_aware(keras.Model(inputs, heads), images)
    path = export(copy, tmp_path / "model.onnx", image_shape=SHAPE, sample=images).path
    int8 = [tensor for tensor in onnx.load(path).graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    kernels = sorted(tuple(tensor.dims[:2]) for tensor in int8 if len(tensor.dims) == 4)
    assert kernels == [(5, 8), (8, 3), (8, 16), (16, 8)]
