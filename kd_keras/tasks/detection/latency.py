"""How long does a detector take for an image, with and without non-maximum suppression?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from kd_keras.evaluation.cost import milliseconds
from kd_keras.tasks.detection.predictions import DetectionNetwork


def latency(
    networks: Mapping[str, tuple[DetectionNetwork, np.ndarray]], runs: int = 100, **options: Any
) -> dict[str, dict[str, float]]:
    """Times detectors on this machine, one run of each in turn, so that other load affects all of them alike.

    Args:
        networks: by name, a detector and `(N, H, W, C)` images as it reads them.
        runs: the number of timed runs with one image, 100 by default, after 10 that are not timed.
        **options: of `kd_keras.detection.decoding.detect`.

    Returns:
        By name `milliseconds` and `milliseconds_p95`, the median and the 95th percentile of the time from an image to
        its detections, and `milliseconds_heads` and `milliseconds_heads_p95`, those to the outputs of the heads.

    >>> from kd_keras import models
    >>> network = models.build("detector/resnet8", (16, 16, 3), 2, pyramid=(2,), width=8)
    >>> times = latency({"small": (network, np.zeros((1, 16, 16, 3), "float32"))}, runs=5)["small"]
    >>> 0 < times["milliseconds_heads"] < times["milliseconds"] <= times["milliseconds_p95"]
    True
    """
    inputs = {name: [image[None] for image in images] for name, (_, images) in networks.items()}
    findings: dict[str, dict[str, float]] = {name: {} for name in networks}
    whole = {name: tf.function(partial(network.detect, **options)) for name, (network, _) in networks.items()}
    heads = {name: tf.function(partial(network, training=False)) for name, (network, _) in networks.items()}
    for suffix, calls in (("", whole), ("_heads", heads)):
        for name, times in milliseconds(calls, inputs, runs).items():
            findings[name][f"milliseconds{suffix}"] = float(np.median(times))
            findings[name][f"milliseconds{suffix}_p95"] = float(np.percentile(times, 95))
    return findings
