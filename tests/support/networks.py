"""Small networks that the tests distill, their data, and helpers that compare variables."""

import keras
import numpy as np
from keras import layers

SHAPE = (8, 8, 3)
CLASSES = 5


def convolutional(
    width=4, classes=CLASSES, shape=SHAPE, normalized=False, dropout=0.0, name="net", pixels=False, **options
):
    """`pixels`: the images have values from 0 to 255, else about normally distributed ones."""
    inputs = keras.Input(shape, name="image")
    x = layers.Rescaling(1 / 64, offset=-2, name="scaled")(inputs) if pixels else inputs
    for stage in (1, 2):
        x = layers.Conv2D(width * stage, 3, strides=stage, padding="same", name=f"conv{stage}", **options)(x)
        if normalized:
            x = layers.BatchNormalization(name=f"bn{stage}")(x)
        x = layers.ReLU(name=f"relu{stage}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits", **options)(x), name=name)


def examples(count=32, seed=0, shape=SHAPE, classes=CLASSES):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, *shape)).astype("float32"), random.integers(0, classes, count)


def source(count=37):
    """Random images of the networks' size, as the pipeline reads them."""
    import tensorflow as tf

    from kd_keras.data import Source

    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (count, *SHAPE)).astype("uint8"), random.integers(0, CLASSES, count)
    columns = {"image": images, "index": np.arange(count), "label": labels}
    return Source(tf.data.Dataset.from_tensor_slices(columns), "random", count, CLASSES, None, SHAPE)


def compiled(distiller, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {"optimizer": keras.optimizers.SGD(0.1, momentum=0.9), "loss": loss, "metrics": ["accuracy"]} | options
    distiller.compile(**options)
    return distiller


def values(variables):
    return [np.array(variable) for variable in variables]


def same(before, after, atol=0.0):
    pairs = zip(before, after, strict=True)
    return len(before) == len(after) and all(np.allclose(a, b, rtol=0, atol=atol) for a, b in pairs)


def mirrored(devices):
    """A strategy over logical CPUs without collectives, because strategies of one process would share their keys."""
    import tensorflow as tf

    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([f"CPU:{device}" for device in range(devices)], reduction)


class Passes(layers.Layer):
    """Returns its input, and counts in the graph how often it runs in training and in inference."""

    def build(self, shape):
        names = {True: "training", False: "inference"}
        self.counts = {mode: self.add_weight((), "zeros", trainable=False, name=name) for mode, name in names.items()}

    def call(self, inputs, training=False):
        self.counts[bool(training)].assign_add(1.0)
        return inputs

    def read(self):
        return int(self.counts[True]), int(self.counts[False])


def counted(model):
    """The model after a layer that counts its passes, and that layer."""
    layer, inputs = Passes(), keras.Input(model.input_shape[1:])
    return keras.Model(inputs, model(layer(inputs)), name=f"counted_{model.name}"), layer
