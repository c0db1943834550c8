"""Compares the exits of a multi-exit network, their sum, and stopping early at several thresholds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kd_keras import data, distribute, models
from kd_keras.contracts import as_batch
from kd_keras.evaluation import accuracy, cost, latency, predict
from kd_keras.runs.candidates import resolve_data
from kd_keras.runs.recipe import Data, make_recipe
from kd_keras.runs.run import Trained, load_network, recorded_data
from kd_keras.runs.sources import open_source
from kd_keras.teacher import Teacher

THRESHOLDS = (0.6, 0.8, 0.9, 0.95, 0.99)


def compare_exits(
    model: Trained,
    *,
    baseline: Trained | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    test_data: Data | None = None,
    test_split: str | None = None,
    data_dir: str | None = None,
    batch_size: int = 128,
    image_size: tuple[int, int] | None = None,
) -> Iterator[str]:
    """Measures a network with exits, and yields the lines of two Markdown tables.

    In the scope of a strategy the replicas divide the predictions, and only the chief measures times and yields.

    Args:
        model: a trained network with exits.
        baseline: the same network without exits, to compare with.
        thresholds: inference stops at the first exit whose largest probability is at least the threshold.
        test_data: images to test on; by default those of the run.
        test_split: the split of `test_data`; by default that of the run.
        data_dir: where TFDS keeps prepared datasets; by default that of the run.
        batch_size: images per step.
        image_size: (height, width) of the images; by default those of the run.

    Raises:
        ValueError: if a network does not exist or has no exits, or if the images are not known.
    """
    strategy, record = tf.distribute.get_strategy(), recorded_data(model)
    given = {"test_split": test_split, "data_dir": data_dir, "image_size": image_size}
    used = make_recipe(**resolve_data(test_data, model, given))
    with distribute.chief_first(strategy):
        source = open_source(used.data, used.test_split, used.data_dir, **used.reading)
    size = used.image_size or tuple(record.get("image_shape", source.image_shape) or ())[:2]
    if not size:
        raise ValueError(f"The images of {source.name} differ in size. Pass image_size=(height, width).")
    images = data.evaluation(source, batch_size=batch_size, image_size=size)
    network = load_network(model)
    exits = {
        f"exit {number}": models.single_exit(network, number) for number in range(1, models.exit_count(network) + 1)
    }
    networks = {**exits, "sum of the exits": network}
    if baseline is not None:
        networks["baseline without exits"] = load_network(baseline)
    predictions = {name: predict(Teacher(member), images) for name, member in networks.items()}
    if not distribute.is_chief(strategy):
        return
    sample = np.asarray(as_batch(next(iter(images))).inputs)
    yield f"{source.size:,} test images of {source.name}."
    yield "Milliseconds of one image: the median in the first table, the mean in the second with its early stops.\n"
    yield from _cost_table(networks, predictions, sample)
    yield ""
    yield from _threshold_table(network, [predictions[name] for name in exits], thresholds, sample)


def _cost_table(networks: dict[str, keras.Model], predictions: dict[str, Any], sample: np.ndarray) -> Iterator[str]:
    yield "| prediction | parameters | multiply-accumulates | milliseconds | accuracy |"
    yield "|---|---:|---:|---:|---:|"
    times = latency({name: (network, sample) for name, network in networks.items()})
    for name, network in networks.items():
        row = dict(cost(network, sample.shape[1:])) | dict(accuracy(predictions[name])) | times[name]
        cells = f"{row['parameters']:,} | {row['macs']:,} | {row['milliseconds']:.2f} | {row['accuracy']:.4f}"
        yield f"| {name} | {cells} |"


def _threshold_table(
    network: keras.Model, predictions: Sequence[Any], thresholds: Sequence[float], sample: np.ndarray
) -> Iterator[str]:
    stops = " | ".join(f"stop at exit {number + 1}" for number in range(len(predictions)))
    yield f"| threshold | {stops} | milliseconds | accuracy |"
    yield "|---" * (len(predictions) + 3) + "|"
    running = running_means([prediction.logits for prediction in predictions])
    for threshold in thresholds:
        stopped = stopping_exits(running, threshold)
        is_correct = running.argmax(-1)[stopped, np.arange(len(stopped))] == predictions[0].labels
        fractions = " | ".join(f"{(stopped == number).mean():.3f}" for number in range(len(predictions)))
        milliseconds = mean_milliseconds(models.EarlyExit(network, threshold), sample)
        yield f"| {threshold:g} | {fractions} | {milliseconds:.2f} | {is_correct.mean():.4f} |"


def mean_milliseconds(model: keras.Model, images: np.ndarray) -> float:
    """The mean time of one image: if images stop at different exits, a median would be the time of only one exit."""
    forward = tf.function(lambda image: model(image, training=False))
    forward(tf.constant(images[:1]))
    started = time.perf_counter()
    for image in images:
        forward(tf.constant(image[None])).numpy()
    return 1000 * (time.perf_counter() - started) / len(images)


def running_means(logits: Sequence[np.ndarray]) -> np.ndarray:
    """The mean prediction of the first exit, of the first two, ...: `(exits, N, K)` probabilities.

    >>> running_means([np.zeros((1, 2)), np.zeros((1, 2))])[1].tolist()
    [[0.5, 0.5]]
    """
    probabilities = np.stack([tf.nn.softmax(values).numpy() for values in logits])
    return np.cumsum(probabilities, 0) / np.arange(1, len(logits) + 1)[:, None, None]


def stopping_exits(running: np.ndarray, threshold: float) -> np.ndarray:
    """`(N,)` the first exit, from 0, whose largest probability is at least the threshold, or the last exit.

    >>> stopping_exits(np.array([[[0.6, 0.4]], [[0.9, 0.1]]]), 0.8).tolist()
    [1]
    """
    certain = running.max(-1) >= threshold
    certain[-1] = True
    return certain.argmax(0)
