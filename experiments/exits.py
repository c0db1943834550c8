"""Compares the exits of a multi-exit network, their sum, and stopping early at several thresholds.

    python -m experiments.distill --student=multi_exit/resnet20 --method=byot --hard_weight=0 --run=runs/exits
    python -m experiments.exits --model=runs/exits --alone=runs/alone

--alone names the same network trained plainly, to be put beside. The images are those of the run, unless --dataset
names others.
"""

import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from experiments import arguments, devices
from experiments.runs import load_model, load_result
from experiments.teachers import renormalize
from kd_keras import Teacher, data, distribute, models
from kd_keras.contracts import as_batch
from kd_keras.evaluation import accuracy, cost, latency, predict

FLAGS = flags.FLAGS
arguments.define_data()
devices.define_strategy()
flags.adopt_module_key_flags(arguments)
flags.adopt_module_key_flags(devices)
flags.DEFINE_string("model", None, "A finished run whose network has exits.", required=True)
flags.DEFINE_string("alone", None, "A finished run of the same network without exits.")
flags.DEFINE_list("thresholds", ["0.6", "0.8", "0.9", "0.95", "0.99"], "Probabilities at which an exit is sure.")


def main(_: list[str]) -> None:
    arguments.quiet()
    with devices.chosen() as strategy:
        compare(strategy)


def compare(strategy: tf.distribute.Strategy) -> None:
    """Prints both tables; the replicas share out the answers, the chief alone takes times."""
    with distribute.chief_first(strategy):
        record = load_result(FLAGS.model).get("data", {})
        source = arguments.load_test(record)
    size = arguments.integers("image_size", 2) or tuple(record["image_shape"][:2])
    images = data.evaluation(source, batch_size=FLAGS.batch_size, image_size=size)
    with strategy.scope():
        model, normalise = load_model(FLAGS.model), renormalize(record, data.Normalisation())
        singles = {f"exit {number}": models.single_exit(model, number) for number in numbers(model)}
        rows = {name: (each, normalise) for name, each in {**singles, "sum of the exits": model}.items()}
        if FLAGS.alone:
            own = load_result(FLAGS.alone).get("data", {})
            rows["the network alone"] = load_model(FLAGS.alone), renormalize(own, data.Normalisation())
        given = {name: predict(Teacher(each, preprocess=before), images) for name, (each, before) in rows.items()}
    if not distribute.is_chief(strategy):
        return
    some = as_batch(next(iter(images))).inputs
    some = (normalise(some) if normalise else some).numpy()
    print(f"{source.size:,} test images of {source.name}; milliseconds for one image, the median; below, the mean.\n")
    print("| prediction | parameters | multiply-accumulates | milliseconds | accuracy |\n|---|---:|---:|---:|---:|")
    times = latency({name: (each, some) for name, (each, _) in rows.items()})
    for name, (each, _) in rows.items():
        known = dict(cost(each, some.shape[1:])) | dict(accuracy(given[name])) | times[name]
        print(f"| {name} | {known['parameters']:,} | {known['macs']:,} | {known['milliseconds']:.2f} |", end=" ")
        print(f"{known['accuracy']:.4f} |", flush=True)
    print(f"\n| sure at | {' | '.join(f'stop at {name}' for name in singles)} | milliseconds | accuracy |")
    print("|---" * (len(singles) + 3) + "|")
    running = running_means([given[name].logits for name in singles])
    for threshold in map(float, FLAGS.thresholds):
        stops = stopped_at(running, threshold)
        right = running.argmax(-1)[stops, np.arange(len(stops))] == given["exit 1"].labels
        shares = " | ".join(f"{(stops == number).mean():.3f}" for number in range(len(singles)))
        milliseconds = mean_milliseconds(models.EarlyExit(model, threshold), some)
        print(f"| {threshold:g} | {shares} | {milliseconds:.2f} | {right.mean():.4f} |", flush=True)


def numbers(model: keras.Model) -> range:
    """The numbers of a network's exits, from 1."""
    return range(1, models.exit_count(model) + 1)


def mean_milliseconds(model: keras.Model, images: np.ndarray) -> float:
    """The mean time of one image: where images stop at several exits, a median would be the time of one of them."""
    forward = tf.function(lambda image: model(image, training=False))
    forward(tf.constant(images[:1]))
    begun = time.perf_counter()
    for image in images:
        forward(tf.constant(image[None])).numpy()
    return 1000 * (time.perf_counter() - begun) / len(images)


def running_means(logits: list[np.ndarray]) -> np.ndarray:
    """The mean prediction of the first exits, of the first two, ...: `(exits, N, K)` probabilities."""
    each = np.stack([tf.nn.softmax(one).numpy() for one in logits])
    return np.cumsum(each, 0) / np.arange(1, len(logits) + 1)[:, None, None]


def stopped_at(running: np.ndarray, threshold: float) -> np.ndarray:
    """`(N,)` the exit, from 0, at which each example is first sure, or the last one."""
    sure = running.max(-1) >= threshold
    sure[-1] = True
    return sure.argmax(0)


if __name__ == "__main__":
    app.run(main)
