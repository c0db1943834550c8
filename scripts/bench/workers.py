"""How much faster two workers of one core each are than one worker of one core, and where the time goes.

    python -m scripts.bench.workers --batch=32 --steps=40

One step of distillation (resnet20 to resnet8, 32x32 images, KD) with `batch` images per worker, timed in four ways: one
worker by itself; two processes that do not know of each other (the cost of sharing the machine); two workers of one
strategy; and only the reductions that the two workers need, without other work.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

    from kd_keras import Distiller

ROOT = Path(__file__).parent.parent.parent
WARM_UP = 5  # steps


def time_steps(kind: str, core: int, batch: int, steps: int) -> list[float]:
    """In a worker process: the seconds of each step after the warm-up."""
    os.sched_setaffinity(0, {core})
    import numpy as np
    import tensorflow as tf

    from kd_keras import distribute

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    strategy = distribute.strategy("auto")
    with strategy.scope():
        distiller = build_distiller()
    images = np.random.default_rng(0).uniform(0, 255, (batch, 32, 32, 3)).astype("float32")
    dataset = tf.data.Dataset.from_tensors((images, np.zeros(batch, "int64"))).repeat()
    data = distribute.batches(strategy, lambda batch_slice: dataset)
    iterator = iter(data)
    distiller.build_from(data.element_spec)
    distiller.make_train_function()
    step = make_reductions(strategy, distiller) if kind == "reductions" else distiller.train_function
    moments = []
    for _ in range(steps + WARM_UP + 1):
        moments.append(time.perf_counter())
        step(iterator)
    return [after - before for before, after in itertools.pairwise(moments[WARM_UP:])]


def build_distiller() -> Distiller:
    import keras

    from kd_keras import Distiller, methods, models

    teacher, student = (models.build(name, (32, 32, 3), 10) for name in ("resnet20", "resnet8"))
    distiller = Distiller(student=student, teacher=teacher, methods=[methods.KD()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss=loss, jit_compile=False)
    return distiller


def make_reductions(strategy: tf.distribute.Strategy, distiller: Distiller) -> Callable[[Any], Any]:
    """A step of only the reductions over replicas: of all gradients, and of the guard's small vector."""
    import tensorflow as tf

    def reductions() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce("sum", [tf.ones(v.shape) for v in distiller.trainable_variables])
        guard = context.all_reduce("sum", tf.ones(6))
        return tf.add_n([tf.reduce_sum(g) for g in gradients]) + tf.reduce_sum(guard) + context.all_reduce("sum", 1.0)

    run = tf.function(lambda: strategy.run(reductions))
    return lambda iterator: run()


def time_workers(kind: str, count: int, options: argparse.Namespace) -> float:
    """The median milliseconds of a step over all workers."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    cluster = {"worker": [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]}
    for server in sockets:
        server.close()
    processes = []
    for index in range(count):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment.pop("TF_CONFIG", None)
        if kind != "separate":
            environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        command = [sys.executable, __file__, f"--kind={kind}", f"--core={index}"]
        command += [f"--batch={options.batch}", f"--steps={options.steps}"]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
    outputs = [process.communicate()[0] for process in processes]
    return 1000 * statistics.median(seconds for output in outputs for seconds in json.loads(output.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="images per worker and step")
    parser.add_argument("--steps", type=int, default=40, help="steps to time")
    parser.add_argument("--repeats", type=int, default=3, help="whole measurements, one after the other")
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        print(json.dumps(time_steps(options.kind, options.core, options.batch, options.steps)))
        return
    print("| one worker, ms | two separate, ms | two workers, ms | reductions only, ms | images a second, two to one |")
    print("|---:|---:|---:|---:|---:|")
    for _ in range(options.repeats):
        one, separate = time_workers("separate", 1, options), time_workers("separate", 2, options)
        two, reductions = time_workers("step", 2, options), time_workers("reductions", 2, options)
        print(f"| {one:.1f} | {separate:.1f} | {two:.1f} | {reductions:.1f} | {2 * one / two:.2f} |", flush=True)


if __name__ == "__main__":
    main()
