"""What a frozen copy of a teacher changes in its predictions and saves in time, by precision.

    python -m scripts.bench.frozen_teacher --teacher=runs/resnet20_strong --data=cifar10 --timed=vgg13:32:32

For a trained teacher: accuracy on the test images, agreement of the copy with the network, the distance of their
logits and distributions, and the bytes of the weights. For networks to be timed, name:pixels:batch: milliseconds per
forward pass, all copies in turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from kd_keras import data, frozen, models
from kd_keras.evaluation import Predictions, agreement, predict
from kd_keras.evaluation.cost import milliseconds
from kd_keras.networks.freezing import PRECISIONS
from kd_keras.runs import load_network
from scripts.bench.measuring import machine

NETWORK = "the network"
FLAGS = flags.FLAGS
flags.DEFINE_string("teacher", None, "A finished run.")
flags.DEFINE_string("data", "cifar10", "Test images for the teacher, as experiments.train names them.")
flags.DEFINE_string("data_dir", None, "Where TFDS keeps prepared datasets.")
flags.DEFINE_multi_string("timed", [], "A network of the zoo to be timed, as name:pixels:batch; repeat it for several.")


def make_copies(network: keras.Model) -> dict[str, keras.Model]:
    """The network itself and a frozen copy in each precision, by the name of its row."""
    return {NETWORK: network} | {f"frozen, {name}": frozen(network, name) for name in PRECISIONS}


def weight_bytes(network: keras.Model) -> int:
    return sum(variable.value.dtype.size * int(np.prod(variable.shape)) for variable in network.weights)


def comparison_cells(copy: Predictions, network: Predictions) -> str:
    agreed, differences = dict(agreement(copy, network)), np.abs(copy.logits - network.logits)
    distance = f"{differences.mean():.2g} | {differences.max():.2g} of {network.logits.std():.2g}"
    return f"{copy.right.mean():.4f} | {agreed['agreement']:.4f} | {agreed['kl']:.1e} | {distance}"


def print_predictions(run: str) -> None:
    test = data.evaluation(data.load(FLAGS.data, "test", FLAGS.data_dir), batch_size=100)
    copies = make_copies(load_network(run))
    predictions = {name: predict(model, test) for name, model in copies.items()}
    print("| | accuracy | agreement | KL, nats | mean difference of logits | largest, of their spread | weights, KB |")
    print("|---|" + "---:|" * 6)
    for name, model in copies.items():
        cells = comparison_cells(predictions[name], predictions[NETWORK])
        print(f"| {name} | {cells} | {weight_bytes(model) / 1024:.0f} |")


def time_copies(text: str) -> Iterator[str]:
    """For each copy of a network: milliseconds per pass and their ratio to the network's, medians of 40 in turns."""
    name, pixels, count = text.split(":")
    shape = (int(pixels), int(pixels), 3)
    keras.utils.set_random_seed(0)
    copies = make_copies(models.build(name, shape, classes=100))
    calls = {row: tf.function(partial(model, training=False)) for row, model in copies.items()}
    images = np.random.default_rng(0).uniform(0, 255, (int(count), *shape)).astype("float32")
    times = milliseconds(calls, {row: [images] for row in calls}, 40)
    for row in calls:
        ratios = np.array(times[row]) / np.array(times[NETWORK])
        yield f"{np.median(times[row]):.1f} ({np.median(ratios):.2f})"


def main(_: list[str]) -> None:
    if FLAGS.teacher:
        print_predictions(FLAGS.teacher)
    if FLAGS.timed:
        print("\n| milliseconds per pass, and ratio to the network's |", " | ".join(FLAGS.timed), "|")
        print("|---|" + "---:|" * len(FLAGS.timed))
        rows = [NETWORK, *(f"frozen, {name}" for name in PRECISIONS)]
        for row in zip(rows, *map(time_copies, FLAGS.timed), strict=True):
            print("|", " | ".join(row), "|")
    print(f"\n{machine()}")


if __name__ == "__main__":
    app.run(main)
