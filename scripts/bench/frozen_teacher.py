"""What a frozen copy of a teacher costs in answers and saves in time, by precision.

    python -m scripts.bench.frozen_teacher --teacher=runs/resnet20_strong --dataset=cifar10 --timed=vgg13:32:32

Of a trained teacher: its accuracy on the test images, how often the copy answers as the network does, how far its
logits and distributions are, and the bytes of its weights. Of networks to be timed, name:pixels:batch, milliseconds a
pass, all copies in turns.
"""

from collections.abc import Iterator
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from experiments.runs import load_model, load_result
from kd_keras import data, frozen, models
from kd_keras.evaluation.agreement import agreement
from kd_keras.evaluation.base import Predictions, predict
from kd_keras.evaluation.cost import milliseconds
from kd_keras.networks.freezing import PRECISIONS
from scripts.bench.measuring import machine

FLAGS = flags.FLAGS
flags.DEFINE_string("teacher", None, "A finished run.")
flags.DEFINE_string("dataset", "cifar10", "Images to ask it about, as experiments.train names them.")
flags.DEFINE_string("data_dir", None, "Where the datasets are.")
flags.DEFINE_multi_string("timed", [], "A network of the zoo to be timed, as name:pixels:batch; repeat it for several.")


def copies(network: keras.Model) -> dict[str, keras.Model]:
    """The network itself and a frozen copy in each precision, by the name of its row."""
    return {"the network": network} | {f"frozen, {name}": frozen(network, name) for name in PRECISIONS}


def weight_bytes(network: keras.Model) -> int:
    return sum(variable.value.dtype.size * int(np.prod(variable.shape)) for variable in network.weights)


def compared(found: Predictions, network: Predictions) -> str:
    same, apart = dict(agreement(found, network)), np.abs(found.logits - network.logits)
    how_far = f"{same['kl']:.1e} | {apart.mean():.2g} | {apart.max():.2g} of {network.logits.std():.2g}"
    return f"{found.right.mean():.4f} | {same['agreement']:.4f} | {how_far}"


def answer_table(run: str) -> None:
    record = load_result(run)["data"]
    normalisation = data.Normalisation(tuple(record["mean"]), tuple(record["std"]))
    source = data.load(FLAGS.dataset, "test", FLAGS.data_dir)
    test = data.evaluation(source, batch_size=100, normalisation=normalisation)
    made = copies(load_model(run))
    found = {name: predict(model, test) for name, model in made.items()}
    print("| | accuracy | answers alike | KL, nats | logits apart, mean | greatest, of their spread | weights, KB |")
    print("|---|" + "---:|" * 6)
    for name, model in made.items():
        print(f"| {name} | {compared(found[name], found['the network'])} | {weight_bytes(model) / 1024:.0f} |")


def timed_cells(text: str) -> Iterator[str]:
    """Of each copy of a network the milliseconds a pass and their ratio to the network's, medians of 40 in turns."""
    name, pixels, count = text.split(":")
    shape = (int(pixels), int(pixels), 3)
    keras.utils.set_random_seed(0)
    made = copies(models.build(name, shape, classes=100))
    calls = {row: tf.function(partial(model, training=False)) for row, model in made.items()}
    images = np.random.default_rng(0).normal(size=(int(count), *shape)).astype("float32")
    times = milliseconds(calls, {row: [images] for row in calls}, 40)
    for row in calls:
        ratios = np.array(times[row]) / np.array(times["the network"])
        yield f"{np.median(times[row]):.1f} ({np.median(ratios):.2f})"


def main(_: list[str]) -> None:
    if FLAGS.teacher:
        answer_table(FLAGS.teacher)
    if FLAGS.timed:
        print("\n| milliseconds a pass, and of the network's |", " | ".join(FLAGS.timed), "|")
        print("|---|" + "---:|" * len(FLAGS.timed))
        rows = ["the network", *(f"frozen, {name}" for name in PRECISIONS)]
        for row in zip(rows, *map(timed_cells, FLAGS.timed), strict=True):
            print("|", " | ".join(row), "|")
    print(f"\n{machine()}")


if __name__ == "__main__":
    app.run(main)
