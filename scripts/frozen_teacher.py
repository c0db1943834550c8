"""What a frozen copy of a trained teacher costs in answers and saves in time, by precision.

    python -m scripts.frozen_teacher --teacher=runs/resnet20_strong --dataset=cifar10

Its accuracy on the test images, how often it answers as the network does and how far its logits and distributions are,
the bytes of its weights, and milliseconds a batch of 64, all precisions in turns.
"""

from functools import partial

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from experiments.runs import load_model, load_result
from kd_keras import data, frozen
from kd_keras.evaluation.agreement import agreement
from kd_keras.evaluation.base import Answers, answers
from kd_keras.evaluation.cost import milliseconds
from kd_keras.freezing import PRECISIONS
from scripts.measuring import machine

BATCH = 64
FLAGS = flags.FLAGS
flags.DEFINE_string("teacher", "runs/resnet20_strong", "A finished run.")
flags.DEFINE_string("dataset", "cifar10", "Images to ask it about, as experiments.train names them.")
flags.DEFINE_string("data_dir", None, "Where the datasets are.")


def weight_bytes(network: keras.Model) -> int:
    return sum(variable.value.dtype.size * int(np.prod(variable.shape)) for variable in network.weights)


def row(found: Answers, network: Answers) -> str:
    same, apart = dict(agreement(found, network)), np.abs(found.logits - network.logits)
    accuracy, spread = found.right.mean(), network.logits.std()
    how_far = f"{same['kl']:.1e} | {apart.mean():.2g} | {apart.max():.2g} of {spread:.2g}"
    return f"{accuracy:.4f} | {same['agreement']:.4f} | {how_far}"


def main(_: list[str]) -> None:
    record = load_result(FLAGS.teacher)["data"]
    normalisation = data.Normalisation(tuple(record["mean"]), tuple(record["std"]))
    source = data.load(FLAGS.dataset, "test", FLAGS.data_dir)
    test = data.evaluation(source, batch_size=BATCH, normalisation=normalisation)
    network = load_model(FLAGS.teacher)
    models = {"the network": network} | {f"frozen, {name}": frozen(network, name) for name in PRECISIONS}
    found = {name: answers(model, test) for name, model in models.items()}
    images = np.array(next(iter(test))[0])
    calls = {name: tf.function(partial(model, training=False)) for name, model in models.items()}
    times = milliseconds(calls, {name: [images] for name in models}, 40)
    heads = ("accuracy", "answers alike", "KL, nats", "logits apart, mean", "greatest, of their spread")
    print("| |", " | ".join((*heads, "weights, KB", "ms a batch", "of the network's")), "|")
    print("|---|" + "---:|" * 8)
    for name, model in models.items():
        ratios = np.array(times[name]) / np.array(times["the network"])
        print(f"| {name} | {row(found[name], found['the network'])} | {weight_bytes(model) / 1024:.0f} |", end=" ")
        print(f"{np.median(times[name]):.1f} | {np.median(ratios):.2f} |")
    print(f"\n{machine()}")


if __name__ == "__main__":
    app.run(main)
