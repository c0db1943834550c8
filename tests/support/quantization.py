"""Networks and images for the tests of quantization."""

import keras
import numpy as np
from keras import layers, ops


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
