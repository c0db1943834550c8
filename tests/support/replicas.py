"""A program that trains small Distillers under one strategy and writes the results, which test_distribute.py compares.

python -m tests.support.replicas mirrored out.npz [case ...]
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from kd_keras import Distiller, data, distribute
from kd_keras.methods import KD, FitNet
from tests.support.methods import Similarities
from tests.support.networks import CLASSES, compiled, convolutional, source, values

STEPS, EPOCHS, BATCH = 3, 7, 16  # 37 examples, 21 updates; the last batch of an epoch has 5 examples, 2 and 3
CASES = {
    "plain": {"methods": lambda: [KD(), FitNet(weight=0.5), Similarities()]},
    "synchronized": {"methods": lambda: [KD(), FitNet(weight=0.5)], "normalized": True},
    "together": {"methods": lambda: [KD()], "steps_per_execution": STEPS},
    "half": {"methods": lambda: [KD(), FitNet(weight=0.5)], "policy": "mixed_float16"},
}


def trained(strategy, methods, normalized=False, policy="float32", steps_per_execution=1):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        teacher = convolutional(6, name="teacher", classes=CLASSES, pixels=True)
        keras.config.set_dtype_policy(policy)
        student = convolutional(4, normalized=normalized, pixels=True)
        distribute.synchronize_batch_norm(student)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        distiller = Distiller(student=student, teacher=teacher, methods=methods())
        options = {"loss": loss, "metrics": None, "weighted_metrics": ["accuracy"], "jit_compile": False}
        compiled(distiller, optimizer=optimizer, steps_per_execution=steps_per_execution, **options)
        keras.config.set_dtype_policy("float32")
    images, options = source(), {"batch_size": BATCH}
    views = data.Augmentation(shift=1, flip=True)
    train = distribute.batches(
        strategy, lambda batch_slice: data.training(images, augmentation=views, batch_slice=batch_slice, **options)
    )
    test = distribute.batches(strategy, lambda batch_slice: data.evaluation(images, batch_slice=batch_slice, **options))
    testing = {"validation_data": test, "validation_steps": STEPS, "validation_freq": 3, "verbose": 0}
    history = distiller.fit(train, epochs=EPOCHS, steps_per_epoch=STEPS, shuffle=False, **testing).history
    again = distiller.evaluate(test, steps=STEPS, verbose=0, return_dict=True)
    return distiller, {**history, "evaluated": sorted(again.items())}


def main(name, output, *cases):
    """Trains the cases under one strategy and writes the results, but those that several workers must reject."""
    strategy = distribute.strategy(name, devices=2 if name in ("mirrored", "central") else None)
    results = {}
    for case in cases or CASES:
        if is_rejected(strategy, CASES[case]):
            continue
        distiller, history = trained(strategy, **CASES[case])
        results |= {f"{case}/{i}": value for i, value in enumerate(values(distiller.student.variables))}
        results[f"{case}/predicted"] = distiller.predict(unsliced_images(), verbose=0)
        results[f"{case}/mapped"] = predict_over_replicas(strategy, distiller)
        results[f"{case}/history"] = json.dumps(history)
    np.savez(output, **results)
    print(f"{strategy.num_replicas_in_sync} replicas, chief {distribute.is_chief(strategy)}")


def is_rejected(strategy, options):
    """Whether a case has several steps per call on several workers, which must reject it."""
    if "steps_per_execution" not in options or not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    try:
        trained(strategy, **options)
    except ValueError as error:
        assert "steps_per_execution=1 on several workers" in str(error)
        return True
    raise AssertionError("several workers ran several steps in one call: remove the check in keras_fit.py")


def predict_over_replicas(strategy, distiller):
    """Predictions by `map_over_replicas`; the last batch has one row."""
    with strategy.scope():
        run = tf.function(
            distribute.map_over_replicas(lambda rows: {"logits": distiller.student(rows, training=False)})
        )
    return np.concatenate([run(rows)["logits"] for rows in unsliced_images()])


def unsliced_images():
    """A dataset that Keras itself divides over the replicas; its size is not a multiple of their number."""
    images = np.random.default_rng(1).integers(0, 256, (9, 8, 8, 3)).astype("float32")
    return tf.data.Dataset.from_tensor_slices(images).batch(4)


if __name__ == "__main__":
    main(*sys.argv[1:])
