"""How long a training step takes on this machine with and without XLA.

python -m scripts.bench.jit --batch=32 --steps=20
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import keras
import numpy as np

from kd_keras import Distiller, methods, models

MODELS = ("mlp", "resnet8", "mobilenet_v2", "shufflenet_v2")


def measure(name: str, jit: bool, batch: int, steps: int) -> tuple[float, float]:
    """Seconds until the first step is done, and the median milliseconds of the later ones."""
    keras.utils.set_random_seed(0)
    teacher, student = (models.build(network, (32, 32, 3), 10) for network in ("resnet8", name))
    distiller = Distiller(student=student, teacher=teacher, methods=[methods.KD()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss=loss, jit_compile=jit)
    x, y = np.random.default_rng(0).uniform(0, 255, (batch, 32, 32, 3)).astype("float32"), np.zeros(batch, "int64")
    moments = [time.perf_counter()]
    for _ in range(steps + 1):
        distiller.train_on_batch(x, y)
        moments.append(time.perf_counter())
    seconds = [after - before for before, after in itertools.pairwise(moments)]
    return seconds[0], 1000 * statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    print("| student of resnet8 | first step, s | with XLA, s | step, ms | with XLA, ms |")
    print("|---|---:|---:|---:|---:|")
    for name in MODELS:
        plain, xla = (measure(name, jit, options.batch, options.steps) for jit in (False, True))
        print(f"| {name} | {plain[0]:.1f} | {xla[0]:.1f} | {plain[1]:.1f} | {xla[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
