"""Networks and images for the tests of quantization."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from kd_keras.networks.fake_quantization import FakeQuantize
from kd_keras.private_api import nodes_in_order


def photographs(count, size=16, seed=0):
    """Smooth images of many colors with noise, `(N, size, size, 3)` uint8."""
    random = np.random.default_rng(seed)
    patches = random.uniform(0, 255, (count, 4, 4, 3))
    images = np.kron(patches, np.ones((1, size // 4, size // 4, 1)))
    return np.clip(images + random.normal(0, 15, images.shape), 0, 255).astype("uint8")


def randomize(network, seed=0):
    """Gives the BatchNorms of a network other values than the identity's."""
    random = np.random.default_rng(seed)
    for variable in network.variables:
        name = variable.path.rsplit("/", 1)[-1]
        if name in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.6, 1.4, variable.shape))
        if name in ("beta", "moving_mean"):
            variable.assign(random.uniform(-0.3, 0.3, variable.shape))
    return network


def every_kind(shape=(16, 16, 3), classes=5):
    """A small classifier with every kind of operation that LiteRT computes in int8, which ends in a softmax."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape, name="image")
    x = layers.Rescaling(1 / 64, offset=-2.0, name="scaled")(inputs)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(x)
    x = shortcut = layers.ReLU(name="stem_out")(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.ZeroPadding2D(((1, 1), (1, 1)), name="pad")(x)
    x = layers.DepthwiseConv2D(3, activation="hard_swish", name="depthwise")(x)
    x = layers.Conv2D(8, 1, groups=2, name="grouped")(x)
    x = layers.ReLU(6.0, name="capped")(layers.Add(name="sum")([x, shortcut]))
    means = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    gate = layers.Conv2D(8, 1, activation="hard_sigmoid", name="excite")(means)
    x = layers.Multiply(name="excited")([x, gate])
    left, right = ops.split(x, 2, axis=-1)
    right = layers.Conv2D(4, 1, activation="silu", name="right")(right)
    x = layers.Concatenate(name="joined")([left, right])
    pooled = layers.AveragePooling2D(2, name="average")(x)
    largest = layers.MaxPooling2D(2, name="largest")(layers.LeakyReLU(0.1, name="leaky")(x))
    x = layers.BatchNormalization(name="bn")(layers.Concatenate(name="pools")([pooled, largest]))
    x = layers.Activation("relu", name="bn_relu")(x)
    x = layers.ReLU(6.0, name="shifted")(x + 3.0) * (1 / 6)
    x = layers.Dropout(0.1, name="dropout")(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax", name="logits")(x), name="every_kind")


def integer_tensors(content, image):
    """The int8 tensors that LiteRT computes for an image: `(scale, values)` of each, in units of their meaning."""
    interpreter = tf.lite.Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
    interpreter.invoke()
    tensors = []
    for details in interpreter.get_tensor_details():
        scale, zero = details["quantization"]
        if details["dtype"] in (np.int8, np.uint8) and scale:
            values = interpreter.get_tensor(details["index"]).astype("float64")
            tensors.append((scale, (values - zero) * scale))
    return tensors


def onnx_integer_tensors(content, image):
    """The same of onnxruntime; a map of ONNX `(B, C, H, W)` is given in both orders of its axes."""
    import onnx  # of an extra
    import onnxruntime

    graph = (model := onnx.load_from_string(content)).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(node.output[0]) for node in nodes)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = dict(
        zip([output.name for output in graph.output], session.run(None, {"images": image[None]}), strict=True)
    )
    tensors = []
    for node in nodes:
        scale, zero = (constants[name] for name in node.input[1:])
        values = (outputs[node.output[0]].astype("float64") - zero) * scale
        tensors.append((float(scale), values))
        if values.ndim == 4:
            tensors.append((float(scale), values.transpose(0, 2, 3, 1)))
    return tensors


def steps_of_layers(model, tensors, image):
    """For each rounded tensor how many steps a runtime differs at most from Keras, if both read the runtime's values.

    Args:
        model: a quantization-aware model.
        tensors: what `integer_tensors` or `onnx_integer_tensors` returns for its export and the image.
        image: `(H, W, C)` uint8.

    Returns:
        The differences by the names of the layers that round. Layers that share the range of another are left out.
    """
    calls = [node for node in nodes_in_order(model) if not node.is_input]
    producers = {id(output): node for node in calls for output in node.outputs}
    rounding = {id(node.outputs[0]): node for node in calls if isinstance(node.operation, FakeQuantize)}
    values = {}
    expected = keras.Model(model.inputs, [node.outputs[0] for node in rounding.values()])(image[None].astype("float32"))
    for (key, node), output in zip(rounding.items(), expected, strict=True):
        low, high = node.operation.range
        step = (high - low) / 255
        same = [v for scale, v in tensors if v.size == output.numpy().size and abs(scale - step) < 1e-5 * step]
        if same:  # the nearest of those of the same size and range
            values[key] = min((v.reshape(output.shape) for v in same), key=lambda v: np.abs(v - output).mean())
    differences = {}
    for key, node in rounding.items():
        computed = {known: value for known, value in values.items() if known != key}
        try:
            actual = _compute(node.outputs[0], producers, rounding, computed)
        except KeyError:  # it reads a tensor that the file does not have, such as one that is part of a kernel
            continue
        if key in values:
            low, high = node.operation.range
            difference = np.abs(np.asarray(actual) - values[key]).max()
            differences[node.operation.name] = float(difference / ((high - low) / 255))
    return differences


def _compute(tensor, producers, rounding, computed, is_first=True):
    """The value of a symbolic tensor, from those of the nearest rounded tensors before it."""
    if id(tensor) in computed:
        return tf.constant(computed[id(tensor)], "float32")
    if not is_first and id(tensor) in rounding:
        raise KeyError(id(tensor))
    node = producers[id(tensor)]
    sources = {id(t): _compute(t, producers, rounding, computed, False) for t in node.arguments.keras_tensors}
    args, kwargs = node.arguments.fill_in(sources)
    results = keras.tree.flatten(node.operation(*args, **kwargs))
    return dict(zip(map(id, node.outputs), results, strict=True))[id(tensor)]
