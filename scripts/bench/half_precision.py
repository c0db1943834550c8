"""How far the weights of two replicas are from those of one, by precision and step, and what rounding alone does.

    python -m scripts.bench.half_precision

A small convolutional network learns by KD and FitNet from 37 random images in batches of 16, as in the test of the
replicas. Every row is the largest difference over all weights after 1, 5 and 20 steps. "Rows reversed" is one device
that reads each batch in the opposite order: the same sum, rounded differently.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from kd_keras import Distiller, data, distribute
from kd_keras.methods import KD, FitNet

STEPS = (1, 5, 20)
SHAPE, CLASSES = (8, 8, 3), 5


class Case(NamedTuple):
    """One way to train: the dtype policy, SGD's settings, and a fixed loss scale (`None`: the dynamic one)."""

    policy: str
    rate: float = 0.05
    momentum: float = 0.9
    scale: float | None = None


CASES = {
    "float32": Case("float32"),
    "mixed_bfloat16": Case("mixed_bfloat16"),
    "mixed_float16": Case("mixed_float16"),
    "mixed_float16, the scale fixed at 1024": Case("mixed_float16", scale=1024.0),
    "mixed_float16, without momentum": Case("mixed_float16", momentum=0.0),
    "mixed_float16, learning rate 0.005": Case("mixed_float16", rate=0.005),
}


def build_network(width: int, name: str) -> keras.Model:
    """Two convolutions and a classifier, without batch normalization."""
    x = inputs = keras.Input(SHAPE, name="image")
    x = layers.Rescaling(1 / 63.75, offset=-2.0, name="scale")(x)
    for stage in (1, 2):
        x = layers.Conv2D(width * stage, 3, strides=stage, padding="same", name=f"conv{stage}")(x)
        x = layers.ReLU(name=f"relu{stage}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="logits")(x), name=name)


def make_source(count: int = 37) -> data.Source:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (count, *SHAPE)).astype("uint8"), random.integers(0, CLASSES, count)
    columns = {"image": images, "index": np.arange(count), "label": labels}
    return data.Source(tf.data.Dataset.from_tensor_slices(columns), "random", count, CLASSES, None, SHAPE)


def make_optimizer(case: Case) -> keras.optimizers.Optimizer:
    sgd = keras.optimizers.SGD(case.rate, momentum=case.momentum)
    if case.scale is None:
        return sgd  # compile() adds loss scaling if the policy is float16
    return keras.optimizers.LossScaleOptimizer(sgd, initial_scale=case.scale, dynamic_growth_steps=10**6)


def train(strategy: tf.distribute.Strategy, case: Case, reverse: bool = False) -> list[list[np.ndarray]]:
    """The student's weights after each of `STEPS` steps."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        teacher = build_network(6, "teacher")
        keras.config.set_dtype_policy(case.policy)
        student = build_network(4, "student")
        distiller = Distiller(student=student, teacher=teacher, methods=[KD(), FitNet(weight=0.5)], hard_weight=1.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(optimizer=make_optimizer(case), loss=loss, jit_compile=False)
        keras.config.set_dtype_policy("float32")
    options = {"batch_size": 16, "augmentation": data.Augmentation(shift=1, flip=True)}
    source = make_source()
    batches = distribute.batches(strategy, lambda part: data.training(source, batch_slice=part, **options))
    if reverse:
        batches = batches.map(lambda *batch: tf.nest.map_structure(lambda rows: rows[::-1], batch))
    weights = []

    def keep_weights(batch: int, logs: dict) -> None:
        if batch + 1 in STEPS:
            weights.append([np.array(variable) for variable in student.variables])

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=keep_weights)
    distiller.fit(batches, steps_per_epoch=max(STEPS), callbacks=[callback], shuffle=False, verbose=0)
    return weights


def largest_difference(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))


def main() -> None:
    two, one = distribute.strategy("mirrored", devices=2), distribute.strategy("one")
    in_float32 = train(one, CASES["float32"])
    print("| case | compared with one device | " + " | ".join(f"after {step} steps" for step in STEPS) + " |")
    print("|---|---|" + "---:|" * len(STEPS))
    for name, case in CASES.items():
        reference = train(one, case)
        others = {"two replicas": train(two, case), "rows reversed": train(one, case, reverse=True)}
        if case == Case(case.policy) and case.policy != "float32":
            others["one device in float32"] = in_float32
        for other, weights in others.items():
            differences = [largest_difference(*pair) for pair in zip(reference, weights, strict=True)]
            print(f"| {name} | {other} | " + " | ".join(f"{d:.1e}" for d in differences) + " |", flush=True)


if __name__ == "__main__":
    main()
