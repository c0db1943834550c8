"""Small detectors, labels with boxes, and the loss of a detector over two replicas."""

import math

import keras
import numpy as np
import tensorflow as tf

from kd_keras import models
from kd_keras.models.gfl_head import GFL, BoxDistributions
from tests.support.networks import SHAPE, mirrored
from tests.support.reference import random


def varied_detector(name, shape, classes, seed=0, **options):
    """A detector whose predictions differ between positions, as those of an untrained one hardly do."""
    keras.utils.set_random_seed(seed)
    network = models.build(f"detector/{name}", shape, classes, **options)
    images = np.random.default_rng(seed).uniform(0, 255, (4, *shape)).astype("float32")
    deviations = {"class_logits": 2.0, "box_deltas": 0.4, "box_logits": 2.0}
    kernels = {key: network.get_layer(f"{key.split('_')[0]}_predictions").pointwise_kernel for key in network.output}
    for kernel in kernels.values():
        kernel.assign(random(*kernel.shape, seed=seed))
    outputs = network(images)
    for key, kernel in kernels.items():
        kernel.assign(kernel * (deviations[key] / np.std(outputs[key])))
    return network


def random_boxes(count, classes, rows=3, seed=0):
    """Labels with up to `rows` objects; the second image has none, and padded rows have boxes of zeros."""
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 1, (count, rows, 2, 2))
    low, high = corners.min(2), corners.max(2)
    boxes = np.concatenate([0.7 * low, 0.7 * high + 0.3], -1).astype("float32")
    numbers = generator.integers(0, classes, (count, rows))
    numbers[np.arange(count)[:, None] % 3 < 2 * (np.arange(rows) == rows - 1)] = -1
    numbers[1] = -1
    boxes[numbers < 0] = 0
    return {"boxes": boxes, "classes": numbers}


def loss_of_two_replicas(network, label, outputs, first):
    """The loss as the Distiller weighs it over two replicas, of which one has the first rows and the other the rest."""
    rows = len(label["classes"])
    slices, strategy = (slice(0, first), slice(first, rows)), mirrored(2)

    def rows_of(context):
        own = slices[context.replica_id_in_sync_group]
        return {key: array[own] for key, array in {**label, **outputs}.items()}

    def loss(own):
        return network.compute_loss(None, {k: own[k] for k in label}, {k: own[k] for k in outputs})

    with strategy.scope():
        values = strategy.experimental_distribute_values_from_function(rows_of)
        parts = strategy.experimental_local_results(strategy.run(tf.function(loss), (values,)))
    fractions = (first / rows, 1 - first / rows)
    return sum(2 * fraction * float(part) for fraction, part in zip(fractions, parts, strict=True))


def plain_gfl(width, classes, normalized=False, name="net", **options):
    """A GFL detector of 8 x 8 images on two convolutions, without BatchNorm unless it is wanted.

    The maps inside its heads have 5 channels, whatever the width is.
    """
    inputs = keras.Input(SHAPE, name="image")
    x, rows = inputs, {"class": [], "box": []}
    for level in (1, 2):
        x = keras.layers.Conv2D(width, 3, strides=2, padding="same", name=f"conv{level}", **options)(x)
        if normalized:
            x = keras.layers.BatchNormalization(name=f"bn{level}")(x)
        x = keras.layers.ReLU(name=f"pyramid_p{level}")(x)
        for branch, shape in (("class", (classes,)), ("box", (4, 17))):
            y = keras.layers.Conv2D(5, 1, name=f"{branch}_conv1_p{level}_bn", **options)(x)  # in place of a BatchNorm
            y = keras.layers.Conv2D(math.prod(shape), 1, **options)(keras.layers.ReLU()(y))
            rows[branch].append(keras.layers.Reshape((-1, *shape))(y))
    outputs = {
        "class_logits": keras.layers.Concatenate(axis=1, dtype="float32", name="class_logits")(rows["class"]),
        "box_logits": BoxDistributions([(4, 4), (2, 2)], [2, 4], 4.0, name="box_logits")(rows["box"]),
    }
    return GFL(inputs=inputs, outputs=outputs, name=name)
