"""How far the weights of two replicas are from those of one, by precision and by step, and what rounding alone does.

    python -m scripts.bench.half_precision

The network, the methods and the batches are those of tests/replicas.py: KD and FitNet, batches of 16, 21 updates. Every
row is the largest difference over all weights after 1, 5 and 20 steps. "Rows reversed" is one device that is given each
batch in the opposite order: the same sum, rounded otherwise.
"""

import keras
import numpy as np
import tensorflow as tf

from kd_keras import Distiller, data, distribute
from kd_keras.methods import KD, FitNet
from tests.support.networks import CLASSES, compiled, convolutional, source, values

MARKS = (1, 5, 20)
CASES = {
    "float32": ("float32", 0.05, 0.9, None),
    "mixed_bfloat16": ("mixed_bfloat16", 0.05, 0.9, None),
    "mixed_float16": ("mixed_float16", 0.05, 0.9, None),
    "mixed_float16, the scale fixed at 1024": ("mixed_float16", 0.05, 0.9, 1024.0),
    "mixed_float16, without momentum": ("mixed_float16", 0.05, 0.0, None),
    "mixed_float16, learning rate 0.005": ("mixed_float16", 0.005, 0.9, None),
}


def optimizer(rate: float, momentum: float, scale: float | None) -> keras.optimizers.Optimizer:
    plain = keras.optimizers.SGD(rate, momentum=momentum)
    if scale is None:
        return plain  # compile() puts loss scaling around it where the policy is float16
    return keras.optimizers.LossScaleOptimizer(plain, initial_scale=scale, dynamic_growth_steps=10**6)


def weights(strategy: tf.distribute.Strategy, policy: str, *how: float | None, reverse: bool = False) -> list:
    """The student's weights after each of `MARKS` steps."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        teacher = convolutional(6, name="teacher", classes=CLASSES)
        keras.config.set_dtype_policy(policy)
        distiller = Distiller(student=convolutional(4), teacher=teacher, methods=[KD(), FitNet(weight=0.5)])
        compiled(distiller, optimizer=optimizer(*how), metrics=None, jit_compile=False)
        keras.config.set_dtype_policy("float32")
    views = data.Augmentation(shift=1, flip=True)
    options = {"batch_size": 16, "augmentation": views}
    train = distribute.batches(strategy, lambda share: data.training(source(), share=share, **options))
    if reverse:
        train = train.map(lambda *batch: tf.nest.map_structure(lambda rows: rows[::-1], batch))
    found = []

    def note(batch: int, logs: dict) -> None:
        if batch + 1 in MARKS:
            found.append(values(distiller.student.variables))

    watching = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    distiller.fit(train, steps_per_epoch=max(MARKS), callbacks=[watching], shuffle=False, verbose=0)
    return found


def main() -> None:
    two, one = distribute.strategy("mirrored", devices=2), distribute.strategy("one")
    exact = weights(one, *CASES["float32"])
    print("| case | against one device | " + " | ".join(f"after {mark} steps" for mark in MARKS) + " |")
    print("|---|---|" + "---:|" * len(MARKS))
    for case, (policy, *how) in CASES.items():
        alone = weights(one, policy, *how)
        others = {"two replicas": weights(two, policy, *how), "rows reversed": weights(one, policy, *how, reverse=True)}
        if tuple(how) == (0.05, 0.9, None) and policy != "float32":
            others["one device in float32"] = exact
        for name, other in others.items():
            pairs = zip(alone, other, strict=True)
            most = (max(float(np.abs(a - b).max()) for a, b in zip(*pair, strict=True)) for pair in pairs)
            print(f"| {case} | {name} | " + " | ".join(f"{each:.1e}" for each in most) + " |", flush=True)


if __name__ == "__main__":
    main()
